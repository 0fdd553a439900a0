"""The library of expressions, without the command line that its package imports with it."""

from sidecar.domain.slim_imports import empty

__all__ = ["cel"]

# A library for terminals, which is 200 modules and 9 MiB.
with empty("cel.cli"):
    import cel
