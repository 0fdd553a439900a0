"""What the scripts about grants are asked and what they answer, and a customer's book as text."""

from collections.abc import Sequence
from datetime import datetime

from sidecar.domain.errors import Conflict, CreditSpent, InvalidInput, NotFound, TooMany
from sidecar.domain.grants import GrantKind, WithdrawalKind
from sidecar.domain.money import format_amount
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.reconciliation import GrantLine
from sidecar.outbound.redis.connection import Argument
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import check_line
from sidecar.outbound.redis.placing import check_amount
from sidecar.services.control_ports import Balance, Grant, LiveGrant, Withdrawal

BALANCE_FIELDS = (
    *("currency", "granted", "used", "held", "avail"),
    *("voided", "expired", "overdraft", "deficit"),
)
_GRANT_WIDTH = 10
_SPENT = frozenset({"too_much", "spent"})
_NOT_TAKEN = {
    "spent": "nothing of it is left (0.00 free): it is spent or has ended",
    "ended": "{grant} has ended",
    "scheduled": "{grant} has not begun: it can be voided as a whole only",
    "too_much": "{grant} has {amount} free, less than is asked for",
    "beyond": "{grant} has {amount} that is not taken back yet, less than is asked for",
}
_DAMAGED = "redis: a customer's balance is no number"


def grant_arguments(grant: Grant) -> list[Argument]:
    """ARGV of the grant script."""
    rolls = grant.rollover
    return [
        grant.grant_id,
        grant.customer_id,
        check_amount(grant.amount_nano),
        grant.currency,
        grant.kind.value,
        grant.priority,
        _ms(grant.effective_at),
        _ms(grant.expires_at),
        check_line(",".join(sorted(grant.meters)), "meters"),
        ""
        if rolls is None
        else f"{rolls.from_grant_id} {check_amount(rolls.least_nano)} "
        f"{check_amount(rolls.most_nano)}",
    ]


def refuse_grant(grant: Grant, reply: Sequence[bytes]) -> None:
    """Turn what the grant script refused into an error; see `apply_grant`."""
    status, detail = (part.decode() for part in reply)
    match status:
        case "applied" | "repeated":
            return
        case "no_customer":
            raise NotFound(f"there is no customer {grant.customer_id!r}")
        case "other_currency":
            raise Conflict(f"the customer's balance is in {detail}, not in {grant.currency}")
        case "conflict":
            raise Conflict(f"grant {grant.grant_id!r} was given with other content")
        case "expired":
            raise InvalidInput("expires_at has passed: it must lie ahead", field="expires_at")
        case "too_many":
            raise TooMany(f"the customer has {detail} grants that still matter, which is the most")
        case "out_of_bounds":
            raise InvalidInput("the customer's grants would pass the largest balance")
        case _:
            raise StoreDamaged(_DAMAGED)


def withdrawal_arguments(withdrawal: Withdrawal) -> list[Argument]:
    """ARGV of the withdraw script."""
    amount = withdrawal.amount_nano
    if amount is None and withdrawal.kind is WithdrawalKind.DISPUTE:
        raise InvalidInput("a dispute needs the amount that is taken back", field="amount")
    if amount == 0:
        raise InvalidInput("an amount that is taken back must be above zero", field="amount")
    return [
        withdrawal.withdrawal_id,
        withdrawal.customer_id,
        withdrawal.grant_id,
        withdrawal.kind.value,
        "" if amount is None else check_amount(amount),
    ]


def read_withdrawal(withdrawal: Withdrawal, reply: Sequence[bytes]) -> int:
    """What a withdrawal took, in nano; see `apply_withdrawal` for what it raises."""
    status, detail = (part.decode() for part in reply)
    grant = f"grant {withdrawal.grant_id!r}"
    if status in _NOT_TAKEN:
        error = CreditSpent if status in _SPENT else Conflict
        raise error(_NOT_TAKEN[status].format(grant=grant, amount=format_amount(int(detail))))
    match status:
        case "applied" | "repeated":
            return int(detail)
        case "no_customer":
            raise NotFound(f"there is no customer {withdrawal.customer_id!r}")
        case "no_grant":
            raise NotFound(f"the customer has no {grant}")
        case "conflict":
            raise Conflict(f"withdrawal {withdrawal.withdrawal_id!r} did something else before")
        case "out_of_bounds":
            raise InvalidInput("the customer's balance would leave its bounds")
        case _:
            raise StoreDamaged(_DAMAGED)


def read_balance(values: Sequence[bytes | None], as_of: datetime) -> Balance | None:
    """
    The balance of BALANCE_FIELDS and the grants' record; None where there is no customer.

    Raises:
        StoreDamaged: One of them is no number.
    """
    if values[0] is None:
        return None
    try:
        granted, used, held, avail = (int(value or b"") for value in values[1:5])
        voided, expired, overdraft, deficit = (int(value or b"0") for value in values[5:9])
        lines = grant_lines((values[9] or b"").decode())
    except ValueError as error:
        raise StoreDamaged(_DAMAGED) from error
    return Balance(
        currency=values[0].decode(),
        granted_nano=granted,
        used_nano=used,
        held_nano=held,
        voided_nano=voided,
        expired_nano=expired,
        overdraft_nano=overdraft,
        deficit_nano=deficit,
        available_nano=avail + overdraft,
        free_nano=sum(line.free_nano for line in lines if line.state == "active"),
        as_of=as_of,
    )


def read_live_grants(record: bytes | None) -> list[LiveGrant]:
    """
    The grants of a customer's record, as book.lua writes it.

    Raises:
        StoreDamaged: It is none.
    """
    try:
        lines = grant_lines("" if record is None else record.decode())
        return [_live_grant(line) for line in lines]
    except ValueError as error:
        raise StoreDamaged("redis: a customer's grants cannot be read") from error


def grant_lines(record: str) -> list[GrantLine]:
    """
    Decode a grants' record; none for an empty one.

    Raises:
        ValueError: It is none.
    """
    if not record:
        return []
    count, *lines = record.removesuffix("\n").split("\n")
    places = range(0, int(count) * _GRANT_WIDTH, _GRANT_WIDTH)
    return [_grant_line(lines[at : at + _GRANT_WIDTH]) for at in places]


def grants_record(lines: Sequence[GrantLine]) -> str:
    """Encode grants in the order given; the inverse of `grant_lines`."""
    if not lines:
        return ""
    parts: list[object] = [len(lines)]
    for line in lines:
        parts += (
            *(line.grant_id, line.state, line.kind, line.priority, line.effective_ms),
            "" if line.expires_ms is None else line.expires_ms,
            *(line.meters, line.free_nano, line.pinned_nano, line.rolls),
        )
    return "".join(f"{check_line(str(part), 'grant')}\n" for part in parts)


def _grant_line(row: Sequence[str]) -> GrantLine:
    grant_id, state, kind, priority, effective, expires, meters, free, pinned, rolls = row
    return GrantLine(
        grant_id=grant_id,
        state=state,
        kind=kind,
        priority=int(priority),
        effective_ms=int(effective),
        expires_ms=int(expires) if expires else None,
        meters=meters,
        free_nano=int(free),
        pinned_nano=int(pinned),
        rolls=rolls,
    )


def _live_grant(line: GrantLine) -> LiveGrant:
    return LiveGrant(
        grant_id=line.grant_id,
        kind=GrantKind(line.kind),
        state=line.state.partition(" ")[0],
        priority=line.priority,
        effective_at=from_epoch_ms(line.effective_ms),
        expires_at=None if line.expires_ms is None else from_epoch_ms(line.expires_ms),
        meters=tuple(line.meters.split(",")) if line.meters else (),
        free_nano=line.free_nano,
        pinned_nano=line.pinned_nano,
    )


def _ms(instant: datetime | None) -> int | str:
    return "" if instant is None else to_epoch_ms(instant)
