"""
What every billing provider must do, whichever it is: one suite over all of them.

A new provider adds itself to `COLLECTING` or `METERING` in fixtures/provider_parts.py.
"""

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from fixtures.provider_parts import (
    COLLECTING,
    METERING,
    ROW,
    SECRET,
    SIGNING,
    answering,
    silent,
)

from sidecar.domain.collecting import CollectOutcome
from sidecar.domain.errors import Conflict
from sidecar.services.control_ports import ReportVerdict
from sidecar.services.provider_ports import CollectAnswer
from sidecar.standins.stripe_faults import Fault

PAID, PENDING = CollectOutcome.PAID, CollectOutcome.PENDING
UNKNOWN, ABSENT = CollectOutcome.UNKNOWN, CollectOutcome.ABSENT
FAILED, REFUSED = CollectOutcome.FAILED, CollectOutcome.REFUSED
RETRIES = {ReportVerdict.RETRY, ReportVerdict.RETRY_ROTATED}
DELIVERED = {ReportVerdict.DELIVERED, ReportVerdict.DUPLICATE}
LOST = (Fault.DROP_AFTER_COMMIT, Fault.ERROR_AFTER_COMMIT)


@pytest.fixture(params=COLLECTING)
def provider(request):
    return COLLECTING[request.param]()


@pytest.fixture(params=METERING)
def meters(request):
    return METERING[request.param]()


@asynccontextmanager
async def before(provider, url: str):
    made, close = provider.make(url)
    try:
        yield made
    finally:
        await close()


async def settle(provider, collector) -> CollectAnswer:
    """What a later worker does: ask, and send the same again where it must."""
    provider.pay()
    answer = await collector.verify(provider.again())
    if answer.outcome is ABSENT:
        await collector.collect(provider.again(), provider.note)
        provider.pay()
        answer = await collector.verify(provider.again())
        if answer.outcome is ABSENT:
            answer = await collector.collect(provider.again(), provider.note)
    return answer


async def test_the_same_reference_is_the_same_payment(provider):
    async with provider.serving() as url, before(provider, url) as collector:
        first = await collector.collect(provider.demand(), provider.note)
        assert first.outcome in (PAID, PENDING)
        again = await collector.collect(provider.again(), provider.note)
        assert again.outcome is first.outcome
        assert (await settle(provider, collector)).outcome is PAID
        assert provider.live() == 1
        assert len(set(provider.noted)) <= 1


@pytest.mark.parametrize("fault", LOST)
async def test_an_answer_that_is_lost_at_any_step_is_unknown_and_found_by_asking(provider, fault):
    for step in provider.writes:
        fresh = type(provider)()
        fresh.faults.add(*[Fault.NONE] * step, fault)
        async with fresh.serving() as url, before(fresh, url) as collector:
            answer = await collector.collect(fresh.demand(), fresh.note)
            assert answer.outcome is UNKNOWN, step
            assert (await settle(fresh, collector)).outcome is PAID, step
            assert fresh.live() == 1, step


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE_COMMIT, Fault.ERROR_BEFORE_COMMIT])
async def test_what_took_no_effect_is_unknown_too_and_sent_again(provider, fault):
    for step in provider.writes:
        fresh = type(provider)()
        fresh.faults.add(*[Fault.NONE] * step, fault)
        async with fresh.serving() as url, before(fresh, url) as collector:
            assert (await collector.collect(fresh.demand(), fresh.note)).outcome is UNKNOWN
            assert (await settle(fresh, collector)).outcome is PAID
            assert fresh.live() == 1


@pytest.mark.parametrize("name", [name for name, kind in COLLECTING.items() if kind.errors])
async def test_a_definitive_failure_says_so_and_has_taken_nothing(name):
    provider = COLLECTING[name]()
    provider.fail()
    async with provider.serving() as url, before(provider, url) as collector:
        answer = await collector.collect(provider.demand(), provider.note)
        assert answer.outcome in (FAILED, REFUSED)
        assert (await collector.verify(provider.again())).outcome in (answer.outcome, ABSENT)


async def test_a_reference_that_was_never_sent_is_absent_and_asking_makes_nothing(provider):
    async with provider.serving() as url, before(provider, url) as collector:
        assert (await collector.verify(provider.demand())).outcome is ABSENT
        assert provider.live() == 0


async def test_what_cannot_be_noted_is_not_made_live(provider):
    async def lost(name: str) -> None:
        raise Conflict(f"another worker has it: {name}")

    async with provider.serving() as url, before(provider, url) as collector:
        try:
            await collector.collect(provider.demand(), lost)
        except Conflict:
            assert provider.live() == 0
        else:
            # It has keys for repeats of its own, and notes nothing.
            assert provider.live() == 1


async def test_a_currency_that_it_does_not_take_is_refused_before_anything_is_sent(provider):
    async with silent() as url, before(provider, url) as collector:
        demand = provider.demand(currency=provider.wrong_currency)
        assert demand.currency not in collector.capabilities.currencies[demand.way]
        assert demand.currency != provider.demand().currency
        answer = await collector.collect(demand, provider.note)
        assert answer.outcome is REFUSED
        assert provider.wrong_currency in answer.detail
        assert provider.currency in collector.capabilities.currencies[provider.way]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>hello</html>"),
        (200, b"[1]"),
        (200, b'"paid"'),
        (200, b'{"paid": 1, "status": 1}'),
        (200, b'{"status": true, "paid": "yes", "data": {"status": "success"}}'),
        (200, b'{"status": false, "paid": 0}'),
        (200, b"[" * 60_000),
        (200, b'{"status": true, "paid": true, "x": "' + b"x" * 2_000_000 + b'"}'),
        (302, b'{"paid": true, "status": true}'),
        (401, b'{"status": false, "message": "Invalid key sk_test_standin"}'),
        (429, b"{}"),
        (500, b'{"paid": true, "status": true}'),
    ],
)
async def test_what_is_no_clear_answer_is_unknown_whatever_was_asked(provider, status, body):
    async with answering(status, body) as url, before(provider, url) as collector:
        demand = provider.demand(provider_reference="PRQ_1")
        for asked in (demand, replace(demand, retried=True)):
            answer = await collector.collect(asked, provider.note)
            assert answer.outcome is UNKNOWN, answer
            assert len(answer.detail) <= 500
            assert SECRET not in answer.detail
        assert (await collector.verify(demand)).outcome in (UNKNOWN, ABSENT)


async def test_silence_is_unknown(provider):
    async with silent() as url, before(provider, url) as collector:
        assert (await collector.collect(provider.demand(), provider.note)).outcome is UNKNOWN


async def test_a_limit_of_rate_is_unknown_and_says_how_long_to_wait(provider):
    provider.faults.add(Fault.RATE_LIMIT)
    async with provider.serving() as url, before(provider, url) as collector:
        answer = await collector.collect(provider.demand(), provider.note)
        assert answer.outcome is UNKNOWN
        assert (answer.wait is not None) == provider.says_wait
        assert answer.wait is None or answer.wait.total_seconds() > 0
        assert provider.live() == 0


async def test_no_secret_shows_in_what_is_printed(provider):
    async with silent() as url, before(provider, url) as collector:
        shown = repr(collector) + repr(provider.demand()) + repr(collector.__dict__)
    for secret in (SECRET, SIGNING, "AUTH_of_a_card", "a@example.com"):
        assert secret not in shown


async def test_the_same_identifier_counts_once(meters):
    async with meters.serving() as url, before(meters, url) as reporter:
        assert (await reporter.report(ROW)).verdict is ReportVerdict.DELIVERED
        rotated = replace(ROW, http_generation=1, attempts=2)
        assert (await reporter.report(rotated)).verdict in DELIVERED
        assert meters.counted() == ROW.quantity


@pytest.mark.parametrize("fault", LOST)
async def test_a_row_whose_answer_is_lost_is_sent_again_and_counts_once(meters, fault):
    meters.faults.add(fault)
    async with meters.serving() as url, before(meters, url) as reporter:
        first = await reporter.report(ROW)
        assert first.verdict in RETRIES
        rotated = int(first.verdict is ReportVerdict.RETRY_ROTATED)
        later = replace(ROW, attempts=2, http_generation=rotated)
        assert (await reporter.report(later)).verdict in DELIVERED
        assert meters.counted() == ROW.quantity


@pytest.mark.parametrize("status", [302, 401, 403, 409, 429, 500, 503])
async def test_a_row_that_is_refused_for_now_is_kept(meters, status):
    body = b'{"error": {"message": "no, sk_test_standin", "type": "api_error"}}'
    async with answering(status, body) as url, before(meters, url) as reporter:
        attempt = await reporter.report(ROW)
        assert attempt.verdict in RETRIES
        if status in (401, 403):  # Where a provider's words may quote the key.
            assert SECRET not in attempt.detail


async def test_a_row_that_will_never_be_taken_is_rejected(meters):
    body = b'{"error": {"message": "no such meter", "type": "invalid_request_error"}}'
    async with answering(400, body) as url, before(meters, url) as reporter:
        assert (await reporter.report(ROW)).verdict is ReportVerdict.REJECTED


async def test_silence_about_a_row_is_asked_again(meters):
    async with silent() as url, before(meters, url) as reporter:
        assert (await reporter.report(ROW)).verdict in RETRIES
