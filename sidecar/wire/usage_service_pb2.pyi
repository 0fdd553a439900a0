from sidecar.wire import usage_event_pb2 as _usage_event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class IngestRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[IngestEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[IngestEvent, _Mapping]]] = ...) -> None: ...

class IngestEvent(_message.Message):
    __slots__ = ("hold_token", "hold_id", "unheld", "model", "usage", "status", "occurred_at_ms")
    class Unheld(_message.Message):
        __slots__ = ("customer_id", "id")
        CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
        ID_FIELD_NUMBER: _ClassVar[int]
        customer_id: bytes
        id: bytes
        def __init__(self, customer_id: _Optional[bytes] = ..., id: _Optional[bytes] = ...) -> None: ...
    HOLD_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    UNHELD_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    hold_token: bytes
    hold_id: bytes
    unheld: IngestEvent.Unheld
    model: bytes
    usage: _usage_event_pb2.Usage
    status: int
    occurred_at_ms: int
    def __init__(self, hold_token: _Optional[bytes] = ..., hold_id: _Optional[bytes] = ..., unheld: _Optional[_Union[IngestEvent.Unheld, _Mapping]] = ..., model: _Optional[bytes] = ..., usage: _Optional[_Union[_usage_event_pb2.Usage, _Mapping]] = ..., status: _Optional[int] = ..., occurred_at_ms: _Optional[int] = ...) -> None: ...

class IngestResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[IngestResult]
    def __init__(self, results: _Optional[_Iterable[_Union[IngestResult, _Mapping]]] = ...) -> None: ...

class IngestResult(_message.Message):
    __slots__ = ("id", "outcome", "amount_nano", "reason")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[IngestResult.Outcome]
        CAPTURED: _ClassVar[IngestResult.Outcome]
        DUPLICATE: _ClassVar[IngestResult.Outcome]
        LATE: _ClassVar[IngestResult.Outcome]
        UNHELD: _ClassVar[IngestResult.Outcome]
        QUARANTINED: _ClassVar[IngestResult.Outcome]
        REJECTED: _ClassVar[IngestResult.Outcome]
    OUTCOME_UNSPECIFIED: IngestResult.Outcome
    CAPTURED: IngestResult.Outcome
    DUPLICATE: IngestResult.Outcome
    LATE: IngestResult.Outcome
    UNHELD: IngestResult.Outcome
    QUARANTINED: IngestResult.Outcome
    REJECTED: IngestResult.Outcome
    ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    outcome: IngestResult.Outcome
    amount_nano: int
    reason: str
    def __init__(self, id: _Optional[bytes] = ..., outcome: _Optional[_Union[IngestResult.Outcome, str]] = ..., amount_nano: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
