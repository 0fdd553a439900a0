"""Invoices on a real Postgres: from settled usage to closed periods."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from fixtures.invoice_parts import (
    DECEMBER,
    LATER,
    NOVEMBER,
    PRICES,
    Invoicing,
    Rater,
    invoice_card,
)
from fixtures.ledger_parts import verify
from fixtures.stream_records import usage_record

from sidecar.domain.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from sidecar.domain.invoices import FindingKind, InvoiceState, LatePolicy
from sidecar.domain.period_prices import Flat, Minimum, Volume
from sidecar.domain.price_models import Package, Tier
from sidecar.domain.rate_cards import PriceLine
from sidecar.services.invoicing_ports import CreditNote, CreditNoteLine, InvoiceFilter

USED = {"input-tokens": 10, "output-tokens": 4}


@pytest.fixture
async def invoicing(postgres_pool):
    made = Invoicing(postgres_pool)
    await made.add_customer()
    return made


@pytest.fixture
def rater(invoicing):
    return Rater(invoicing.cards[0])


def note(invoice, amount=0, *, name="cn_1", lines=(), reason="goodwill") -> CreditNote:
    return CreditNote(
        credit_note_id=name,
        customer_id="",
        invoice_id=invoice.invoice_id,
        amount_nano=amount,
        reason=reason,
        lines=tuple(CreditNoteLine(line_number=n, amount_nano=a) for n, a in lines),
    )


async def test_a_period_that_is_over_becomes_one_invoice_of_what_was_captured(invoicing, rater):
    await invoicing.settle(*(rater.capture(n, USED, NOVEMBER) for n in range(1, 6)))
    await invoicing.round_at(NOVEMBER)
    assert await invoicing.invoices() == []
    await invoicing.round_at(datetime(2026, 12, 1, 0, 59, tzinfo=UTC))
    assert await invoicing.invoices() == []  # Within the grace.
    done = await invoicing.round_at(datetime(2026, 12, 1, 1, 0, tzinfo=UTC))
    assert (done.cut, done.closed, done.waiting) == (1, 1, 0)
    (invoice,) = await invoicing.invoices()
    assert (invoice.state, invoice.number_text) == (InvoiceState.CLOSED, "cus_a-0001")
    assert (invoice.period.start.month, invoice.period.end.month) == (11, 12)
    by_meter = {line.meter: line for line in invoice.lines}
    assert by_meter["input-tokens"].quantity == 50
    assert by_meter["input-tokens"].amount_nano == 50 * 500
    assert by_meter["output-tokens"].amount_nano == 3 * 1_000_003  # Packages of 7 that 20 begin.
    assert by_meter["output-tokens"].price == PRICES["output-tokens"].describe()
    assert {line.price_version for line in invoice.lines} == {invoicing.cards[0].version}
    assert invoice.findings == ()
    owed = -(await invoicing.balance())["customer_receivable_nano"]
    assert invoice.total_nano == invoice.due_nano == owed
    assert (await verify(invoicing.pool)).intact


async def test_nothing_used_makes_no_invoice_and_takes_no_number(invoicing, rater):
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))
    await invoicing.round_at(datetime(2027, 3, 1, 2, tzinfo=UTC))
    await invoicing.settle(rater.capture(2, USED, datetime(2027, 3, 1, 3, tzinfo=UTC)))
    await invoicing.round_at(datetime(2027, 4, 1, 2, tzinfo=UTC))
    invoices = await invoicing.invoices()
    assert [one.number for one in invoices] == [1, 2]
    assert [one.period.start.month for one in invoices] == [11, 3]


async def test_a_period_is_not_cut_before_its_stream_is_settled(invoicing, rater):
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))
    waiting = invoicing.numbered(rater.capture(2, USED, NOVEMBER))
    invoicing.stream.records[0] = [waiting]
    done = await invoicing.round_at(LATER)
    assert (done.cut, done.waiting) == (0, 1)
    lease = await invoicing.ledger.claim_shard(0, "settler", 300)
    await invoicing.ledger.settle(lease, [waiting], {})
    await invoicing.pool.execute("UPDATE invoice_cursors SET leased_until = NULL")
    await invoicing.round_at(LATER)
    invoices = await invoicing.invoices()
    assert sum(line.events for one in invoices for line in one.lines) == 4
    assert not any(line.late for one in invoices for line in one.lines)


async def test_what_is_decided_after_the_grace_does_not_hold_a_period_up(invoicing, rater):
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))
    invoicing.stream.records[0] = [invoicing.numbered(rater.capture(2, USED, DECEMBER))]
    done = await invoicing.round_at(datetime(2026, 12, 20, tzinfo=UTC))
    assert (done.cut, done.waiting) == (1, 0)


async def test_late_usage_goes_on_the_next_period_s_invoice_with_its_own_month(invoicing, rater):
    early, late = (rater.capture(n, USED, NOVEMBER) for n in (1, 2))
    await invoicing.settle(early)
    await invoicing.round_at(DECEMBER)
    await invoicing.settle(late, rater.capture(3, USED, DECEMBER))
    await invoicing.round_at(LATER)
    november, december = await invoicing.invoices()
    assert {line.late for line in november.lines} == {False}
    late_lines = [line for line in december.lines if line.late]
    assert {line.period.start.month for line in late_lines} == {11}
    assert sum(line.amount_nano for line in late_lines) == late.amount_nano
    assert december.findings == ()  # The month's total is right once all of it is there.
    owed = -(await invoicing.balance())["customer_receivable_nano"]
    assert november.total_nano + december.total_nano == owed


async def test_late_usage_can_have_an_invoice_of_its_own(invoicing, rater):
    invoicing.late = LatePolicy.INVOICE_ITEM
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))
    await invoicing.round_at(DECEMBER)
    for number in (2, 3):
        await invoicing.settle(rater.capture(number, USED, NOVEMBER))
        await invoicing.round_at(LATER - timedelta(days=5))
    invoices = await invoicing.invoices()
    assert [(one.number, one.sequence) for one in invoices] == [(1, 0), (2, 1), (3, 2)]
    assert {one.period.start.month for one in invoices} == {11}
    owed = -(await invoicing.balance())["customer_receivable_nano"]
    assert sum(one.total_nano for one in invoices) == owed


async def test_late_usage_can_be_written_off_and_is_owed_no_more(invoicing, rater):
    invoicing.late = LatePolicy.WRITE_OFF
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))
    await invoicing.round_at(DECEMBER)
    await invoicing.settle(*(rater.capture(n, USED, NOVEMBER) for n in (2, 3)))
    done = await invoicing.round_at(LATER)
    assert done.written_off == 2
    (invoice,) = await invoicing.invoices()
    balance = await invoicing.balance()
    assert invoice.total_nano == -balance["customer_receivable_nano"] == balance["revenue_nano"]
    assert balance["used_nano"] > balance["revenue_nano"]  # It was used all the same.
    row = await invoicing.pool.fetchrow("SELECT amount_nano, events FROM write_offs")
    assert tuple(row) == (balance["used_nano"] - balance["revenue_nano"], 2)
    assert (await verify(invoicing.pool)).intact


@pytest.mark.parametrize("policy", list(LatePolicy))
async def test_a_late_correction_in_the_customer_s_favour_is_never_written_off(
    invoicing, rater, policy
):
    invoicing.late = policy
    captured = rater.capture(1, {"input-tokens": 1_000}, NOVEMBER)
    await invoicing.settle(captured)
    await invoicing.round_at(DECEMBER)
    await invoicing.settle(rater.correct(captured, {"input-tokens": 100}))
    await invoicing.round_at(LATER)
    november, december = await invoicing.invoices()
    assert (december.total_nano, december.due_nano) == (-900 * 500, 0)
    assert -(await invoicing.balance())["customer_receivable_nano"] == 100 * 500
    await invoicing.settle(rater.capture(2, {"input-tokens": 3_000}, LATER))
    await invoicing.round_at(datetime(2027, 2, 2, tzinfo=UTC))
    january = (await invoicing.invoices())[-1]
    assert (january.total_nano, january.carried_nano) == (3_000 * 500, -900 * 500)
    assert january.due_nano == 2_100 * 500
    assert november.total_nano == 1_000 * 500


async def test_an_amount_that_is_not_the_price_of_the_total_is_found_and_kept(invoicing, rater):
    record = rater.capture(1, {"input-tokens": 10}, NOVEMBER)
    line = replace(record.event.lines[0], amount_nano=4_999)
    wrong = replace(record, amount_nano=4_999, event=replace(record.event, lines=(line,)))
    await invoicing.settle(wrong)
    await invoicing.round_at(DECEMBER)
    (invoice,) = await invoicing.invoices()
    (finding,) = invoice.findings
    assert (finding.kind, finding.captured_nano, finding.expected_nano) == (
        FindingKind.AMOUNT_DIFFERS,
        4_999,
        5_000,
    )
    assert invoice.total_nano == 4_999


async def test_corrections_leave_no_gap_in_the_total(invoicing, rater):
    first = rater.capture(1, {"output-tokens": 100}, NOVEMBER)
    second = rater.capture(2, {"output-tokens": 1}, NOVEMBER)
    await invoicing.settle(first, second, rater.correct(first, {"output-tokens": 3}))
    await invoicing.round_at(DECEMBER)
    (invoice,) = await invoicing.invoices()
    assert invoice.total_nano == Package(amount_nano=1_000_003, per=7).cumulative(4)
    assert invoice.findings == ()


async def test_a_correction_to_another_model_s_price_is_told_apart(postgres_pool):
    own, general = Package(amount_nano=900, per=7), Package(amount_nano=400, per=7)
    lines = (
        PriceLine(meter="input-tokens", price=own, models=("gpt",)),
        PriceLine(meter="input-tokens", price=general),
    )
    card = replace(invoice_card({"input-tokens": general}), lines=lines)
    invoicing = Invoicing(postgres_pool, cards=(card,))
    await invoicing.add_customer()
    captured = Rater(card).capture(1, {"input-tokens": 10}, NOVEMBER)
    line = replace(captured.event.lines[0], amount_nano=own.cumulative(10))
    event = replace(captured.event, model="gpt", lines=(line,))
    captured = replace(captured, amount_nano=own.cumulative(10), event=event)
    line = replace(line, quantity=4, amount_nano=general.cumulative(4))
    corrected = replace(
        captured,
        kind="correction:1",
        amount_nano=general.cumulative(4) - own.cumulative(10),
        event=replace(event, model="other", lines=(line,)),
    )
    await invoicing.settle(captured, corrected)
    await invoicing.round_at(DECEMBER)
    (invoice,) = await invoicing.invoices()
    assert invoice.total_nano == general.cumulative(4)
    assert [one.kind for one in invoice.findings] == [FindingKind.CORRECTED_TOTAL]


async def test_an_unknown_price_version_keeps_a_draft_and_no_other_invoice(invoicing, rater):
    await invoicing.add_customer("cus_b")
    other = Rater(invoice_card({"input-tokens": Package(amount_nano=9, per=2)}))
    lost = other.capture(2, {"input-tokens": 3}, NOVEMBER, customer_id="cus_b")
    await invoicing.settle(rater.capture(1, USED, NOVEMBER), lost)
    done = await invoicing.round_at(DECEMBER)
    assert (done.cut, done.closed) == (2, 1)
    assert done.waiting > 0
    await invoicing.rate_cards.publish(other.card)
    await invoicing.round_at(DECEMBER)
    assert [one.state for one in await invoicing.invoices()] == [InvoiceState.CLOSED] * 2


async def test_a_price_version_outlives_the_live_store(invoicing, rater):
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))
    await invoicing.round_at(NOVEMBER)  # Its price is in force then.
    invoicing.rate_cards._cards.clear()
    await invoicing.round_at(DECEMBER)
    assert [one.state for one in await invoicing.invoices()] == [InvoiceState.CLOSED]


async def test_many_workers_at_once_make_one_invoice_of_each_period(invoicing, rater):
    for name in "bcdefgh":
        await invoicing.add_customer(f"cus_{name}")
    records = [
        rater.capture(n, USED, NOVEMBER, customer_id=f"cus_{'abcdefgh'[n % 8]}") for n in range(40)
    ]
    await invoicing.settle(*records)
    invoicing.clock.instant = DECEMBER
    await asyncio.gather(*(invoicing.worker(batch_max=3).run_once() for _ in range(4)))
    await invoicing.round_at(DECEMBER)
    invoices = await invoicing.invoices()
    assert [one.number for one in invoices] == [1] * 8
    assert sum(one.total_nano for one in invoices) == sum(r.amount_nano for r in records)


async def test_a_preview_says_what_closing_would_and_writes_nothing(invoicing, rater):
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))
    before = await invoicing.service.preview("cus_a")
    assert await invoicing.pool.fetchval("SELECT count(*) FROM invoice_cursors") == 0
    await invoicing.round_at(NOVEMBER)
    preview = (await invoicing.service.preview("cus_a")).invoice
    assert before.invoice == preview
    assert preview.state is InvoiceState.PREVIEW
    await invoicing.round_at(DECEMBER)
    (closed,) = await invoicing.invoices()
    assert (preview.lines, preview.due_minor) == (closed.lines, closed.due_minor)
    with pytest.raises(NotFound):
        await invoicing.service.preview("cus_nobody")


async def test_closing_can_be_asked_for_once_the_period_is_over(invoicing, rater):
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))
    await invoicing.round_at(NOVEMBER)
    with pytest.raises(Conflict, match="runs until"):
        await invoicing.service.close("cus_a")
    invoicing.clock.instant = datetime(2026, 12, 1, 0, 10, tzinfo=UTC)
    assert (await invoicing.service.close("cus_a")).end.month == 12
    await invoicing.round_at(invoicing.clock.instant)
    assert [one.number for one in await invoicing.invoices()] == [1]


async def test_credit_notes_are_bounded_by_what_the_invoice_has_left(invoicing, rater):
    await invoicing.settle(rater.capture(1, {"input-tokens": 1_000}, NOVEMBER))
    await invoicing.round_at(DECEMBER)
    (invoice,) = await invoicing.invoices()
    total = invoice.total_nano
    made = await invoicing.service.credit(note(invoice, total - 5))
    assert await invoicing.service.credit(note(invoice, total - 5)) == made
    with pytest.raises(Conflict, match="other content"):
        await invoicing.service.credit(note(invoice, total - 6))
    with pytest.raises(Conflict, match="5 nano left"):
        await invoicing.service.credit(note(invoice, 6, name="cn_2"))
    with pytest.raises(InvalidInput):
        await invoicing.service.credit(note(invoice, 0, name="cn_2"))
    for _ in range(2):
        await invoicing.round_at(DECEMBER)
    assert (await invoicing.balance())["customer_receivable_nano"] == -5
    assert (await verify(invoicing.pool)).intact
    assert (await invoicing.book.read(invoice.invoice_id)).credited_nano == total - 5


async def test_no_line_is_credited_with_more_than_it_has_left(invoicing, rater):
    await invoicing.settle(rater.capture(1, {"input-tokens": 1_000, "cached": 3}, NOVEMBER))
    await invoicing.round_at(DECEMBER)
    (invoice,) = await invoicing.invoices()
    small = next(line for line in invoice.lines if line.meter == "cached")
    await invoicing.service.credit(note(invoice, lines=[(small.number, 5)]))
    for lines, error in (
        ([(small.number, small.amount_nano - 4)], Conflict),
        ([(99, 1)], NotFound),
        ([(small.number, 1), (small.number, 1)], InvalidInput),
        ([(small.number, -1)], InvalidInput),
    ):
        with pytest.raises(error):
            await invoicing.service.credit(note(invoice, name="cn_2", lines=lines))
    made = await invoicing.service.credit(
        note(invoice, name="cn_3", lines=[(small.number, small.amount_nano - 5)])
    )
    assert made.amount_nano == small.amount_nano - 5
    assert len(await invoicing.service.list_credit_notes(invoice.invoice_id, limit=10)) == 2


async def test_two_credit_notes_at_once_cannot_both_take_what_is_left(invoicing, rater):
    await invoicing.settle(rater.capture(1, {"input-tokens": 1_000}, NOVEMBER))
    await invoicing.round_at(DECEMBER)
    (invoice,) = await invoicing.invoices()
    answers = await asyncio.gather(
        *(
            invoicing.service.credit(note(invoice, invoice.total_nano, name=f"cn_{n}"))
            for n in range(5)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(one, CreditNote) for one in answers) == 1
    assert sum(isinstance(one, Conflict) for one in answers) == 4


async def test_a_void_invoice_is_owed_no_more_and_keeps_its_number(invoicing, rater):
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))
    await invoicing.round_at(DECEMBER)
    (invoice,) = await invoicing.invoices()
    await invoicing.service.void(invoice.invoice_id, credit_note_id="v1", reason="mistake")
    await invoicing.round_at(DECEMBER)
    (voided,) = await invoicing.invoices()
    assert (voided.state, voided.number, voided.total_nano) == (
        InvoiceState.VOID,
        1,
        invoice.total_nano,
    )
    assert (await invoicing.balance())["customer_receivable_nano"] == 0
    with pytest.raises(Conflict):
        await invoicing.service.credit(note(invoice, 1))
    await invoicing.settle(rater.capture(2, USED, DECEMBER))
    await invoicing.round_at(LATER)
    assert [one.number for one in await invoicing.invoices()] == [1, 2]


async def test_what_a_void_invoice_took_of_a_carried_amount_comes_back(invoicing, rater):
    captured = rater.capture(1, {"input-tokens": 1_000}, NOVEMBER)
    await invoicing.settle(captured)
    await invoicing.round_at(DECEMBER)
    await invoicing.settle(rater.correct(captured, {"input-tokens": 100}))
    await invoicing.round_at(LATER)  # The customer is owed 900 units.
    await invoicing.settle(rater.capture(2, {"input-tokens": 300}, LATER))
    await invoicing.round_at(datetime(2027, 2, 2, tzinfo=UTC))
    third = (await invoicing.invoices())[-1]
    assert (third.total_nano, third.due_nano) == (300 * 500, 0)
    await invoicing.service.void(third.invoice_id, credit_note_id="v1", reason="")
    await invoicing.round_at(datetime(2027, 2, 2, tzinfo=UTC))
    await invoicing.settle(
        rater.capture(3, {"input-tokens": 1_000}, datetime(2027, 2, 3, tzinfo=UTC))
    )
    await invoicing.round_at(datetime(2027, 3, 3, tzinfo=UTC))
    fourth = (await invoicing.invoices())[-1]
    assert (fourth.carried_nano, fourth.due_nano) == (-900 * 500, 100 * 500)
    assert fourth.due_minor == fourth.carried_minor == 0  # 0.00005 USD.


async def test_periods_can_follow_an_anchor_and_split_months_add_up(invoicing, rater):
    at = [datetime(2026, 11, day, 12, tzinfo=UTC) for day in (5, 20)]
    await invoicing.settle(*(rater.capture(n, USED, when) for n, when in enumerate(at)))
    await invoicing.round_at(at[1])
    await invoicing.service.set_anchor("cus_a", datetime(2026, 1, 15, tzinfo=UTC))
    await invoicing.settle(rater.capture(7, USED, DECEMBER))
    await invoicing.round_at(datetime(2026, 12, 20, tzinfo=UTC))
    invoices = await invoicing.invoices()
    assert [(one.period.start.day, one.period.end.day) for one in invoices] == [(1, 15), (15, 15)]
    assert [one.findings for one in invoices] == [(), ()]
    owed = -(await invoicing.balance())["customer_receivable_nano"]
    assert sum(one.total_nano for one in invoices) == owed


async def test_usage_from_before_a_chosen_instant_is_on_no_invoice(postgres_pool):
    invoicing = Invoicing(postgres_pool, since=datetime(2026, 12, 1, tzinfo=UTC))
    await invoicing.add_customer()
    rater = Rater(invoicing.cards[0])
    await invoicing.settle(rater.capture(1, USED, NOVEMBER), rater.capture(2, USED, DECEMBER))
    await invoicing.round_at(LATER)
    assert [one.period.start.month for one in await invoicing.invoices()] == [12]


async def test_what_a_closed_invoice_says_cannot_be_changed(invoicing, rater):
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))
    await invoicing.round_at(DECEMBER)
    for statement in (
        "UPDATE invoices SET total_nano = total_nano + 1",
        "UPDATE invoices SET number = 7",
        "UPDATE invoices SET state = 'draft', number = NULL, closed_at = NULL",
        "DELETE FROM invoices",
        "UPDATE invoice_lines SET amount_nano = 0",
        "DELETE FROM invoice_parts",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await invoicing.pool.execute(statement)


async def test_a_line_names_its_events_and_an_event_its_line(invoicing, rater):
    early, late = (rater.capture(n, USED, NOVEMBER) for n in (1, 2))
    await invoicing.settle(early)
    await invoicing.round_at(DECEMBER)
    await invoicing.settle(late, rater.capture(3, USED, DECEMBER))
    assert {
        one.invoice_id for one in await invoicing.service.trace(late.hold_id, customer_id=None)
    } == {None}
    await invoicing.round_at(LATER)
    for invoice in await invoicing.invoices():
        for line in invoice.lines:
            events = await invoicing.service.list_line_events(
                invoice.invoice_id, line.number, after=("", ""), limit=10
            )
            assert sum(one.amount_nano for one in events) == line.amount_nano
            assert len(events) == line.events
            for event in events:
                found = await invoicing.service.trace(event.hold_id, customer_id=None)
                (traced,) = [one for one in found if one.meter == line.meter]
                assert (traced.invoice_id, traced.line_number) == (
                    invoice.invoice_id,
                    line.number,
                )
                assert traced.transaction_id == event.transaction_id
                assert traced.chain_seq is not None
    with pytest.raises(NotFound):
        await invoicing.service.trace("0" * 40, customer_id="cus_a")


async def test_the_list_is_paged_with_the_latest_first(invoicing, rater):
    await invoicing.settle(rater.capture(1, USED, NOVEMBER), rater.capture(2, USED, DECEMBER))
    await invoicing.round_at(LATER)
    (first,) = await invoicing.service.list(InvoiceFilter(), before=None, limit=1)
    (second,) = await invoicing.service.list(
        InvoiceFilter(), before=(first.period.end, first.invoice_id), limit=5
    )
    assert (first.number, second.number) == (2, 1)
    void = InvoiceFilter(customer_id="cus_a", state=InvoiceState.VOID)
    assert await invoicing.service.list(void, before=None, limit=5) == []


async def test_a_store_that_is_away_is_waited_for(invoicing, rater):
    await invoicing.settle(rater.capture(1, USED, NOVEMBER))

    async def away(*_: object) -> None:
        raise StoreUnavailable("redis is away")

    read, invoicing.stream.read = invoicing.stream.read, away
    assert (await invoicing.round_at(DECEMBER)).waiting == 1
    invoicing.stream.read = read
    await invoicing.pool.execute("UPDATE invoice_cursors SET leased_until = NULL")
    assert (await invoicing.round_at(DECEMBER)).closed == 1


async def test_prepaid_usage_was_paid_from_credit_and_nothing_is_due(invoicing):
    record = usage_record(1, at=NOVEMBER, prepaid=True, overage_nano=7_000)
    card = replace(invoice_card(), plan="prepaid")
    await invoicing.rate_cards.publish(card)
    event = replace(record.event, price_version=card.version)
    await invoicing.settle(replace(record, event=event))
    await invoicing.round_at(DECEMBER)
    (invoice,) = await invoicing.invoices()
    assert invoice.total_nano == invoice.credit_nano == record.amount_nano
    assert (invoice.due_nano, invoice.overage_nano) == (0, 7_000)
    assert {line.due_minor for line in invoice.lines} == {0}


async def test_what_a_period_s_end_decides_is_charged_and_posted(postgres_pool):
    tiers = (Tier(up_to=100, amount_nano=900), Tier(up_to=None, amount_nano=400))
    prices = PRICES | {
        "requests": Volume(tiers=tiers),
        "": Flat(amount_nano=7_000_000_000),
        "floor": Minimum(amount_nano=8_000_000_000),
    }
    invoicing = Invoicing(postgres_pool, cards=(invoice_card(prices),))
    await invoicing.add_customer()
    await invoicing.add_customer("cus_idle")
    rater = Rater(invoicing.cards[0])
    used = {"input-tokens": 10, "requests": 150}
    await invoicing.settle(*(rater.capture(n, used, NOVEMBER) for n in (1, 2)))
    await invoicing.round_at(NOVEMBER)
    preview = (await invoicing.service.preview("cus_a")).invoice
    await invoicing.round_at(DECEMBER)
    busy, idle = await invoicing.invoices()
    assert preview.lines == busy.lines
    assert [line.amount_nano for line in busy.lines if line.charge] == [
        300 * 400,
        7_000_000_000,
        8_000_000_000 - 7_000_000_000 - 300 * 400 - 20 * 500,
    ]
    assert busy.total_nano == idle.total_nano == 8_000_000_000
    for invoice in (busy, idle):
        balance = await invoicing.balance(invoice.customer_id)
        assert invoice.due_nano == -balance["customer_receivable_nano"]
    assert (await invoicing.balance())["used_nano"] == 20 * 500
    assert await invoicing.ledger.read_available("cus_a") == -20 * 500
    await invoicing.round_at(DECEMBER)
    await invoicing.settle(rater.capture(3, used, NOVEMBER))  # Too late for the volume's total.
    await invoicing.round_at(LATER)
    december = (await invoicing.invoices())[1]
    assert december.findings == ()
    # What it costs by that total, and what the minimum need not add any more: to nothing in all.
    late = {line.meter: line for line in december.lines if line.late and line.charge}
    assert {line.period for line in late.values()} == {busy.period}
    assert (late["requests"].quantity, late["requests"].amount_nano) == (150, 150 * 400)
    assert late["floor"].amount_nano == -150 * 400 - 10 * 500
    assert (await verify(invoicing.pool)).intact
