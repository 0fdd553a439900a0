"""The part of the policy's table that is about plans and what they cost."""

import re
from dataclasses import dataclass

import yaml

from sidecar.domain.errors import InvalidInput
from sidecar.domain.invoices import LatePolicy
from sidecar.domain.orphans import COUNTED_MAX, OrphanSettling
from sidecar.domain.price_models import TIERS_MAX
from sidecar.domain.pricing import Billing, OnChange, RoundPackages, TaxBehavior
from sidecar.domain.usage import QUANTITY_MAX
from sidecar.outbound.policy_files import texts
from sidecar.outbound.policy_files.reading import (
    TAG_INT,
    TAG_STR,
    Invalid,
    JsonSchema,
    Reader,
    describe,
)
from sidecar.outbound.policy_files.records import Field, ListOf, Record
from sidecar.outbound.policy_files.scalars import Choice, Number, Text
from sidecar.outbound.policy_files.unions import WordOr

PRICE_MODELS = (
    "per_unit",
    "package",
    "graduated",
    "volume",
    "flat",
    "minimum",
    "cost_plus",
)
PER_MAX = 10**12
ENDLESS = "inf"
_MARKUP = re.compile(r"([0-9]{1,4})(?:\.([0-9]{1,2}))? ?%", re.ASCII)

_MARKUP_FORM = "a percentage with at most two decimals, such as 20% or 12.5%"


@dataclass(frozen=True, slots=True)
class UpTo:
    """Where a tier ends: a quantity, or the word for no end; the latter is read as 0."""

    number: Number

    def read(self, node: yaml.Node, reader: Reader) -> int | Invalid:
        """The quantity."""
        if isinstance(node, yaml.ScalarNode) and node.tag == TAG_STR and node.value == ENDLESS:
            return 0
        if not isinstance(node, yaml.ScalarNode) or node.tag != TAG_INT:
            what = f"a whole number of units, or {ENDLESS}"
            return reader.refuse(node, f"found {describe(node)}; expected {what}")
        return self.number.read(node, reader)

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """Either."""
        return {"anyOf": [self.number.schema(defs), {"enum": [ENDLESS]}]}


def read_markup(text: str) -> int:
    """
    A percentage with at most two decimals, in hundredths of a percent.

    Raises:
        InvalidInput: If it is none.
    """
    match = _MARKUP.fullmatch(text)
    if match is None:
        raise InvalidInput(f"found {text[:40]!r}; expected {_MARKUP_FORM}")
    return int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))


MARKUP = Text(
    what=_MARKUP_FORM,
    pattern=r"[0-9]{1,4}(\.[0-9]{1,2})? ?%",
    length_max=12,
    parse=read_markup,
)
PROVIDER_ID = Text(what="an id or key of the provider's", pattern=r"[A-Za-z0-9_.:-]{1,200}")
STRIPE = Record(
    name="stripe hints",
    doc="What exists at Stripe already; the catalog takes it up instead of making its own.",
    fields={
        "product": Field(spec=PROVIDER_ID, doc="A product's id."),
        "price": Field(spec=PROVIDER_ID, doc="A price's id."),
        "lookup_key": Field(spec=PROVIDER_ID, doc="The price's lookup key."),
    },
)
TAX_BEHAVIOR = Field(
    spec=Choice(tuple(TaxBehavior)),
    doc="Whether amounts contain tax; told to the provider. Absent: the plan's, or unspecified.",
)
TIER = Record(
    name="tier",
    doc="Units of the total up to an end, from where the tier before ends.",
    fields={
        "up_to": Field(
            spec=UpTo(Number(1, QUANTITY_MAX)),
            doc="Its last unit; inf: no end, of the last tier.",
            required=True,
        ),
        "amount": Field(spec=texts.AMOUNT, doc='For the price\'s `per` units; absent: "0".'),
        "flat": Field(spec=texts.AMOUNT, doc='Due once, with the tier\'s first unit; absent: "0".'),
    },
)
COST_PLUS = Record(
    name="cost plus",
    doc="What a provider takes, and the share that is added.",
    fields={
        "cost": Field(spec=texts.AMOUNT, doc="The provider's, for `per` units.", required=True),
        "per": Field(spec=Number(1, PER_MAX), doc="Units that the cost is for.", default=1),
        "markup": Field(spec=MARKUP, doc="Share of the cost that is added.", required=True),
    },
)
PRICE = Record(
    name="price",
    doc="A meter's price, or a fee of the period.",
    fields={
        "meter": Field(spec=texts.NAME, doc="The meter; a flat price and a minimum have none."),
        "model": Field(
            spec=Choice(PRICE_MODELS),
            doc="per_unit: linear; package: by begun packages of the running total; graduated: "
            "each unit by its tier; volume: all units by the total's tier; flat: per period; "
            "minimum: the least that a period comes to; cost_plus: a provider's cost and a share.",
            required=True,
        ),
        "amount": Field(
            spec=texts.AMOUNT,
            doc="For `per` units or for the period, in the plan's currency.",
        ),
        "per": Field(spec=Number(1, PER_MAX), doc="Units that an amount is for.", default=1),
        "round": Field(
            spec=Choice(tuple(RoundPackages)),
            doc="Package: whether a begun one counts; absent: up.",
        ),
        "tiers": Field(
            spec=ListOf(TIER), doc=f"Of graduated and volume, ascending; at most {TIERS_MAX}."
        ),
        "cost_plus": Field(spec=COST_PLUS, doc="Of cost_plus: cost and mark-up."),
        "free": Field(
            spec=Number(1, QUANTITY_MAX),
            doc="Units of each period that cost nothing; the price begins behind them.",
        ),
        "models": Field(
            spec=ListOf(texts.FREE_NAME),
            doc="LLM models of this price; absent: any that has no price of its own.",
        ),
        "tax_behavior": TAX_BEHAVIOR,
        "stripe": Field(spec=STRIPE, doc="What of it exists at Stripe already."),
    },
)
VERSION = Record(
    name="plan version",
    doc="Prices that take the place of all earlier ones at an instant.",
    fields={
        "effective_at": Field(spec=texts.INSTANT, doc="From when on.", required=True),
        "prices": Field(
            spec=ListOf(PRICE, may_be_empty=True), doc="All prices from then on.", required=True
        ),
    },
)
DATED_VERSION = Record(
    name="dated prices",
    doc="A version of a plan that stands elsewhere: a price list may have a file of its own.",
    fields={
        "plan": Field(spec=texts.NAME, doc="The plan.", required=True),
        **VERSION.fields,
    },
)
OVERRIDE = Record(
    name="plan override",
    doc="Prices of named customers, in the place of the plan's for the same meter and model.",
    fields={
        "customers": Field(spec=ListOf(texts.FREE_NAME), doc="Whose prices.", required=True),
        "prices": Field(spec=ListOf(PRICE), doc="What is priced otherwise.", required=True),
        "effective_at": Field(spec=texts.INSTANT, doc="From when on; absent: since ever."),
        "until": Field(spec=texts.INSTANT, doc="Until when, exclusive; absent: for ever."),
    },
)
ORPHANS = WordOr(
    word=Choice(tuple(OrphanSettling)),
    record=Record(
        name="orphans",
        doc="What becomes of holds that expire without usage.",
        fields={
            "settle": Field(
                spec=Choice(tuple(OrphanSettling)),
                doc="release: nothing is charged; capture: the estimate is.",
                default="release",
            ),
            "proof": Field(
                spec=Choice(("heartbeat", "none")),
                doc="What has to show that the request was served, before it is charged.",
                default="heartbeat",
            ),
            "count": Field(
                spec=Number(0, COUNTED_MAX),
                doc="A customer with more of them in an hour is settled by capture.",
                default=100,
            ),
            "share": Field(
                spec=texts.PERCENT,
                doc="So is one with a larger share of an hour's holds, from 20 on; absent: 10%.",
            ),
        },
    ),
    example="{settle: capture}",
)
PLAN = Record(
    name="plan",
    doc="Prices, and how usage is paid.",
    fields={
        "name": Field(spec=texts.NAME, doc="Unique among plans; customers name it.", required=True),
        "title": Field(
            spec=texts.FREE_NAME, doc="The name that people read; absent: the plan's name."
        ),
        "billing": Field(
            spec=Choice(
                tuple(Billing),
            ),
            doc="prepaid burns credit; postpaid is invoiced; credit_then_invoice burns what credit "
            "there is and invoices the rest.",
            required=True,
        ),
        "currency": Field(spec=texts.CURRENCY, doc="Of all its amounts.", required=True),
        "features": Field(spec=ListOf(texts.NAME), doc="What its customers are entitled to."),
        "prices": Field(
            spec=ListOf(PRICE, may_be_empty=True),
            doc="Prices of its meters, until a version takes their place.",
            required=True,
        ),
        "versions": Field(spec=ListOf(VERSION), doc="Prices from later instants on."),
        "overrides": Field(spec=ListOf(OVERRIDE), doc="Prices of single customers."),
        "on_change": Field(
            spec=Choice(tuple(OnChange)),
            doc="What becomes of running totals and fees where other prices come into force.",
            default=OnChange.RESET.value,
        ),
        "late_usage": Field(
            spec=Choice(tuple(LatePolicy)),
            doc="Where postpaid usage goes that comes after its period was cut: the next period's "
            "invoice, one of its own, or nowhere. Absent: as the setting invoice_late_usage says.",
        ),
        "tax_behavior": TAX_BEHAVIOR,
        "stripe": Field(spec=STRIPE, doc="What of it exists at Stripe already."),
        "orphans": Field(
            spec=ORPHANS, doc="What becomes of holds without usage; absent: they are released."
        ),
    },
)
