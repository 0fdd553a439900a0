from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageEvent(_message.Message):
    __slots__ = ("version", "hold_id", "source", "edge", "customer_id", "currency", "price_version", "occurred_at_ms", "received_at_ms", "usage", "lines", "estimated", "estimate_reason", "user_id", "credential_id", "plan", "route", "model", "request_id", "status", "duration_ms", "request_bytes", "response_bytes", "client_key", "team_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EDGE_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_REASON_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CLIENT_KEY_FIELD_NUMBER: _ClassVar[int]
    TEAM_ID_FIELD_NUMBER: _ClassVar[int]
    version: int
    hold_id: str
    source: str
    edge: str
    customer_id: str
    currency: str
    price_version: str
    occurred_at_ms: int
    received_at_ms: int
    usage: Usage
    lines: _containers.RepeatedCompositeFieldContainer[RatedLine]
    estimated: bool
    estimate_reason: str
    user_id: str
    credential_id: str
    plan: str
    route: str
    model: str
    request_id: bytes
    status: int
    duration_ms: int
    request_bytes: int
    response_bytes: int
    client_key: str
    team_id: str
    def __init__(self, version: _Optional[int] = ..., hold_id: _Optional[str] = ..., source: _Optional[str] = ..., edge: _Optional[str] = ..., customer_id: _Optional[str] = ..., currency: _Optional[str] = ..., price_version: _Optional[str] = ..., occurred_at_ms: _Optional[int] = ..., received_at_ms: _Optional[int] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., lines: _Optional[_Iterable[_Union[RatedLine, _Mapping]]] = ..., estimated: _Optional[bool] = ..., estimate_reason: _Optional[str] = ..., user_id: _Optional[str] = ..., credential_id: _Optional[str] = ..., plan: _Optional[str] = ..., route: _Optional[str] = ..., model: _Optional[str] = ..., request_id: _Optional[bytes] = ..., status: _Optional[int] = ..., duration_ms: _Optional[int] = ..., request_bytes: _Optional[int] = ..., response_bytes: _Optional[int] = ..., client_key: _Optional[str] = ..., team_id: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("input", "output", "cache_read", "cache_creation", "reasoning", "total")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_FIELD_NUMBER: _ClassVar[int]
    CACHE_CREATION_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    input: int
    output: int
    cache_read: int
    cache_creation: int
    reasoning: int
    total: int
    def __init__(self, input: _Optional[int] = ..., output: _Optional[int] = ..., cache_read: _Optional[int] = ..., cache_creation: _Optional[int] = ..., reasoning: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class RatedLine(_message.Message):
    __slots__ = ("meter", "quantity", "amount_nano", "groups", "text_hash", "observed")
    METER_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    TEXT_HASH_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    meter: str
    quantity: int
    amount_nano: int
    groups: _containers.RepeatedCompositeFieldContainer[GroupValue]
    text_hash: str
    observed: bool
    def __init__(self, meter: _Optional[str] = ..., quantity: _Optional[int] = ..., amount_nano: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[GroupValue, _Mapping]]] = ..., text_hash: _Optional[str] = ..., observed: _Optional[bool] = ...) -> None: ...

class GroupValue(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
