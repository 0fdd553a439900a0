"""Ports of rebuilding: the shards in the live store and of record, and what crosses them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sidecar.domain.rebuilding import (
    LiveState,
    RecordedCredential,
    RecordedCustomer,
    RecordedUsage,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundShard:
    """A shard in the live store; 0 for what it does not have."""

    shard: int
    epoch: int
    seq: int
    lost_epoch: int
    """The epoch in which a process saw it go back."""
    is_taken_over: bool = False
    """Whether a replica has it since, which may not have heard its last writes."""
    is_unsure: bool = False
    """Whether that cannot be told now, because its slot is being moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedShard:
    """A shard of record: its epoch (0: never opened), and the last decision that was settled."""

    epoch: int = 0
    settled_epoch: int = 0
    settled_seq: int = 0
    offset: str = "0-0"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCustomer:
    """A customer as the live store gets them."""

    customer_id: str
    state: LiveState
    credentials: tuple[RecordedCredential, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceUse:
    """What a month used of a price, corrections with it, and so took of its running total."""

    price_version: str
    meter: str
    model: str
    month: datetime
    quantity: int


class LiveShards(Protocol):
    """The shards of the live store, beside what scripts do on them; safe to repeat."""

    @property
    def is_one_server(self) -> bool:
        """Whether all shards are on one server, so that they are lost together."""

    def shard_of(self, customer_id: str) -> int:
        """The customer's shard."""

    async def look(self) -> Sequence[FoundShard]:
        """What every shard says of its life."""

    async def close(self, shards: Mapping[int, int]) -> None:
        """Take these epochs away, where they still are what is said: no script changes them."""

    async def clear(self, epochs: Mapping[int, int]) -> None:
        """Begin to fill shards for their new epochs."""

    async def now_ms(self) -> int:
        """The store's own time, epoch milliseconds."""

    async def fill(self, customers: Sequence[LiveCustomer]) -> None:
        """Write customers whole."""

    async def index(self, customer_id: str, credentials: Sequence[RecordedCredential]) -> None:
        """Make secrets lead to their customer, whose own state is left alone."""

    async def remember(self, shard: int, epoch: int, ended: Sequence[RecordedUsage]) -> None:
        """Put back how ids ended."""

    async def open(
        self, shard: int, epoch: int, *, clock_ms: int, claims: bool, settled: tuple[int, int]
    ) -> None:
        """Give a filled shard its epoch, if it is still filled for that."""

    async def open_new(self, epochs: Mapping[int, int]) -> None:
        """Open shards of a store that has no customers yet, and say that all are open."""

    async def is_opened(self) -> bool:
        """Whether every shard has been opened once."""

    async def set_opened(self) -> None:
        """Note that every shard has been opened, for which gateways wait."""


class RebuildSnapshot(Protocol):
    """What Postgres knew when the epochs were raised; nothing of these shards commits meanwhile."""

    @property
    def epochs(self) -> Mapping[int, int]:
        """The new epoch of each shard that is to be made anew."""

    def settled(self, shard: int) -> tuple[int, int]:
        """Epoch and seq of the shard's last decision that the ledger has."""

    async def clock_ms(self, shard: int) -> int:
        """The instant of the shard's last settled decision, 0 if there is none."""

    async def customer_ids(self, after: str, limit: int) -> Sequence[str]:
        """Customers of all shards, by id."""

    async def customers(
        self, ids: Sequence[str]
    ) -> Sequence[tuple[RecordedCustomer, Sequence[PriceUse]]]:
        """These customers, without totals, and what their totals are made of."""

    async def credentials(self, ids: Sequence[str]) -> Mapping[str, Sequence[RecordedCredential]]:
        """The customers' credentials, by customer; who has none is left out."""

    def ended(self, shard: int) -> AsyncIterator[RecordedUsage]:
        """Holds that ended within the dedupe horizon."""


class RebuildRecord(Protocol):
    """The shards of record."""

    async def shards(self) -> Mapping[int, RecordedShard]:
        """Those that have a row."""

    async def adopt(self, shard: int, epoch: int) -> None:
        """Take over the epoch of a store that was opened before epochs were numbered here."""

    async def open_new(self, shards: Sequence[int]) -> Mapping[int, int]:
        """Number the first epochs where there are no customers; empty where that is not so."""

    def begin(self, expected: Mapping[int, int]) -> AbstractAsyncContextManager[RebuildSnapshot]:
        """
        Lock shards, raise their epochs and read; it commits at the end.

        Shards whose epoch is not the expected one any more are left out: somebody else made
        them anew.
        """


class PendingStream(Protocol):
    """What the streams still have."""

    async def read(self, shard: int, after: str, limit: int) -> Sequence[object]:
        """Records after an entry id, in order."""
