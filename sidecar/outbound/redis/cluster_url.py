"""How a cluster is named in settings: `redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT`."""

from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from sidecar.domain.errors import ConfigError

SEEDS_MAX = 64
_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_PORT = 6_379
_PORT_MAX = 65_535


class Node(NamedTuple):
    """Where a server of the cluster listens, as the cluster announces it."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAddress:
    """
    Nodes to ask first, and how to speak with all of them.

    Attributes:
        scheme: `redis` or `rediss`, of every node.
        user_info: `user:password@` as written, or empty.
        options: What stood behind the `?`.
        seeds: At least one of them must answer at the start; the others are found.
    """

    scheme: str
    user_info: str = field(repr=False)
    options: str = field(repr=False)
    seeds: tuple[Node, ...]

    def url(self, node: Node) -> str:
        """One node's URL; holds the password."""
        host = f"[{node.host}]" if ":" in node.host else node.host
        query = f"?{self.options}" if self.options else ""
        return f"{self.scheme}://{self.user_info}{host}:{node.port}/0{query}"


def is_cluster_url(url: str) -> bool:
    """Whether a URL means a cluster rather than one server."""
    return url.partition("://")[0] in _SCHEMES


def parse_cluster_url(url: str) -> ClusterAddress:
    """
    Read a cluster's URL.

    Raises:
        ConfigError: If it cannot be used; never quotes it, since a password may stand in it.
    """
    scheme, _, rest = url.partition("://")
    end = _end_of_nodes(rest)
    user_info, at, nodes = rest[:end].rpartition("@")
    try:
        # Of several nodes, some in brackets, `urlsplit` makes one host, or refuses to.
        parts = urlsplit(f"{scheme}://node{rest[end:]}")
        seeds = _seeds(nodes, parts)
    except ValueError as error:
        raise ConfigError(
            "redis_url must be redis+cluster://HOST:PORT,HOST:PORT (or rediss+cluster://...), "
            f"with USER:PASSWORD@ before and ?OPTION=VALUE behind the nodes where needed: {error}"
        ) from None
    return ClusterAddress(
        scheme=_SCHEMES[scheme],
        user_info=user_info + at,
        options=parts.query,
        seeds=seeds,
    )


def _end_of_nodes(rest: str) -> int:
    """Where in what follows `://` the path, the options or a fragment begin."""
    return min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))


def _seeds(nodes: str, parts: SplitResult) -> tuple[Node, ...]:
    if parts.path not in {"", "/", "/0"} or parts.fragment:
        raise ValueError("a cluster has no databases to choose from")
    texts = nodes.split(",")
    if len(texts) > SEEDS_MAX:
        raise ValueError(f"more than {SEEDS_MAX} nodes")
    return tuple(dict.fromkeys(_node(text.strip()) for text in texts))


def _node(text: str) -> Node:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(_PORT)
    is_bare = not host.startswith("[")
    host = host.removeprefix("[").removesuffix("]")
    if not host or (is_bare and ":" in host):
        raise ValueError("a node must be HOST, HOST:PORT or [IPV6]:PORT")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= _PORT_MAX):
        raise ValueError(f"a node's port must be 1 to {_PORT_MAX}")
    return Node(host, int(port))
