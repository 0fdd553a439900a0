"""
From a decision to Envoy's CheckResponse.

Envoy reads an empty response, and one with code 0 and a denial, as "allow". Neither can leave
here. A denial's own status may be any that a rule can ask for: Envoy answers with it and sends
nothing on.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from sidecar.domain.decisions import Allow, Deny
from sidecar.domain.errors import InvariantViolated
from sidecar.inbound.denials import word_denial
from sidecar.inbound.envoy.attributes import CheckMetadataKey
from sidecar.inbound.grpc.engine import GrpcStatus
from sidecar.wire import envoy_authz_pb2 as wire

HEADER_VALUE_LENGTH_MAX: Final = 4_096
_PARTS_MAX: Final = 1_024
"""Parts of answers that are remembered, of each kind."""
_STATUS_MIN: Final = 200
_STATUS_MAX: Final = 599
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)
_UNSAFE = re.compile(r"[^ -~]")
_FRAMING: Final = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that would break the answer, or send the request elsewhere."""


def encode_allow(allow: Allow, forged: tuple[str, ...]) -> bytes:
    """
    Word an allow.

    Args:
        allow: The decision; its headers are for the client.
        forged: The client's copies of our own headers, which the upstream must not see.
    """
    removed = (*allow.remove_headers, *forged)
    parts = [_allow_start(removed, allow.customer_id, allow.policy_version)]
    parts += [_allow_header(name, value) for name, value in allow.headers.items()]
    own = {CheckMetadataKey.DECISION_ID: allow.decision_id}
    if allow.hold is not None:
        own[CheckMetadataKey.HOLD_ID] = allow.hold.hold_id
        own[CheckMetadataKey.TOKEN] = allow.hold.token
    response = wire.CheckResponse()
    _add_metadata(response, own)
    parts.append(response.SerializeToString())
    return b"".join(parts)


@lru_cache(maxsize=_PARTS_MAX)
def _allow_start(removed: tuple[str, ...], customer_id: str, policy_version: str) -> bytes:
    """
    What allows have in common, made once.

    A message may come in parts: where both have the same message inside, readers join its
    fields. Source: protobuf.dev/programming-guides/encoding, "Last One Wins".
    """
    response = wire.CheckResponse(status=wire.Status(code=GrpcStatus.OK))
    response.ok_response.SetInParent()  # Set even if nothing is in it.
    response.ok_response.headers_to_remove.extend(name for name in removed if _NAME.fullmatch(name))
    shared = {CheckMetadataKey.CUSTOMER_ID: customer_id, CheckMetadataKey.POLICY: policy_version}
    _add_metadata(response, shared)
    return response.SerializeToString()


@lru_cache(maxsize=_PARTS_MAX)
def _allow_header(name: str, value: str) -> bytes:
    """A header for the client as a part of its own; what cannot be sent is left out."""
    response = wire.CheckResponse()
    # Not `headers`: those are for the upstream, where Envoy ignores append_action.
    response.ok_response.response_headers_to_add.extend(_header_options({name: value}))
    return response.SerializeToString()


def encode_deny(deny: Deny) -> bytes:
    """
    Word a denial.

    Raises:
        InvariantViolated: If its status is none that a rule can have; Envoy then gets an error.
    """
    words = word_denial(deny)
    if not _STATUS_MIN <= words.status <= _STATUS_MAX:
        raise InvariantViolated(f"rule {deny.rule!r} denies with status {words.status}")
    unidentified = words.status == HTTPStatus.UNAUTHORIZED
    code = GrpcStatus.UNAUTHENTICATED if unidentified else GrpcStatus.PERMISSION_DENIED
    response = wire.CheckResponse(
        status=wire.Status(code=code, message=deny.reason.value),
        denied_response=wire.DeniedHttpResponse(
            status=wire.HttpStatus(code=words.status), body=words.body_bytes().decode()
        ),
    )
    response.denied_response.headers.extend(_header_options(words.headers))
    _add_metadata(
        response,
        {
            CheckMetadataKey.CUSTOMER_ID: deny.customer_id,
            CheckMetadataKey.DECISION_ID: deny.decision_id,
            CheckMetadataKey.POLICY: deny.policy_version,
        },
    )
    return response.SerializeToString()


def clean_header_value(value: str) -> str:
    """The value without what ends a header or is not ASCII: Envoy answers 503 to a newline."""
    return _UNSAFE.sub("?", value)[:HEADER_VALUE_LENGTH_MAX].strip()


def _header_options(headers: Mapping[str, str]) -> list[wire.HeaderValueOption]:
    return [
        wire.HeaderValueOption(
            header=wire.HeaderValue(key=name.lower(), value=clean_header_value(value)),
            append_action=wire.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for name, value in headers.items()
        if _NAME.fullmatch(name.lower()) and name.lower() not in _FRAMING
    ]


def _add_metadata(response: wire.CheckResponse, values: Mapping[CheckMetadataKey, str]) -> None:
    """Strings only: Envoy keeps a number as a double."""
    for key, value in values.items():
        if value:
            response.dynamic_metadata.fields[key].string_value = value
