"""What to ask of a provider so that its catalog becomes the wanted one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sidecar.domain.catalog import Problem, WantedMeter, WantedPrice, WantedProduct


class Kind(StrEnum):
    """What is changed."""

    METER = "meter"
    PRODUCT = "product"
    PRICE = "price"


class Action(StrEnum):
    """What is done to it. A price is never changed: it is replaced, and the old one archived."""

    CREATE = "create"
    UPDATE = "update"
    TRANSFER = "transfer"
    """A lookup key moves to a price that exists."""
    ARCHIVE = "archive"


class Cause(StrEnum):
    """Why it is needed."""

    POLICY = "policy"
    """The policy says other than when it was last applied."""
    DRIFT = "drift"
    """Somebody changed it at the provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateMeter:
    """Ask for a meter."""

    meter: WantedMeter


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMeterActive:
    """Archive a meter, or bring it back."""

    id: str
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateProduct:
    """Ask for a plan's product."""

    product: WantedProduct


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateProduct:
    """Change what is named; None stays. Metadata is merged."""

    id: str
    name: str | None = None
    active: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePrice:
    """
    Ask for a price that takes its lookup key from whatever has it.

    An empty `product_id` or `meter_id` is that of the object which is created before it.
    """

    price: WantedPrice
    product_id: str
    meter_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePrice:
    """Change what is named; None stays. A lookup key is taken from whatever has it."""

    id: str
    active: bool | None = None
    lookup_key: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


Order = CreateMeter | SetMeterActive | CreateProduct | UpdateProduct | CreatePrice | UpdatePrice


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    One call to the provider, and why.

    Attributes:
        name: The meter, the plan, or plan/line.
        id: The provider's object; "" where it is created.
        before, after: What people see of the object, where it differs.
        disruptive: Whether usage that was already sent is lost to the next invoice.
        first: Whether it is known to be ours by its lookup key alone, so that it has to be done
            before another object takes the key: a crash in between would leave it forgotten.
    """

    action: Action
    kind: Kind
    name: str
    reason: str
    order: Order
    cause: Cause = Cause.POLICY
    id: str = ""
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    disruptive: bool = False
    first: bool = False

    def __str__(self) -> str:
        """On one line."""
        which = f" ({self.id})" if self.id else ""
        return f"{self.action} {self.kind} {self.name}{which}"


def bring_back(
    kind: Kind, name: str, order: SetMeterActive | UpdateProduct | UpdatePrice, why: str
) -> Change:
    """
    What somebody archived at the provider and the policy needs.

    Args:
        kind: Of the object that the order names.
        name: As a change has it.
        order: Sets it active.
        why: What needs it, after "it is archived, and".
    """
    return Change(
        action=Action.UPDATE,
        kind=kind,
        name=name,
        id=order.id,
        reason=f"it is archived, and {why}",
        cause=Cause.DRIFT,
        before={"active": "no"},
        after={"active": "yes"},
        order=order,
    )


def unusable(kind: Kind, where: str, provider_id: str, wrong: str) -> Problem:
    """A product or price that the policy names by a provider's id, and what is wrong with it."""
    return Problem(
        where=where,
        message=f"names {kind} {provider_id!r}, {wrong}; take `stripe.{kind}` out and one is made",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogDiff:
    """Changes in an order that works, and what stands in the way of all of them."""

    changes: tuple[Change, ...] = ()
    problems: tuple[Problem, ...] = ()
