"""Regenerates `sidecar/wire` from the messages in this folder: `python proto/generate.py`.

Needs grpcio-tools, which brings protoc. Its version stands in what it writes: use the locked one.
"""  # noqa: INP001 - a script beside the messages, not a package.

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import resources
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent
REPOSITORY_ROOT = PROTO_ROOT.parent
WIRE = Path("sidecar", "wire")


def generate(destination: Path) -> list[Path]:
    """Write a module and its type stub for each message file; return what was written, sorted.

    `destination` is the folder that holds the package `sidecar`. A module whose messages are gone
    is removed.

    Raises:
        subprocess.CalledProcessError: protoc refused a file; it has printed why.
    """
    sources = sorted((PROTO_ROOT / WIRE).glob("*.proto"))
    wire = destination / WIRE
    wire.mkdir(parents=True, exist_ok=True)
    for stale in wire.glob("*_pb2.py*"):
        stale.unlink()
    well_known = resources.files("grpc_tools") / "_proto"
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        f"--proto_path={PROTO_ROOT}",
        f"--proto_path={well_known}",
        f"--python_out={destination}",
        f"--pyi_out={destination}",
        # Relative to the first --proto_path: the descriptor pool knows a file by this name.
        *(str(source.relative_to(PROTO_ROOT)) for source in sources),
    ]
    subprocess.run(command, check=True)  # noqa: S603 - our own interpreter and our own files.
    return sorted(wire.glob("*_pb2.py*"))


def main() -> None:
    """Regenerate the committed modules, or write them below `--out`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=REPOSITORY_ROOT,
        help="folder that holds the package `sidecar` (default: this repository)",
    )
    for path in generate(parser.parse_args().out):
        print(path)  # noqa: T201 - a script that says what it wrote.


if __name__ == "__main__":
    main()
