"""Frozen values that were filled from outside are what their constructors make."""

from dataclasses import FrozenInstanceError, dataclass, fields

import pytest
from fixtures.stream_records import usage_record

from sidecar.domain.thawing import freeze, thawed
from sidecar.domain.usage import RatedLine, TokenUsage, UsageEvent
from sidecar.outbound.redis.records import event_from_bytes, event_to_bytes
from sidecar.services.control_ports import StreamRecord


@pytest.mark.parametrize("frozen", [RatedLine, TokenUsage, UsageEvent, StreamRecord])
def test_what_was_filled_is_of_the_class_and_frozen(frozen):
    filled = thawed(frozen)()
    for field in fields(frozen):
        setattr(filled, field.name, field.name)
    value = freeze(filled, frozen)
    assert type(value) is frozen
    assert all(getattr(value, field.name) == field.name for field in fields(frozen))
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(frozen)[0].name, "new")
    with pytest.raises(FrozenInstanceError):
        delattr(value, fields(frozen)[0].name)


def test_a_decoded_event_is_what_its_constructor_makes():
    event = usage_record(1).event
    decoded = event_from_bytes(event_to_bytes(event))
    assert decoded == event
    assert repr(decoded) == repr(event)
    values = {field.name: getattr(decoded, field.name) for field in fields(UsageEvent)}
    assert hash(decoded.usage) == hash(event.usage)
    assert UsageEvent(**values) == decoded


def test_only_a_dataclass_with_slots_can_be_filled():
    @dataclass(frozen=True)
    class Loose:
        name: str

    with pytest.raises((AssertionError, AttributeError)):
        thawed(Loose)
