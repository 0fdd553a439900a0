"""What the capture script is asked and what it answers: `HoldCapture` to ARGV, reply to outcome."""

from collections.abc import Sequence

from sidecar.outbound.redis.connection import Argument
from sidecar.outbound.redis.keys import quota_field
from sidecar.outbound.redis.placing import (
    check_counted,
    check_signed,
    signed_arguments,
    who_pays,
)
from sidecar.outbound.redis.records import event_to_bytes, usage_digest
from sidecar.services.ports import CaptureOutcome, CaptureStatus, HoldCapture

_STATUSES = {status.value.encode(): status for status in CaptureStatus}


def capture_arguments(capture: HoldCapture) -> list[Argument]:
    """
    Say to the script what usage takes, as the script's head lists it.

    Raises:
        InvalidInput: The event is out of bounds.
    """
    event = capture.event
    parts = event.parts_nano
    arguments: list[Argument] = [
        event.hold_id,
        event.customer_id,
        check_signed(sum(parts.values())),
        int(event.estimated),
        usage_digest(event),
        who_pays(prepaid=capture.prepaid, owes=capture.owes),
        event.currency,
        event.price_version,
        event_to_bytes(event),
        "" if capture.steps is None else capture.steps,
        *signed_arguments(parts),
        len(capture.quota_lines),
    ]
    for line in capture.quota_lines:
        check_counted(line.quantity, line.meter, field="quota_lines")
        arguments += (quota_field(line.field), line.quantity)
    arguments.append(capture.block_id)
    return arguments


def read_capture(reply: Sequence[bytes]) -> CaptureOutcome:
    """Turn the capture script's reply into an outcome."""
    status, booked, overspent, held, available, epoch, seq, restored = reply
    return CaptureOutcome(
        status=_STATUSES[status],
        booked_nano=int(booked),
        overspent_nano=int(overspent),
        held_nano=int(held),
        available_nano=int(available),
        epoch=int(epoch),
        seq=int(seq),
        restored=restored == b"1",
    )
