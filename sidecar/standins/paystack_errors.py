"""Errors in Paystack's shape. Source: https://paystack.com/docs/api/errors/."""

from typing import Any


class PaystackError(Exception):
    """An answer that says no."""

    def __init__(self, status: int, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code

    def body(self) -> dict[str, Any]:
        """As Paystack words it."""
        body: dict[str, Any] = {"status": False, "message": self.message}
        if self.code:
            body |= {"type": "validation_error", "code": self.code}
        return body


def take(
    params: dict[str, Any], known: dict[str, type | tuple[type, ...]], needed: tuple[str, ...]
) -> dict[str, Any]:
    """
    A body's parameters, all of them known and of their type.

    Raises:
        PaystackError: One is missing, unknown or of another type.
    """
    for name, value in params.items():
        if name not in known:
            raise PaystackError(400, f"Stand-in: {name} is not modelled", code="invalid_params")
        kinds = known[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in _each(kinds)):
            raise PaystackError(400, f"{name} must be another type", code="invalid_params")
    for name in needed:
        if params.get(name) in (None, "", []):
            raise PaystackError(400, f"{name} is required", code="missing_params")
    return params


def _each(kinds: type | tuple[type, ...]) -> tuple[type, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)
