"""From a request's bytes to a checked model: bounded, strict JSON, and words for what is wrong."""

import asyncio
import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar, get_args

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sidecar.inbound.http.problems import FieldError, ProblemCode, ProblemError

BODY_BYTES_MAX = 1_048_576
BODY_SECONDS_MAX = 10
"""How long a client may take to send its body; then its place goes to another."""

DEPTH_MAX = 32
_ERRORS_MAX = 20
_QUERY_LENGTH_MAX = 8_000

M = TypeVar("M", bound=BaseModel)


async def read_model(request: web.Request, model: type[M]) -> M:
    """
    Read a JSON body into a model.

    Raises:
        ProblemError: 400, 408, 413 or 415 with the reason.
    """
    _check_media_type(request)
    return check_model(model, parse_json(await read_bytes(request)))


def parse_json(data: bytes) -> Any:
    """
    Parse strict JSON: UTF-8, no repeated keys, no NaN, at most DEPTH_MAX levels.

    A repeated key is refused because readers disagree on which of the two counts.

    Raises:
        ProblemError: 400 with the reason.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        _refuse(f"the body is not UTF-8 (at byte {error.start})", error)
    except json.JSONDecodeError as error:
        _refuse(f"the body is not JSON: {error.msg} (at character {error.pos})", error)
    except RecursionError as error:
        _refuse(f"the body is nested deeper than {DEPTH_MAX} levels", error)
    except ValueError as error:
        # Python's limit on the digits of one number.
        _refuse("the body holds a number with too many digits", error)
    _check_values(value)
    return value


def check_model(model: type[M], value: object) -> M:
    """Check a JSON value against a model. Raises ProblemError 400 that names each wrong part."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = field_errors(error, model)
    raise ProblemError(
        ProblemCode.INVALID_REQUEST,
        "; ".join(f"{error.field}: {error.message}" for error in errors[:3]),
        errors=errors,
    )


def read_query(request: web.Request, model: type[M] | None) -> M | None:
    """Check the query's parameters against a model; without one there may be none."""
    query = request.rel_url.query
    names = [name for name, _ in query.items()]
    if len(request.rel_url.raw_query_string) > _QUERY_LENGTH_MAX:
        _refuse(f"the query is longer than {_QUERY_LENGTH_MAX} characters")
    for name in names:
        if names.count(name) > 1:
            raise ProblemError.of_field(name[:64], "is given more than once")
    if model is not None:
        return check_model(model, dict(query))
    if names:
        raise ProblemError.of_field(names[0][:64], "this resource takes no parameters")
    return None


def field_errors(error: ValidationError, model: type[BaseModel]) -> tuple[FieldError, ...]:
    """What is wrong with each part, in words that name the part and never quote its value."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return tuple(_field_error(detail, model) for detail in details[:_ERRORS_MAX])


def _field_error(detail: ErrorDetails, model: type[BaseModel]) -> FieldError:
    where = [str(part) for part in detail["loc"]]
    field = ".".join(where)[:200] or "body"
    if detail["type"] == "extra_forbidden":
        return FieldError(field=field, message=_unknown_field(where, model))
    if detail["type"] == "missing":
        return FieldError(field=field, message="is required")
    return FieldError(field=field, message=detail["msg"].removeprefix("Value error, "))


def _unknown_field(where: list[str], model: type[BaseModel]) -> str:
    allowed = _allowed_names(where[:-1], model)
    nearest = difflib.get_close_matches(where[-1][:64], allowed, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"is not a known field; allowed: {', '.join(allowed)}{hint}"


def _allowed_names(where: Iterable[str], model: type[BaseModel]) -> list[str]:
    """Names of the fields of the model at a place inside another."""
    for name in where:
        field = model.model_fields.get(name)
        inner = [field.annotation, *get_args(field.annotation)] if field else []
        model = next(
            (kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)),
            model,
        )
    return list(model.model_fields)


def _check_media_type(request: web.Request) -> None:
    charset = request.charset
    if request.content_type != "application/json" or (charset or "utf-8").lower() != "utf-8":
        raise ProblemError(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json in UTF-8"
        )
    # A compressed body is refused rather than unpacked: a small one can hide a large one.
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ProblemError(ProblemCode.UNSUPPORTED_MEDIA_TYPE, "the body must not be compressed")


async def read_bytes(request: web.Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """
    Read a body as it comes, bounded in size and time.

    Raises:
        ProblemError: 408 or 413.
    """
    too_large = ProblemError(
        ProblemCode.BODY_TOO_LARGE, f"the body is larger than {bytes_max} bytes"
    )
    if (request.content_length or 0) > bytes_max:
        raise too_large
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            data = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except TimeoutError:
        raise ProblemError(
            ProblemCode.REQUEST_TIMEOUT, f"the body did not come within {BODY_SECONDS_MAX} s"
        ) from None
    if len(data) > bytes_max:
        raise too_large
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                shown = name[:64].encode("ascii", "backslashreplace").decode()
                raise ProblemError.of_field(shown, "stands twice in one object")
            seen.add(name)
    return value


def _no_constant(name: str) -> NoReturn:
    _refuse(f"the body holds {name}, which is not JSON")


def _check_values(value: object) -> None:
    """Bound the depth, and refuse halves of surrogate pairs: no UTF-8 text can hold them."""
    level: list[object] = [value]
    for _ in range(DEPTH_MAX):
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, Mapping):
                below.extend(item)
                below.extend(item.values())
        if not below:
            return
        level = below
    _refuse(f"the body is nested deeper than {DEPTH_MAX} levels")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        _refuse("the body holds half of a surrogate pair", error)


def _refuse(detail: str, cause: Exception | None = None) -> NoReturn:
    raise ProblemError(ProblemCode.INVALID_REQUEST, detail) from cause
