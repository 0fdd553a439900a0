"""
Burned = price of the total, through metering on a real Redis, whatever is corrected and how.

Requests are reported late or in time, by estimates that measured usage corrects up or down, by
several reports at once that differ, of one model or of another; expired holds are charged; a
capture is cut off after its totals moved, and the sweep or a repeat finishes it.
"""

import asyncio
import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fixtures.live_store import LiveStore, hold_of
from fixtures.memory_accounts import MemoryQuarantine
from fixtures.redis_fixture import ask_redis
from fixtures.use_cases import ANYONE, FixedPolicies, MemoryTokens, PlainDigests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.holds import HoldTerms, make_hold_id
from sidecar.domain.pricing import (
    Billing,
    FreeQuota,
    Graduated,
    Meter,
    OnChange,
    Package,
    PerUnit,
    Price,
    PriceLine,
    RateCard,
    RoundPackages,
    Tier,
)
from sidecar.domain.usage import OnMissing, TokenUsage, UsageReport
from sidecar.services.control_ports import StreamRecord
from sidecar.services.metering import MeteringService, UsageOutcome
from sidecar.services.ports import CaptureStatus, PlaceHold, PlaceStatus
from sidecar.services.rating import total_key

_KNOWN = (PlaceStatus.REPEATED, PlaceStatus.CLOSED, PlaceStatus.MISMATCH)
MODELS = ("m1", "m2", "m3")
ESTIMATE = {"in": 40, "out": 25}
CREDIT = 10**15
LITTLE = 3_000
"""What some requests use up, where an invoice takes what credit does not pay."""
numbers = itertools.count(1)
AMOUNTS = st.integers(0, 1_000)
PER = st.integers(1, 20)
ENDS = st.lists(st.integers(1, 150), unique=True, max_size=3).map(sorted)
TIERS = st.tuples(ENDS, st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=4, max_size=4)).map(
    lambda made: tuple(
        Tier(up_to=end, amount_nano=amount, flat_nano=flat)
        for end, (amount, flat) in zip([*made[0], None], made[1], strict=False)
    )
)
BARE: st.SearchStrategy[Price] = st.one_of(
    st.builds(PerUnit, amount_nano=AMOUNTS, per=PER),
    st.builds(Package, amount_nano=AMOUNTS, per=PER, rounding=st.sampled_from(RoundPackages)),
    st.builds(Graduated, tiers=TIERS, per=PER),
)
PRICES = BARE | st.builds(FreeQuota, price=BARE, units=st.integers(1, 100))
"""Whose edges lie within what a few requests use."""
CARDS = st.builds(
    lambda own, general, output, billing, on_change: RateCard(
        plan="prepaid",
        billing=billing,
        currency="USD",
        lines=(
            PriceLine(meter="in", price=own, models=("m1",)),
            PriceLine(meter="in", price=general),
            PriceLine(meter="out", price=output),
        ),
        meters={
            name: Meter(name=name, value=value, on_missing=OnMissing.CAPTURE_ESTIMATE)
            for name, value in (("in", "usage.input"), ("out", "usage.output"))
        },
        on_change=on_change,
    ),
    PRICES,
    PRICES,
    PRICES,
    st.sampled_from(Billing),
    st.sampled_from(OnChange),
)
_tokens = st.tuples(st.integers(0, 60), st.integers(0, 30))
REPORT = st.tuples(st.none() | _tokens, st.sampled_from(MODELS))
STEP = st.one_of(
    st.tuples(st.just("place"), st.integers(0, 4)),
    st.tuples(st.just("report"), st.integers(0, 4), st.lists(REPORT, min_size=1, max_size=3)),
    st.tuples(st.just("charge"), st.integers(0, 4)),
    st.tuples(st.just("orphan"), st.integers(0, 4)),
    st.tuples(st.just("cut"), st.integers(0, 4), REPORT),
    st.tuples(st.just("sweep")),
)


@dataclass
class Shot:
    """A request, and how its gateway speaks of it."""

    terms: HoldTerms
    token: str
    hold: PlaceHold


@dataclass
class Cutting:
    """Balances that lose the connection before a capture, if told so."""

    balances: Any
    cut: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.balances, name)

    async def capture_hold(self, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        if self.cut:
            raise StoreUnavailable("cut off")
        return await self.balances.capture_hold(*args, **kwargs)


@dataclass
class World:
    store: LiveStore
    card: RateCard
    shots: dict[int, Shot] = field(default_factory=dict)

    async def begin(self) -> None:
        await self.store.cards.publish(self.card)
        self.credit = LITTLE if self.card.billing.invoices_rest else CREDIT
        self.facts = await self.store.add_customer(self.credit)
        self.tokens, self.quarantine = MemoryTokens(), MemoryQuarantine()
        self.balances = Cutting(self.store.balances)
        self.metering = MeteringService(
            balances=self.balances,
            directory=self.store.directory,
            rate_cards=self.store.cards,
            tokens=self.tokens,
            digests=PlainDigests(),
            policies=FixedPolicies(None),
            quarantine=self.quarantine,
            hold_ttl_ms=3_600_000,
        )

    def shot(self, number: int) -> Shot:
        if number not in self.shots:
            hold = hold_of(
                self.facts,
                number,
                0,
                ttl_ms=3_600_000,
                credit_required=False,
                prepaid=self.card.billing.burns_credit,
                owes=self.card.billing.invoices_rest,
            )
            second = int(datetime.now(UTC).timestamp())
            terms = replace(
                hold.terms,
                hold_id=make_hold_id(second, next(numbers).to_bytes(16, "big")),
                price_version=self.card.version,
                estimate=ESTIMATE,
                model="m1",
                amount_nano=self.card.upper_bound(ESTIMATE, "m1"),
                decided_at_ms=second * 1_000,
                expires_at_ms=second * 1_000,
            )
            hold = replace(hold, terms=terms, parts=self.card.upper_bounds(ESTIMATE, "m1"))
            self.shots[number] = Shot(terms, self.tokens.sign(terms), hold)
        return self.shots[number]

    async def act(self, step: tuple[Any, ...]) -> None:
        match step:
            case "place", number:
                shot = self.shot(number)
                placed = await self.store.balances.place_hold(shot.hold)
                if self.card.billing.invoices_rest:
                    assert placed.status in (PlaceStatus.PLACED, *_KNOWN), placed
            case "report", number, reports:
                await asyncio.gather(*(self.report(self.shot(number), *one) for one in reports))
            case "charge", number:
                await self.metering.charge_orphan(self.shot(number).terms)
            case "orphan", number:
                await self.end(self.shot(number))
            case "cut", number, report:
                self.balances.cut = True
                try:
                    await self.report(self.shot(number), *report)
                except StoreUnavailable:
                    pass
                finally:
                    self.balances.cut = False
            case "sweep", *_:
                await self.sweep()

    async def report(self, shot: Shot, tokens: tuple[int, int] | None, model: str) -> None:
        usage = TokenUsage() if tokens is None else TokenUsage(input=tokens[0], output=tokens[1])
        report = UsageReport(
            edge="test",
            gateway_id=shot.terms.gateway_id,
            received_at=datetime.now(UTC),
            usage=usage,
            hold_token=shot.token,
            model=model,
            status=200,
        )
        result = await self.metering.capture(report, ANYONE)
        assert result.outcome is not UsageOutcome.REJECTED, result
        assert result.reason in ("", "usage_missing", "capture_conflict"), result

    async def end(self, shot: Shot) -> None:
        """Its time is over: it is orphaned, or finished where it was interrupted."""
        shard = self.store.keyspace.shard_of(shot.terms.customer_id)
        hold_id, customer_id = shot.terms.hold_id, shot.terms.customer_id
        expiry = self.store.keyspace.expiry(shard)
        await self.store.connection.command("ZADD", expiry, "XX", 1, hold_id)
        event = await self.store.balances.orphan_hold(customer_id, hold_id)
        if event is None:
            return
        stored = await self.store.balances.read_hold(customer_id, hold_id)
        assert stored is not None
        assert stored.interrupted
        status = await self.metering.finish(event, stored.terms)
        assert status in (
            CaptureStatus.CAPTURED,
            CaptureStatus.LATE,
            CaptureStatus.CORRECTED,
            CaptureStatus.DUPLICATE,
        )

    async def sweep(self) -> None:
        for shot in list(self.shots.values()):
            await self.end(shot)

    async def check(self) -> None:
        """What was burned is the price of the totals; the totals are what was captured at last."""
        records = [r for r in await self.store.records() if r.event is not None]
        newest = {r.hold_id: r.event for r in records if r.kind != "orphan"}
        totals: dict[int, int] = {}
        for event in newest.values():
            for line in event.lines:
                found = self.card.line_for(line.meter, event.model)
                assert found is not None
                totals[found[0]] = totals.get(found[0], 0) + line.quantity
        expected = sum(
            self.card.lines[index].price.cumulative(quantity) for index, quantity in totals.items()
        )
        _, used, _, _ = await self.store.numbers()
        assert used == sum(r.amount_nano for r in records) == expected
        fields = await self.store.fields()
        for index, quantity in totals.items():
            if self.card.lines[index].price.unit_nano is None:
                key = total_key(self.card, index, next(iter(newest.values())).occurred_at)
                assert int(fields.get(f"t:{key}".encode(), b"0")) == quantity
        assert not any(name.startswith((b"h:", b"r:")) for name in fields)
        assert fields[b"held"] == fields[b"uncov"] == b"0"
        granted, used, _, available = await self.store.numbers()
        assert (granted, available) == (self.credit, self.credit - used)
        self.check_payers(records, int(fields[b"deficit"]))

    def check_payers(self, records: list[StreamRecord], deficit: int) -> None:
        """Credit pays no more than there is, an invoice what is left, by meter as in all."""
        paid = -sum(m.amount_nano for r in records for m in r.movements)
        used = sum(r.amount_nano for r in records)
        if self.card.billing.burns_credit:
            assert paid == used - deficit - sum(r.owed_nano for r in records)
        if not self.card.billing.invoices_rest:
            assert all(r.owed is None for r in records)
            return
        assert deficit == 0
        assert 0 <= paid <= self.credit
        usage = [r for r in records if r.kind != "orphan"]
        assert all(r.owed is not None and r.overage_nano == 0 for r in usage)
        if used > self.credit + sum(min(0, r.amount_nano) for r in usage):
            assert sum(r.owed_nano for r in usage) > 0 or used <= self.credit


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(card=CARDS, steps=st.lists(STEP, min_size=3, max_size=14))
def test_what_is_burned_is_the_price_of_the_total_whatever_is_corrected(
    redis_socket: Path, card: RateCard, steps: list[tuple[Any, ...]]
) -> None:
    async def run() -> None:
        ask_redis(redis_socket, b"FLUSHALL")
        store = await LiveStore.open(f"unix://{redis_socket}", shards=1)
        try:
            world = World(store, card)
            await world.begin()
            for step in steps:
                await world.act(step)
            await world.sweep()
            await world.check()
        finally:
            await store.connection.aclose()

    asyncio.run(run())
