"""
Frozen dataclasses, filled as fast as ones that are not.

The constructor of a frozen dataclass sets each field by a call of `object.__setattr__`. Settlement
decodes seven such values an event, 68 fields, and that was a third of the work of decoding.
"""

from dataclasses import fields
from typing import Any, TypeVar

_Frozen = TypeVar("_Frozen")


def thawed(frozen: type[_Frozen]) -> type[Any]:
    """
    Make a subclass whose new instances are empty and can be filled, each field once by its name.

    Nobody but the function that fills such an instance may see it before `freeze`.

    Args:
        frozen: A dataclass with slots.
    """
    names = {field.name for field in fields(frozen)}  # type: ignore[arg-type]
    assert names == set(frozen.__slots__), frozen  # type: ignore[attr-defined]
    return type(
        f"Open{frozen.__name__}",
        (frozen,),
        {
            "__slots__": (),
            "__init__": object.__init__,
            # Both: the interpreter stores without a call only where neither is overridden.
            "__setattr__": object.__setattr__,
            "__delattr__": object.__delattr__,
            "__doc__": f"A {frozen.__name__} that is being filled.",
        },
    )


def freeze(filled: Any, frozen: type[_Frozen]) -> _Frozen:
    """
    Make a filled instance one of the frozen class.

    What its `__post_init__` would refuse is for the caller to check.
    """
    filled.__class__ = frozen
    return filled  # type: ignore[no-any-return]
