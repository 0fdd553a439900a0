"""Frozen values that were filled from outside are what their constructors make."""

import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace

import pytest
from fixtures.stream_records import usage_record

from sidecar.domain.thawing import freeze, quickly_made, thawed
from sidecar.domain.usage import RatedLine, TokenUsage, UsageEvent
from sidecar.outbound.redis.records import event_from_bytes, event_to_bytes
from sidecar.services.control_ports import StreamRecord


@pytest.mark.parametrize("frozen", [RatedLine, TokenUsage, UsageEvent, StreamRecord])
def test_what_was_filled_is_of_the_class_and_frozen(frozen):
    filled = thawed(frozen)()
    for one in fields(frozen):
        setattr(filled, one.name, one.name)
    value = freeze(filled, frozen)
    assert type(value) is frozen
    assert all(getattr(value, one.name) == one.name for one in fields(frozen))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    name: str
    number: int = 7
    rest: dict = field(default_factory=dict)
    known: bytes = field(default=b"", init=False, compare=False)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Quick:
    name: str
    number: int = 7
    rest: dict = field(default_factory=dict)
    known: bytes = field(default=b"", init=False, compare=False)


@pytest.mark.parametrize("given", [{}, {"number": 1}, {"rest": {"a": 1}}, {"rest": None}])
def test_what_is_quickly_made_is_what_its_plain_constructor_makes(given):
    plain, quick = Plain(name="n", **given), Quick(name="n", **given)
    assert [getattr(quick, one.name) for one in fields(Quick)] == [
        getattr(plain, one.name) for one in fields(Plain)
    ]
    assert type(quick) is Quick
    assert quick == Quick(name="n", **given)
    assert replace(quick, number=9) == Quick(**{"name": "n", **given, "number": 9})
    assert pickle.loads(pickle.dumps(quick)) == quick
    assert repr(quick) == repr(plain).replace("Plain", "Quick")


def test_what_is_quickly_made_is_frozen_and_shares_no_default():
    quick = Quick(name="n")
    with pytest.raises(FrozenInstanceError):
        quick.name = "m"
    assert Quick(name="n").rest is not quick.rest


@pytest.mark.parametrize("given", [{}, {"name": "n", "more": 1}, {"name": "n", "known": b"k"}])
def test_a_quick_constructor_refuses_what_the_plain_one_does(given):
    for kind in (Plain, Quick):
        with pytest.raises(TypeError):
            kind(**given)


def test_only_what_has_nothing_to_do_after_its_fields_is_quickly_made():
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Checked:
        name: str

        def __post_init__(self) -> None:
            assert self.name

    with pytest.raises(AssertionError):
        quickly_made(Checked)
