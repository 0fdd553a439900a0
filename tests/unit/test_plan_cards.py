"""Versions and overrides of a policy file: which prices whoever asks at an instant has."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fixtures.http_edges import FixedPolicies, make_policy
from fixtures.memory_accounts import MemoryRateCards
from fixtures.use_cases import UseCases

from sidecar.domain.card_schedules import CardSchedule, Timeline
from sidecar.domain.errors import ConfigError
from sidecar.domain.invoices import LatePolicy
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import FreeQuota, PerUnit, PriceLine, RateCard
from sidecar.domain.usage import TokenUsage
from sidecar.outbound.policy_files.loader import load_policy
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.services.publishing import PublishedPolicies

HEAD = """
meters: [{name: calls, value: requests}, {name: tokens, value: usage.total}]
plans:
  - name: pro
    billing: postpaid
    currency: USD
    tax_behavior: inclusive
    stripe: {product: prod_1}
"""
CHANGING = (
    HEAD
    + """    on_change: ON_CHANGE
    prices:
      - {meter: calls, model: per_unit, amount: "1", stripe: {price: price_1}}
      - {meter: tokens, model: per_unit, amount: "2", models: [a, b], free: 62}
      - {model: flat, amount: "9"}
    versions:
      - effective_at: "2027-03-01T00:00:00Z"
        prices:
          - {meter: calls, model: per_unit, amount: "3"}
          - {meter: tokens, model: per_unit, amount: "2", models: [a, b], free: 62}
    overrides:
      - customers: [ada, bob]
        effective_at: "2027-01-16T12:00:00Z"
        until: "2027-04-01T00:00:00Z"
        prices:
          - {meter: tokens, model: per_unit, amount: "1", models: [b, c], free: 62}
          - {model: flat, amount: "5"}
      - customers: [bob]
        effective_at: "2027-04-01T00:00:00Z"
        prices: [{meter: calls, model: per_unit, amount: "7"}]
versions:
  - plan: pro
    effective_at: "2027-02-01T00:00:00Z"
    prices: [{meter: calls, model: per_unit, amount: "2"}]
"""
)
ANYONE = MeterPrincipal(name="gateway")


def policy_of(folder: Path, text: str, on_change: str = "reset") -> Policy:
    (folder / "1.yaml").write_text(text.replace("ON_CHANGE", on_change))
    return load_policy(folder).policy


def on(month: int, day: int = 1, hour: int = 0) -> datetime:
    return datetime(2027, month, day, hour, tzinfo=UTC)


def prices(policy: Policy, customer: str, instant: datetime) -> dict[tuple[str, str], str]:
    """Amounts in whole units by meter and model, as the card of that instant has them."""
    card = policy.card_for("pro", customer, instant)
    assert card is not None
    return {
        (line.meter, model): str(
            (line.price.price if isinstance(line.price, FreeQuota) else line.price).amount_nano
            // 10**9
        )
        for line in card.lines
        for model in line.models or ("",)
    }


def test_the_newest_version_that_has_begun_counts_wherever_it_stands(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, CHANGING)
    first = {("calls", ""): "1", ("tokens", "a"): "2", ("tokens", "b"): "2", ("", ""): "9"}
    assert prices(policy, "eve", on(1)) == first
    assert prices(policy, "eve", on(2) - timedelta(microseconds=1)) == first
    assert prices(policy, "eve", on(2)) == {("calls", ""): "2"}
    assert prices(policy, "eve", on(3)) == {
        ("calls", ""): "3",
        ("tokens", "a"): "2",
        ("tokens", "b"): "2",
    }
    assert policy.cards["pro"] == policy.card_for("pro", "eve", on(1))


def test_an_override_lies_on_whichever_version_is_in_force(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, CHANGING)
    own = {("tokens", "b"): "1", ("tokens", "c"): "1", ("", ""): "5"}
    assert prices(policy, "ada", on(1)) == prices(policy, "eve", on(1))
    assert prices(policy, "ada", on(1, 20)) == {("calls", ""): "1", ("tokens", "a"): "2", **own}
    assert prices(policy, "ada", on(2)) == {("calls", ""): "2", **own}
    assert prices(policy, "ada", on(3)) == {("calls", ""): "3", ("tokens", "a"): "2", **own}
    assert prices(policy, "ada", on(4)) == prices(policy, "eve", on(4))
    assert prices(policy, "bob", on(3)) == prices(policy, "ada", on(3))
    assert prices(policy, "bob", on(4))[("calls", "")] == "7"


def test_customers_of_one_override_share_their_cards(tmp_path: Path) -> None:
    both = CHANGING.replace("customers: [bob]", "customers: [ada, bob]")
    schedule = policy_of(tmp_path, both).schedules["pro"]
    assert schedule.of("ada") is schedule.of("bob")
    assert len({card.version for one in schedule.timelines for card in one.cards}) == len(
        policy_of(tmp_path, both).all_cards
    )


def test_a_plan_of_one_list_of_prices_has_no_schedule(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, HEAD + "    prices: []\n")
    assert policy.schedules == {}
    assert policy.card_for("pro", "ada", on(1)) is policy.cards["pro"]


def test_lines_that_go_on_keep_their_totals_where_the_plan_says_so(tmp_path: Path) -> None:
    def names(policy: Policy, customer: str, month: int) -> tuple[str, ...]:
        card = policy.card_for("pro", customer, on(month))
        assert card is not None
        return tuple(
            card.total_name(index) for index, line in enumerate(card.lines) if "a" in line.models
        )

    reset, carry = (policy_of(tmp_path, CHANGING, word) for word in ("reset", "carry"))
    assert names(reset, "eve", 1) != names(reset, "eve", 3)
    assert names(carry, "eve", 1) == names(carry, "eve", 3)
    # For ada the line lost a model to the override: it is another line.
    assert names(carry, "ada", 3) != names(carry, "eve", 3)


def test_only_what_begins_within_a_month_has_its_quota_cut(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, CHANGING, "prorate")
    cards = [policy.card_for("pro", "ada", on(*when)) for when in ((1, 1), (1, 20), (2, 1), (3, 1))]
    since = [
        {line.models: line.since for card in cards[n : n + 1] if card for line in card.lines}
        for n in range(len(cards))
    ]
    assert since[0][("a", "b")] is None
    assert since[1][("b", "c")] == since[2][("b", "c")] == on(1, 16, 12)
    assert since[1][("a",)] == on(1, 16, 12)
    assert since[3][("a",)] == on(3)
    general = policy.card_for("pro", "eve", on(3))
    assert general is not None
    # The line was not in force in February, so in March it begins.
    assert [line.since for line in general.lines if line.models] == [on(3)]


def test_hints_are_carried_and_decide_no_version(tmp_path: Path) -> None:
    card = policy_of(tmp_path, CHANGING).cards["pro"]
    assert (card.hints.tax_behavior, card.hints.stripe) == ("inclusive", {"product": "prod_1"})
    assert card.lines[0].hints.stripe == {"price": "price_1"}
    assert card.lines[0].hints.tax_behavior == "inclusive"
    plain = CHANGING.replace(", stripe: {price: price_1}", "").replace("inclusive", "exclusive")
    other = policy_of(tmp_path, plain).cards["pro"]
    assert other.version == card.version
    assert "prod_1" not in card.content()


def test_a_policy_has_only_so_many_price_versions(tmp_path: Path) -> None:
    entries = "\n".join(
        f'      - {{customers: [c{n}], prices: [{{meter: calls, model: per_unit, amount: "{n}"}}]}}'
        for n in range(501)
    )
    with pytest.raises(ConfigError, match="at most 500 are allowed"):
        policy_of(tmp_path, f"{HEAD}    prices: []\n    overrides:\n{entries}\n")


async def test_each_card_is_published_before_the_policy_counts(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, CHANGING)
    cards = MemoryRateCards()
    published = PublishedPolicies(FixedPolicies(policy), cards, poll_seconds=0.001)
    await published.publish()
    for customer in ("eve", "ada", "bob"):
        for month in range(1, 6):
            card = policy.card_for("pro", customer, on(month))
            assert card is not None
            assert cards.cards[card.version] == card


def changing_at(instant: datetime) -> Policy:
    """1,000 nano a token of the prepaid plan, and 5,000 from the instant on."""
    policy = make_policy()
    before = policy.cards["prepaid"]
    line = PriceLine(meter="input-tokens", price=PerUnit(amount_nano=5_000))
    after: RateCard = replace(before, lines=(line,))
    schedule = CardSchedule(general=Timeline(cards=(before, after), starts=(instant,)))
    return replace(policy, schedules={"prepaid": schedule})


async def test_a_check_takes_the_prices_of_its_instant_and_its_usage_keeps_them() -> None:
    instant = UseCases().clock.now() + timedelta(seconds=10)
    cases = UseCases(changing_at(instant))
    await cases.customer()
    held = await cases.hold(1)
    assert held.amount_nano == 100 * 1_000
    cases.clock.advance(10)
    later = await cases.hold(2)
    assert later.amount_nano == 100 * 5_000
    amounts = []
    for terms in (later, held):
        report = cases.report(hold_id=terms.hold_id, usage=TokenUsage(input=10, output=0))
        amounts.append((await cases.metering.capture(report, ANYONE)).amount_nano)
    assert amounts == [50_000, 10_000]


async def test_usage_without_a_check_has_the_prices_of_when_it_occurred() -> None:
    unheld = MeterPrincipal(name="app", may_send_unheld=True)
    instant = datetime(2026, 1, 20, tzinfo=UTC)
    cases = UseCases(changing_at(instant))
    await cases.customer()
    amounts = []
    for number, occurred in enumerate((instant, instant - timedelta(seconds=1))):
        report = cases.report(
            customer_id="cus_1",
            event_id=f"evt-{number}",
            occurred_at=occurred,
            usage=TokenUsage(input=10, output=0),
        )
        amounts.append((await cases.metering.capture(report, unheld)).amount_nano)
    assert amounts == [50_000, 10_000]


def test_where_late_usage_goes_renames_no_prices(tmp_path: Path) -> None:
    prices = '    prices: [{meter: calls, model: per_unit, amount: "1"}]\n'
    versions = set()
    for number, stated in enumerate(("", "    late_usage: write_off\n")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "p.yaml").write_text(HEAD + stated + prices)
        policy = load_policy(folder).policy
        assert dict(policy.late_usage) == ({"pro": LatePolicy.WRITE_OFF} if stated else {})
        versions.add(policy.cards["pro"].version)
    assert len(versions) == 1
