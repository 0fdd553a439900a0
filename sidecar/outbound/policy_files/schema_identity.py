"""The table of `identity`: every kind of source, and the forms of what it names."""

import ipaddress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from sidecar.domain.errors import InvalidInput
from sidecar.domain.nearest import name_list, unknown
from sidecar.outbound.policy_files import texts
from sidecar.outbound.policy_files.reading import Invalid, JsonSchema, Reader
from sidecar.outbound.policy_files.records import Field, ListOf, Record
from sidecar.outbound.policy_files.scalars import Choice, Flag, Text
from sidecar.outbound.policy_files.sections import Section

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Asymmetric ones alone: with HS256 a public key would be the secret, `none` has no signature."""
ALGORITHMS_DEFAULT = ("RS256", "ES256")
CONSUMER_FIELDS = ("custom_id", "username", "id")
CERTIFICATE_GROUPS = ("customer", "team", "user")
_OWN_PREFIX = "x-sidecar-"
_DEPTH_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class OneKind(Record):
    """A record of which exactly one key is written."""

    def read(self, node: yaml.Node, reader: Reader) -> Section | Invalid:
        """The record."""
        # Not super(): a class with slots is made anew, and super() would mean the old one.
        section = Record.read(self, node, reader)
        if isinstance(section, Section) and section.sound and len(section.written) != 1:
            kinds = name_list(self.fields)
            written = name_list(section.written)
            return reader.refuse(
                node,
                f"{self.name} names {written}; expected exactly one of: {kinds}; "
                "write an entry for each",
            )
        return section

    def definition(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """The object itself."""
        return {**Record.definition(self, defs), "minProperties": 1, "maxProperties": 1}


def _header(text: str) -> str:
    name = text.lower()
    if name.startswith(_OWN_PREFIX):
        raise InvalidInput(
            f"header {text!r} is never seen: names that begin with {_OWN_PREFIX} are Sidecar's "
            "own, and callers' copies are dropped; use another name"
        )
    return name


def _claim(text: str) -> str:
    if len(text.split(".")) > _DEPTH_MAX:
        raise InvalidInput(f"claim {text[:40]!r} leads more than {_DEPTH_MAX} levels inwards")
    return text


def _certificate_pattern(text: str) -> Any:
    pattern = texts.compile_pattern(text)
    for group in pattern.groupindex:
        if group not in CERTIFICATE_GROUPS:
            raise InvalidInput(unknown("group", group, CERTIFICATE_GROUPS))
    if "customer" not in pattern.groupindex:
        raise InvalidInput(
            f"{text[:80]!r} has no group for the customer; write (?P<customer>...) in it"
        )
    return pattern


def _key_set(text: str) -> str:
    if text.startswith("/"):
        return text
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if parts.username is not None or parts.password is not None:
        # The message leaves the URL out: it may carry a password.
        raise InvalidInput("a key set's URL with a user or password is not allowed")
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise InvalidInput(
            f"found {text[:80]!r}; expected an https:// URL, or a file's path that begins with /"
        )
    if parts.scheme == "http" and not _is_loopback(host):
        raise InvalidInput(
            f"found {text[:80]!r}; http is allowed for this machine only, such as "
            "http://127.0.0.1: whoever can change the keys can be anybody"
        )
    return text


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_TOKEN = "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}"  # noqa: S105  RFC 9110's word for a header name.
HEADER = Text(what="a header name", pattern=_TOKEN, parse=_header)
CLAIM = Text(
    what="a claim's name, or names with dots between that lead inwards",
    pattern=r"[^\x00-\x1f\x7f]+",
    parse=_claim,
)
NAMESPACE = Text(
    what="a metadata namespace such as envoy.filters.http.jwt_authn",
    pattern=r"[A-Za-z0-9_.:/-]{1,200}",
)
PAYLOAD = Text(
    what="the key that payload_in_metadata of jwt_authn names", pattern=r"[^\x00-\x1f\x7f]+"
)
ISSUER = Text(what="the tokens' `iss` claim, exactly", pattern=r"[\x21-\x7e]+", length_max=255)
AUDIENCE = Text(what="an `aud` claim, exactly", pattern=r"[\x21-\x7e]+", length_max=255)
KEY_SET = Text(
    what="an https:// URL, or a file's path that begins with /",
    pattern=r"[\x21-\x7e]+",
    length_max=1_000,
    parse=_key_set,
)
CERTIFICATE_PATTERN = Text(
    what="an RE2 pattern over the whole name",
    length_max=texts.PATTERN_LENGTH_MAX,
    parse=_certificate_pattern,
)

API_KEY = Record(
    name="api_key",
    doc="An API key in a header.",
    fields={
        "headers": Field(
            spec=ListOf(HEADER),
            doc="Headers that may carry the key, in order; authorization carries it as a Bearer.",
            required=True,
        ),
        "remove": Field(
            spec=Flag(), doc="Whether the header is hidden from the upstream.", default=True
        ),
    },
)
JWT = Record(
    name="jwt",
    doc="Claims of a JSON Web Token: verified by the gateway (metadata), or here (issuer, jwks).",
    fields={
        "metadata": Field(
            spec=NAMESPACE, doc="Namespace of the gateway's dynamic metadata with the claims."
        ),
        "payload": Field(
            spec=PAYLOAD,
            doc="Key in that namespace that has the claims; absent: the only mapping in it.",
        ),
        "issuer": Field(spec=ISSUER, doc="The issuer whose tokens are verified here."),
        "jwks": Field(spec=KEY_SET, doc="URL or file of the issuer's keys (JWKS)."),
        "audiences": Field(
            spec=ListOf(AUDIENCE), doc="A token is for one of these; absent: for anybody."
        ),
        "algorithms": Field(
            spec=ListOf(Choice(ALGORITHMS)),
            doc="Signature algorithms that are taken; absent: RS256 and ES256.",
        ),
        "claim": Field(spec=CLAIM, doc="The claim that is the customer's id.", default="sub"),
        "team_claim": Field(spec=CLAIM, doc="The claim that is the team's id."),
        "user_claim": Field(spec=CLAIM, doc="The claim that is the user's id."),
        "remove": Field(
            spec=Flag(),
            doc="With issuer: whether the token is hidden from the upstream; absent: true.",
        ),
    },
)
CERTIFICATE = Record(
    name="certificate",
    doc="The name in a client certificate that the gateway verified (mTLS).",
    fields={
        "pattern": Field(
            spec=CERTIFICATE_PATTERN,
            doc="RE2 over the whole name, with a group customer, and team and user if wanted.",
            required=True,
        )
    },
)
CONSUMER = Record(
    name="consumer",
    doc="Kong's authenticated consumer.",
    fields={
        "field": Field(
            spec=Choice(CONSUMER_FIELDS),
            doc="Which of its fields is the customer's id.",
            default="custom_id",
        )
    },
)
HEADER_SOURCE = Record(
    name="header",
    doc="Headers that are believed as they stand: the gateway must set or strip them.",
    fields={
        "customer": Field(spec=HEADER, doc="The header that is the customer's id.", required=True),
        "team": Field(spec=HEADER, doc="The header that is the team's id."),
        "user": Field(spec=HEADER, doc="The header that is the user's id."),
    },
)
IDENTITY = OneKind(
    name="identity source",
    doc="Where a caller's identity is read from; exactly one kind an entry.",
    fields={
        "api_key": Field(spec=API_KEY, doc="An API key in a header."),
        "jwt": Field(spec=JWT, doc="Claims of a JSON Web Token."),
        "certificate": Field(spec=CERTIFICATE, doc="A client certificate's name (mTLS)."),
        "consumer": Field(spec=CONSUMER, doc="Kong's authenticated consumer."),
        "header": Field(spec=HEADER_SOURCE, doc="Headers that the operator vouches for."),
    },
)
