from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SignedHoldToken(_message.Message):
    __slots__ = ("payload", "signature", "key_id")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    signature: bytes
    key_id: str
    def __init__(self, payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., key_id: _Optional[str] = ...) -> None: ...

class HoldToken(_message.Message):
    __slots__ = ("version", "key_id", "gateway_id", "hold_id", "customer_id", "amount_nano", "currency", "price_version", "estimate", "quota_lines", "decided_at_ms", "expires_at_ms", "user_id", "credential_id", "plan", "route", "model", "request_id", "policy_version", "rules", "bound", "team_id", "noted", "block_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    QUOTA_LINES_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    TEAM_ID_FIELD_NUMBER: _ClassVar[int]
    NOTED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ID_FIELD_NUMBER: _ClassVar[int]
    version: int
    key_id: str
    gateway_id: str
    hold_id: str
    customer_id: str
    amount_nano: int
    currency: str
    price_version: str
    estimate: _containers.RepeatedCompositeFieldContainer[MeterQuantity]
    quota_lines: _containers.RepeatedCompositeFieldContainer[QuotaLine]
    decided_at_ms: int
    expires_at_ms: int
    user_id: str
    credential_id: str
    plan: str
    route: str
    model: str
    request_id: bytes
    policy_version: str
    rules: _containers.RepeatedScalarFieldContainer[str]
    bound: str
    team_id: str
    noted: _containers.RepeatedCompositeFieldContainer[NotedFact]
    block_id: str
    def __init__(self, version: _Optional[int] = ..., key_id: _Optional[str] = ..., gateway_id: _Optional[str] = ..., hold_id: _Optional[str] = ..., customer_id: _Optional[str] = ..., amount_nano: _Optional[int] = ..., currency: _Optional[str] = ..., price_version: _Optional[str] = ..., estimate: _Optional[_Iterable[_Union[MeterQuantity, _Mapping]]] = ..., quota_lines: _Optional[_Iterable[_Union[QuotaLine, _Mapping]]] = ..., decided_at_ms: _Optional[int] = ..., expires_at_ms: _Optional[int] = ..., user_id: _Optional[str] = ..., credential_id: _Optional[str] = ..., plan: _Optional[str] = ..., route: _Optional[str] = ..., model: _Optional[str] = ..., request_id: _Optional[bytes] = ..., policy_version: _Optional[str] = ..., rules: _Optional[_Iterable[str]] = ..., bound: _Optional[str] = ..., team_id: _Optional[str] = ..., noted: _Optional[_Iterable[_Union[NotedFact, _Mapping]]] = ..., block_id: _Optional[str] = ...) -> None: ...

class MeterQuantity(_message.Message):
    __slots__ = ("meter", "quantity")
    METER_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    meter: str
    quantity: int
    def __init__(self, meter: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...

class NotedFact(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class QuotaLine(_message.Message):
    __slots__ = ("field", "meter", "quantity")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    METER_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    field: str
    meter: str
    quantity: int
    def __init__(self, field: _Optional[str] = ..., meter: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...
