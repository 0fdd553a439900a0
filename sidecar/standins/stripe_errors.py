"""What the Stripe stand-in answers when it refuses, and what it raises when it is wrong itself."""

from collections.abc import Mapping
from typing import Any

NO_RETRY: Mapping[str, str] = {"stripe-should-retry": "false"}


class ApiError(Exception):
    """An error that the API answers with, in Stripe's shape. Source: docs.stripe.com/api/errors."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        fields = {"type": kind, "message": message, "code": code, "param": param}
        self._fields: dict[str, Any] = {**fields, **(more or {})}

    def body(self) -> dict[str, Any]:
        """The JSON body: absent fields are left out, as Stripe does."""
        return {"error": {name: value for name, value in self._fields.items() if value is not None}}


class StandinBug(Exception):  # noqa: N818 - It is a bug, of the stand-in or of the test around it.
    """The stand-in cannot go on as Stripe would: the answer is a 500 that says why."""


class ResponseDoesNotFit(StandinBug):
    """A response of the stand-in that the OpenAPI description does not allow."""


class StandinFull(StandinBug):
    """A bound of the stand-in is reached; raise the setting or send less."""


def missing(kind: str, identifier: str, *, param: str, in_path: bool) -> ApiError:
    """The refusal of an unknown id: 404 when the path names it, 400 when a parameter does."""
    return ApiError(
        404 if in_path else 400,
        f"No such {kind}: '{identifier[:100]}'",
        code="resource_missing",
        param=param,
    )


def not_modelled(what: str) -> ApiError:
    """The refusal of what Stripe has and the stand-in has not: never a silent success."""
    return ApiError(501, f"The stand-in does not model {what}.", kind="api_error", headers=NO_RETRY)


def refuse_unmodelled(params: Mapping[str, Any], modelled: frozenset[str]) -> None:
    """
    Refuse parameters that Stripe takes and the stand-in would ignore.

    Raises:
        ApiError: With status 501, naming the first of them.
    """
    for name in sorted(params.keys() - modelled):
        raise not_modelled(f"the parameter `{name}`")
