"""Which plan a subscription's prices mean, and plans that the policy does not have."""

from types import SimpleNamespace

import pytest

from sidecar.app.inbox import check_plans
from sidecar.app.looking import look_at_plans
from sidecar.domain.errors import ConfigError
from sidecar.services.provider_objects import FetchedSubscription
from sidecar.services.standing import PlanMap
from sidecar.services.subscribed_plans import plans_of
from sidecar.settings_reports import StripeDefaults


def hints(**stripe: str) -> SimpleNamespace:
    return SimpleNamespace(stripe=stripe)


POLICY = SimpleNamespace(
    cards={
        "pro": SimpleNamespace(
            hints=hints(product="prod_pro"),
            lines=(SimpleNamespace(hints=hints(lookup_key="pro_base")),),
        ),
        "team": SimpleNamespace(
            hints=hints(product="prod_shared"),
            lines=(SimpleNamespace(hints=hints(price="price_team")),),
        ),
        "free": SimpleNamespace(hints=hints(product="prod_shared"), lines=()),
    }
)


@pytest.mark.parametrize(
    ("prices", "written", "plans"),
    [
        (("price_x", "pro_base", "prod_x"), (), ("pro",)),
        (("price_x", "key", "prod_pro"), (), ("pro",)),
        (("price_team",), (), ("team",)),
        (("price_team", "prod_shared"), (), ("team",)),
        (("prod_shared",), (), ()),
        (("price_team", "pro_base"), (), ("team", "pro")),
        (("price_x",), ("pro",), ("pro",)),
        (("price_team",), ("pro",), ("team",)),
        (("mapped", "price_team"), ("pro",), ("free",)),
        ((), (), ()),
    ],
)
def test_the_settings_count_before_the_policy_and_that_before_metadata(prices, written, plans):
    found = FetchedSubscription(
        subscription_id="sub_1",
        provider_customer_id="cus",
        status="active",
        prices=prices,
        livemode=False,
        plans=written,
    )
    assert plans_of(found, PlanMap({"mapped": "free"}), POLICY) == plans


@pytest.mark.parametrize(
    ("stripe", "words"),
    [
        ({"plans": {"price_1": "gold"}}, "stripe.plans.price_1 is 'gold'"),
        ({"plans": {"price_1": "pro"}, "ended_plan": "fre"}, "stripe.ended_plan is 'fre'"),
    ],
)
def test_a_plan_that_the_policy_lacks_is_named_with_its_place(stripe, words):
    settings = SimpleNamespace(stripe=StripeDefaults(**stripe))
    with pytest.raises(ConfigError, match=words) as caught:
        check_plans(settings, POLICY)
    assert "its plans are: free, pro, team" in str(caught.value)


def test_plans_that_the_policy_has_are_listed():
    named = StripeDefaults(plans={"a": "pro", "b": "pro"}, ended_plan="free")
    assert look_at_plans(SimpleNamespace(stripe=named), POLICY) == "subscriptions give free, pro"
