"""A folder of policy files to a compiled policy."""

import hashlib
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.domain.errors import ConfigError
from sidecar.domain.policy import Policy
from sidecar.outbound.policy_files.collecting import quiet_collector
from sidecar.outbound.policy_files.compile import Parts, compile_parts
from sidecar.outbound.policy_files.places import Problems
from sidecar.outbound.policy_files.reading import TAG_NULL, Reader
from sidecar.outbound.policy_files.schema import POLICY
from sidecar.outbound.policy_files.sections import Section
from sidecar.outbound.policy_files.yaml_marks import (
    DEPTH_MAX,
    DEPTH_UNSENDABLE_MAX,
    FILE_BYTES_MAX,
    compose_document,
)
from sidecar.services.policy_places import NO_PLACES, Places
from sidecar.services.rule_test_cases import RuleTest

FILES_MAX = 1_000
TOTAL_BYTES_MAX = 32_000_000
_VERSION_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPolicy:
    """A policy, the files it came from, its rules' tests, and each meter's report_every."""

    policy: Policy
    files: tuple[Path, ...]
    tests: tuple[RuleTest, ...]
    report_every: Mapping[str, int]
    """Seconds, of those meters that state it."""
    places: Places = NO_PLACES


@dataclass(frozen=True, slots=True)
class Source:
    """One file as it was read."""

    path: Path
    data: bytes


def load_policy(directory: Path) -> LoadedPolicy:
    """
    Read all *.yaml files of a folder, in the order of their names, as one policy.

    Raises:
        ConfigError: If the folder cannot be read, or naming every problem that was found:
            file:line:column, what was found, what is allowed.
    """
    return parse_policy(read_sources(directory))


def list_files(directory: Path) -> list[Path]:
    """
    The policy files of a folder, hidden ones left out.

    Raises:
        ConfigError: If there is no such folder, it has none, too many, or one named *.yml.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"policy folder {directory} cannot be read: {error.strerror}") from error
    for path in paths:
        if path.suffix == ".yml":
            raise ConfigError(f"{path} would not be read; name it {path.stem}.yaml")
    files = [path for path in paths if path.suffix == ".yaml"]
    if not files:
        raise ConfigError(f"policy folder {directory} has no *.yaml file")
    if len(files) > FILES_MAX:
        raise ConfigError(f"policy folder {directory} has more than {FILES_MAX} *.yaml files")
    return files


def read_sources(directory: Path) -> tuple[Source, ...]:
    """
    Read the folder's files into memory, bounded.

    Raises:
        ConfigError: If one cannot be read or all together are too large.
    """
    sources: list[Source] = []
    total = 0
    for path in list_files(directory):
        data = _read(path)
        total += len(data)
        if total > TOTAL_BYTES_MAX:
            raise ConfigError(
                f"the files of policy folder {directory} are larger than {TOTAL_BYTES_MAX} bytes"
            )
        sources.append(Source(path, data))
    return tuple(sources)


def content_version(sources: Sequence[Source]) -> str:
    """The first 16 hex digits of SHA-256 over the files' names and contents."""
    digest = hashlib.sha256()
    for source in sources:
        # Lengths keep a move of text from one file to the next from going unseen.
        digest.update(f"{source.path.name}\0{len(source.data)}\0".encode())
        digest.update(source.data)
    return digest.hexdigest()[:_VERSION_DIGITS]


def check_with(directory: Path, path: Path, data: bytes) -> LoadedPolicy:
    """
    The folder's policy as it would be with one file more, wherever that is to stand.

    Raises:
        ConfigError: As `load_policy`; of the file's own mistakes too.
    """
    return parse_policy((*read_sources(directory), Source(path, data)))


def parse_policy(sources: Sequence[Source], *, unsendable: bool = False) -> LoadedPolicy:
    """
    Turn files' contents into a compiled policy.

    Args:
        sources: The files.
        unsendable: Take answers and members that no gateway could carry too: statuses without
            a body, header names and values that HTTP does not have, ids and bodies of any
            size. Such a policy can be judged; it must not be served.

    Raises:
        ConfigError: Naming every problem that was found.
    """
    with quiet_collector():
        problems = Problems()
        parts = Parts()
        for source in sources:
            root = _read_file(source, problems, unsendable=unsendable)
            if root is not None:
                parts.add(root, problems)
        compiled = compile_parts(
            parts, problems, version=content_version(sources), unsendable=unsendable
        )
        return LoadedPolicy(
            policy=compiled.policy,
            files=tuple(source.path for source in sources),
            tests=compiled.tests,
            report_every=compiled.report_every,
            places=compiled.places,
        )


def _read_file(source: Source, problems: Problems, *, unsendable: bool) -> Section | None:
    """One file by itself: its form, and no name that it gives to another."""
    file = str(source.path)
    depth_max = DEPTH_UNSENDABLE_MAX if unsendable else DEPTH_MAX
    node = compose_document(file, source.data, problems, depth_max=depth_max)
    if node is None or node.tag == TAG_NULL:
        return None
    root = POLICY.read(node, Reader(file, problems, unsendable))
    return root if isinstance(root, Section) else None


def _read(path: Path) -> bytes:
    try:
        # A pipe or device would block or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"policy file {path} is not a regular file")
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"policy file {path} cannot be read: {error.strerror}") from error
