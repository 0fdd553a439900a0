"""What the admin API says of the ledger: its roots, and whether live balances agree with it."""

from typing import Annotated

from pydantic import Field

from sidecar.domain.ledger_chain import LedgerRoot
from sidecar.domain.reconciliation import Difference, DifferenceKind, Remedy
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.field_types import (
    CustomerId,
    Instant,
    NanoInt,
    PageLimit,
    QueryModel,
    RequestModel,
    ResponseModel,
)
from sidecar.inbound.http.paging import LimitQuery
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.reconcile_runs import ReconcileRun
from sidecar.services.reconciling import ReconcileReport

_PAGE_DEFAULT = 50

NanoTexts = Annotated[
    dict[DifferenceKind, str],
    Field(description="Whole numbers of 1e-9 of the major unit, without sign, added up."),
]


RootCursor = Annotated[
    str,
    Field(pattern=r"^[1-9][0-9]{0,17}$", description="`next` of the page before, a root's number."),
]


class RootsQuery(QueryModel):
    """Which page of roots."""

    limit: PageLimit = _PAGE_DEFAULT
    after: RootCursor | None = None


class ReconcileBody(RequestModel):
    """Whose live balance is compared; `fix` mends what is wrong."""

    customer_id: CustomerId
    fix: bool = False


class DifferenceAnswer(ResponseModel):
    """One thing that live store and ledger say differently."""

    customer_id: str
    kind: DifferenceKind
    what: str
    expected_nano: NanoInt
    found_nano: NanoInt
    remedy: Remedy

    @classmethod
    def of(cls, difference: Difference) -> "DifferenceAnswer":
        """From the report."""
        return cls(
            customer_id=difference.customer_id,
            kind=difference.kind,
            what=difference.what,
            expected_nano=difference.expected_nano,
            found_nano=difference.found_nano,
            remedy=difference.remedy,
        )


class ReconcileAnswer(ResponseModel):
    """
    What was found, before it was mended. `wrong` counts what nothing passing explains.

    `unread` could not be compared: settle, then ask again. `unmended` counts customers that
    nothing mends by itself.
    """

    customers: int
    wrong: int
    mended: int
    unmended: int
    unread: list[str]
    counts: dict[DifferenceKind, int]
    nano: NanoTexts
    differences: list[DifferenceAnswer]

    @classmethod
    def of(cls, report: ReconcileReport) -> "ReconcileAnswer":
        """From the report."""
        return cls(
            customers=report.customers,
            wrong=report.wrong,
            mended=report.mended,
            unmended=report.unmended,
            unread=report.unread,
            counts=dict(report.counts),
            nano={kind: str(amount) for kind, amount in report.nano.items()},
            differences=[DifferenceAnswer.of(one) for one in report.differences],
        )


class ReconcileRunAnswer(ResponseModel):
    """A comparison of all customers by the settlement role; `unread` counts customers."""

    number: int
    finished_at: Instant
    customers: int
    wrong: int
    unread: int
    counts: dict[DifferenceKind, int]
    nano: NanoTexts

    @classmethod
    def of(cls, run: ReconcileRun) -> "ReconcileRunAnswer":
        """From the record."""
        return cls(
            number=run.number,
            finished_at=run.finished_at,
            customers=run.customers,
            wrong=run.wrong,
            unread=run.unread,
            counts={DifferenceKind(kind): count for kind, count in run.counts.items()},
            nano={DifferenceKind(kind): str(amount) for kind, amount in run.nano.items()},
        )


class ReconcileRunList(ResponseModel):
    """The newest first; `more` says that there are others."""

    items: list[ReconcileRunAnswer]
    more: bool


class ChainHeadAnswer(ResponseModel):
    """Where the chain of a shard stood; `hash` in hexadecimal."""

    chain: int
    seq: int
    hash: str


class LedgerRootAnswer(ResponseModel):
    """Where all chains stood, signed; `previous` is the signature of the root before it."""

    number: int
    day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    daily: bool
    made_at: Instant
    heads: list[ChainHeadAnswer]
    previous: str
    key_id: str
    signature: str

    @classmethod
    def of(cls, root: LedgerRoot) -> "LedgerRootAnswer":
        """From the record."""
        return cls(
            number=root.number,
            day=root.day.isoformat(),
            daily=root.daily,
            made_at=root.made_at,
            heads=[
                ChainHeadAnswer(chain=head.chain, seq=head.seq, hash=head.hash.hex())
                for head in root.heads
            ],
            previous=root.previous.hex(),
            key_id=root.key_id,
            signature=root.signature.hex(),
        )


class LedgerRootPage(ResponseModel):
    """A page of roots, the oldest first."""

    items: list[LedgerRootAnswer]
    next: str | None


async def post_reconcile(call: Call) -> Answer:
    """Compare one customer's live balance with the ledger, and mend it if asked to."""
    assert isinstance(call.body, ReconcileBody)
    report = await call.request.app[ADMIN].reconciler.run_once(
        customer_id=call.body.customer_id, fix=call.body.fix
    )
    return Answer(body=ReconcileAnswer.of(report))


async def list_reconcile_runs(call: Call) -> Answer:
    """What the last comparisons of all customers found."""
    assert isinstance(call.query, LimitQuery)
    limit = call.query.limit
    found = await call.request.app[ADMIN].reconcile_runs.list(limit=limit + 1)
    items = [ReconcileRunAnswer.of(run) for run in found[:limit]]
    return Answer(body=ReconcileRunList(items=items, more=len(found) > limit))


async def list_roots(call: Call) -> Answer:
    """A page of the ledger's roots."""
    assert isinstance(call.query, RootsQuery)
    limit = call.query.limit
    found = await call.request.app[ADMIN].ledger_roots.list(
        after=int(call.query.after or 0), limit=limit + 1
    )
    page = found[:limit]
    following = str(page[-1].number) if len(found) > limit else None
    return Answer(
        body=LedgerRootPage(items=[LedgerRootAnswer.of(root) for root in page], next=following)
    )
