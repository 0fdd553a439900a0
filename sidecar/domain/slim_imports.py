"""Libraries without what they bring along and a server never uses: memory and time of the start."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

_ABSENT: Final = object()


@contextmanager
def unavailable(*names: str) -> Iterator[None]:
    """What is imported inside finds these modules not installed, and does without them."""
    with _instead(dict.fromkeys(names)):
        yield


@contextmanager
def empty(*names: str) -> Iterator[None]:
    """What is imported inside finds nothing in these modules, and must not ask for anything."""
    with _instead({name: ModuleType(name) for name in names}):
        yield


@contextmanager
def _instead(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    before = {name: sys.modules.get(name, _ABSENT) for name in modules}
    # None is what Python's import takes for "it is not there"; its type does not say so.
    sys.modules.update(modules)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in before.items():
            if isinstance(module, ModuleType):
                sys.modules[name] = module
            else:
                # Whoever wants the real one later finds it.
                sys.modules.pop(name, None)
