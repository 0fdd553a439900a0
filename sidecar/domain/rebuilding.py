"""
From what the ledger's database has of a customer to what the live store keeps of them.

Pure: the same rows give the same fields. Holds are not here: no row tells which were open, so
nothing is held or pinned until their gateways show them again.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sidecar.domain.counters import Counter, CounterKind
from sidecar.domain.grants import GrantTerms
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.policy import Policy
from sidecar.domain.reconciliation import GrantLine
from sidecar.domain.standing import StandingFact
from sidecar.domain.windows import RollingWindow

KEPT_MS = 172_800_000
"""How long after its end a window's count is kept, as the scripts keep it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCredential:
    """A credential of record; `ends_at` None where it has no end."""

    credential_id: str
    secret_hash: str
    team_id: str
    user_id: str
    generation: int
    ends_at: datetime | None
    revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedGrant:
    """
    A grant of record; amounts in nano.

    `begun` is whether the ledger has it; then `remaining_nano` is left of it. `ended_by` is the
    withdrawal that ended it early, as the live store words it ("void w1"). `since` is when it
    was given.
    """

    terms: GrantTerms
    begun: bool
    remaining_nano: int
    since: datetime
    ended_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedWithdrawal:
    """Credit that was taken back: how much was asked for (None: all) and taken, in nano."""

    withdrawal_id: str
    grant_id: str
    kind: str
    amount_nano: int | None
    withdrawn_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCustomer:
    """
    All that a customer's live state is made of; amounts in nano.

    `prepaid_nano` is what the ledger says of credit: what is left of grants, less what usage
    took beyond them. `counted` is what captures counted, by the field of the counter; `totals`
    the quantities that running totals have given away, by the total's name.
    """

    customer_id: str
    currency: str
    plan: str
    labels: Mapping[str, str]
    overdraft_nano: int = 0
    granted_nano: int = 0
    used_nano: int = 0
    voided_nano: int = 0
    expired_nano: int = 0
    prepaid_nano: int = 0
    grants: tuple[RecordedGrant, ...] = ()
    withdrawals: tuple[RecordedWithdrawal, ...] = ()
    standing: StandingFact | None = None
    credentials: tuple[RecordedCredential, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLine:
    """What a settled event said of one meter, and which price was asked for it."""

    price_version: str
    model: str
    meter: str
    occurred_at: datetime
    quantity: int
    amount_nano: int
    owed_nano: int = 0
    """What of it is left to an invoice where credit pays first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenTotal:
    """What a hold has of a running total, by the total's name, and what that cost."""

    key: str
    price_version: str
    quantity: int
    amount_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedUsage:
    """
    How a hold ended, for its marker; the digest tells what its newest event said.

    `lines` are those of an estimate that may still be corrected, `taken` what of them is in running
    totals: as much must go back. `owes` is whether an invoice takes what credit does not pay.
    """

    hold_id: str
    customer_id: str
    captured: bool
    amount_nano: int
    overage_nano: int
    estimated: bool
    digest: str
    corrections: int
    decided_at: datetime
    lines: tuple[RecordedLine, ...] = ()
    taken: tuple[TakenTotal, ...] = ()
    owes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """
    A customer's hash, its grants apart, and when the sweep looks at each of its counters.

    `grants` are those that still matter, in burn order; `given` all that was given. `look_at`
    has the counters' heads (kind and name) with epoch milliseconds.
    """

    fields: Mapping[str, str]
    grants: tuple[GrantLine, ...]
    given: tuple[GrantTerms, ...]
    look_at: Mapping[str, int]


def live_state(
    customer: RecordedCustomer, counters: Mapping[str, Counter], *, revision: int, now: datetime
) -> LiveState:
    """
    Make a customer's live state.

    Args:
        customer: From the ledger's database.
        counters: Those of the policy in force, by name; what no counter of it names is left out.
        revision: Above all that the customer's facts ever had.
        now: Windows that ended long before it are left out.
    """
    fields = {
        "rev": str(revision),
        "lost": str(to_epoch_ms(now)),
        "currency": customer.currency,
        "plan": customer.plan,
        "labels": json.dumps(dict(customer.labels), sort_keys=True, separators=(",", ":")),
    }
    fields |= {name: str(amount) for name, amount in _balances(customer).items()}
    fields |= {f"x:{one.withdrawal_id}": _withdrawn(one) for one in customer.withdrawals}
    fields |= {f"y:{name}": taken for name, taken in _taken(customer).items()}
    fields |= {f"t:{name}": str(total) for name, total in customer.totals.items() if total}
    if customer.standing is not None:
        fields |= _standing_fields(customer.standing)
    for credential in customer.credentials:
        fields[f"k:{credential.credential_id}"] = _generation(credential)
    counted, look_at = _counter_fields(customer.counted, counters, now)
    lines = sorted(
        (line for grant in customer.grants if (line := _grant_line(grant)) is not None),
        key=lambda line: line.burn_order,
    )
    due = [ms for line in lines if (ms := _due_ms(line)) is not None]
    if due:
        look_at["g:"] = min(due)
    return LiveState(
        fields=fields | counted,
        grants=tuple(lines),
        given=tuple(grant.terms for grant in customer.grants),
        look_at=look_at,
    )


def window_counters(policy: Policy) -> dict[str, Counter]:
    """The policy's counters that count in windows, by name."""
    found = [rule.counter for rule in policy.rules if rule.counter is not None]
    found += [quota.counter for quota in policy.quotas.values()]
    return {counter.name: counter for counter in found if counter.window is not None}


def _balances(customer: RecordedCustomer) -> dict[str, int]:
    """
    The book's numbers, with nothing held.

    What grants have left, less the deficit, is what the ledger says of credit.
    """
    left = sum(grant.remaining_nano for grant in customer.grants if grant.begun)
    ended = customer.voided_nano + customer.expired_nano
    return {
        "overdraft": customer.overdraft_nano,
        "granted": customer.granted_nano,
        "used": customer.used_nano,
        "held": 0,
        "avail": customer.granted_nano - ended - customer.used_nano,
        "voided": customer.voided_nano,
        "expired": customer.expired_nano,
        "deficit": left - customer.prepaid_nano,
        "uncov": 0,
    }


def _grant_line(grant: RecordedGrant) -> GrantLine | None:
    """
    A grant as the book has it, None where it matters no more.

    What has expired by now is still active: the next script lets it expire, as a decision that
    reaches the ledger. What a hold had pinned of a withdrawn grant is free, and is withdrawn so.
    """
    terms, rolls = grant.terms, grant.terms.rollover
    nothing_left = not grant.remaining_nano if grant.begun else bool(grant.ended_by)
    if nothing_left:
        return None
    return GrantLine(
        grant_id=terms.grant_id,
        state=(grant.ended_by or "active") if grant.begun else "scheduled",
        kind=terms.kind.value,
        priority=terms.priority,
        effective_ms=to_epoch_ms(terms.effective_at or grant.since),
        expires_ms=None if terms.expires_at is None else to_epoch_ms(terms.expires_at),
        meters=",".join(sorted(terms.meters)),
        free_nano=grant.remaining_nano if grant.begun else terms.amount_nano,
        pinned_nano=0,
        rolls=""
        if grant.begun or rolls is None
        else f"{rolls.from_grant_id} {rolls.least_nano} {rolls.most_nano}",
    )


def _due_ms(line: GrantLine) -> int | None:
    """When something becomes due of it; at once for what a withdrawal has ended."""
    if line.scheduled:
        return line.effective_ms
    return line.expires_ms if line.state == "active" else line.effective_ms


def _withdrawn(one: RecordedWithdrawal) -> str:
    asked = "" if one.amount_nano is None else one.amount_nano
    return f"{one.withdrawn_nano} {one.grant_id} {one.kind} {asked}"


def _taken(customer: RecordedCustomer) -> dict[str, str]:
    """What withdrawals have taken of each grant, and whether they ended it."""
    sums: dict[str, int] = {}
    for one in customer.withdrawals:
        sums[one.grant_id] = sums.get(one.grant_id, 0) + one.withdrawn_nano
    found = {}
    for grant in customer.grants:
        grant_id, amount = grant.terms.grant_id, grant.terms.amount_nano
        # What was voided before it began was taken as a whole, and is on no books.
        never = bool(grant.ended_by) and not grant.begun
        taken = amount if never else sums.get(grant_id, 0)
        if taken or grant.ended_by:
            ended = " ended" if grant.ended_by or taken >= amount else ""
            found[grant_id] = f"{taken}{ended}"
    return found


def _standing_fields(fact: StandingFact) -> dict[str, str]:
    return {
        "standing": fact.standing.value,
        "standing_until": _ms(fact.until),
        "due_since": _ms(fact.overdue_since),
        "due_nano": "" if fact.overdue_nano is None else str(fact.overdue_nano),
        "due_disputed": str(int(fact.disputed)),
    }


def _generation(credential: RecordedCredential) -> str:
    if credential.revoked:
        return f"-{credential.generation}"
    if credential.ends_at is None:
        return str(credential.generation)
    return f"{credential.generation}@{to_epoch_ms(credential.ends_at)}"


def _counter_fields(
    counted: Mapping[str, int], counters: Mapping[str, Counter], now: datetime
) -> tuple[dict[str, str], dict[str, int]]:
    by_name: dict[tuple[CounterKind, str], list[tuple[int, int]]] = {}
    for name, quantity in counted.items():
        kind, _, rest = name.partition(":")
        label, _, start = rest.rpartition(":")
        by_name.setdefault((CounterKind(kind), label), []).append((int(start), quantity))
    fields: dict[str, str] = {}
    look_at: dict[str, int] = {}
    for (kind, label), starts in by_name.items():
        counter = counters.get(label) or counters.get(label.partition("@")[0])
        if counter is None or counter.kind is not kind or counter.window is None:
            continue
        spans = _open_spans(counter, sorted(starts), to_epoch_ms(now))
        if not spans:
            continue
        fields |= _span_fields(kind, label, spans)
        first = min(end for _, end, _ in spans)
        look_at[f"{kind.value}:{label}"] = first + (KEPT_MS if kind is CounterKind.WINDOW else 0)
    return fields, look_at


def _open_spans(
    counter: Counter, starts: Iterable[tuple[int, int]], now_ms: int
) -> list[tuple[int, int, int]]:
    """Start, end (of a slice: when it leaves) and quantity of what still counts."""
    window = counter.window
    assert window is not None
    spans = []
    for start, quantity in starts:
        period = window.at(from_epoch_ms(start))
        rolls = isinstance(window, RollingWindow)
        end = window.leaves_ms(period) if isinstance(window, RollingWindow) else period.end_ms
        # A window that the policy cuts in another way now is not the one that was counted.
        if period.start_ms == start and end + (0 if rolls else KEPT_MS) > now_ms:
            spans.append((start, end, quantity))
    return spans


def _span_fields(
    kind: CounterKind, label: str, spans: Sequence[tuple[int, int, int]]
) -> dict[str, str]:
    fields = {}
    for start, _, quantity in spans:
        fields[f"{kind.value}:{label}:{start}"] = str(quantity)
        fields[f"u:{label}:{start}"] = str(quantity)
    if kind is CounterKind.WINDOW:
        fields[f"w:{label}"] = ",".join(f"{start}={end}" for start, end, _ in spans)
    else:
        fields[f"i:{label}"] = "".join(f",{start}={leaves}" for start, leaves, _ in spans)
        fields[f"s:{label}"] = str(sum(quantity for _, _, quantity in spans))
    return fields


def _ms(instant: datetime | None) -> str:
    return "" if instant is None else str(to_epoch_ms(instant))
