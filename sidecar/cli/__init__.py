"""
The `sidecar` command.

Exit codes: 0 done, 1 it was tried and did not hold (a check, a comparison), 2 usage or
configuration, 3 a store or provider is away.
"""

import os
import sys

from sidecar.cli import serve
from sidecar.domain.errors import ConfigError, SidecarError, StoreUnavailable

EXIT_CONFIG = 2
EXIT_UNAVAILABLE = 3


def app() -> None:
    """Run the command line; a server comes without the other commands, which are 3 MiB."""
    if sys.argv[1:2] in (["serve"], ["worker"]):
        serve.app()
        return
    from sidecar.cli import commands

    commands.app()


def main() -> None:
    """Run the command; what we raise on purpose becomes a message and an exit code."""
    if sys.flags.optimize:
        # Asserts state our invariants about money; without them a bug would go on counting.
        print("sidecar does not run under python -O", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    # Our children are started with exec at once, so gRPC has nothing to prepare for a fork;
    # left on, it writes a warning for each.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        app()
    except ConfigError as error:
        print(f"sidecar: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except StoreUnavailable as error:
        print(f"sidecar: {error}", file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)
    except SidecarError as error:
        print(f"sidecar: {error}", file=sys.stderr)
        sys.exit(1)
