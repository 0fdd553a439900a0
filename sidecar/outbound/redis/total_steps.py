"""What markers have of totals and payers, as the scripts keep it: rows, one part a line."""

from collections.abc import Iterable, Sequence

from sidecar.domain.rebuilding import RecordedUsage, TakenTotal
from sidecar.outbound.redis.keys import TOTAL_PREFIX, check_line, total_field
from sidecar.services.ports import TotalStep

_STATED = b"="
"""Of a step whose amount is all that is known of it."""


def steps_from_rows(flat: Sequence[bytes]) -> tuple[TotalStep, ...]:
    """Steps from rows of three texts, one after the other."""
    steps = []
    for name, before, quantity in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        field, _, _ = name.decode().partition(" ")
        stated = before.startswith(_STATED)
        steps.append(
            TotalStep(
                key=field.removeprefix(TOTAL_PREFIX),
                quantity=int(quantity),
                before=None if stated else int(before),
                amount_nano=int(before.removeprefix(_STATED)) if stated else None,
            )
        )
    return tuple(steps)


def taken_record(taken: Iterable[TakenTotal]) -> str:
    """What an id has of running totals, as the ledger tells it, for its marker."""
    rows = [
        (
            f"{total_field(one.key)} {check_line(one.price_version, 'price_version')}",
            f"={one.amount_nano}",
            str(one.quantity),
        )
        for one in taken
    ]
    return _record(rows)


def split_record(usage: RecordedUsage) -> str:
    """What credit paid of each meter and what is owed of it; "" where no invoice takes the rest."""
    if not usage.owes:
        return ""
    # A row without a meter says whose plan it is where there is nothing to say of any.
    return _record(
        [
            (
                check_line(one.meter, "meter"),
                str(one.amount_nano - one.owed_nano),
                str(one.owed_nano),
            )
            for one in usage.lines
        ]
        or [("", "0", "0")]
    )


def _record(rows: Sequence[tuple[str, str, str]]) -> str:
    return "".join(f"{part}\n" for part in (str(len(rows)), *(p for row in rows for p in row)))
