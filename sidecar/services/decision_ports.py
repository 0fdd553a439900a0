"""Ports of the decision log and of replay, and the values that cross them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sidecar.domain.decision_records import DecisionRecord
from sidecar.domain.replay_state import ReplayUsage

PLACE_PATTERN = r"^[0-9]{1,16}-[0-9]{1,18}-[0-9]{1,18}-[01]-dec_[0-9a-f]{32}-[01]$"
"""
A place in the list of decisions: microseconds of its instant, epoch, seq, whether it placed no
hold, its id, whether it was an allow.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedDecision:
    """A record on its way to the store; `customer_id` says on which shard it belongs."""

    customer_id: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedDecision:
    """An entry of a shard's stream; `record` is None where it cannot be read."""

    shard: int
    entry_id: str
    record: DecisionRecord | None
    payload: bytes


class DecisionStream(Protocol):
    """
    Records on their way from gateways to the table.

    Every method may raise StoreUnavailable and is safe to repeat: the table collapses repeats.
    """

    async def append(self, decisions: Sequence[EncodedDecision]) -> None:
        """Append to the customers' shards; a shard keeps a bounded number of records."""

    async def read(self, limit: int) -> Sequence[Sequence[StreamedDecision]]:
        """The oldest entries of each shard, in order; reading removes nothing."""

    async def trim(self, committed: Mapping[int, str]) -> None:
        """Drop each shard's entries up to and with one that is committed, and no other."""


class DecisionTable(Protocol):
    """The records where people look, kept for as long as the settings say."""

    async def insert(self, decisions: Sequence[StreamedDecision]) -> int:
        """
        Insert records in one transaction, repeats aside; returns how many were new.

        Raises:
            InvalidInput: The database refuses one of them; none was inserted.
        """

    async def forget(self, *, days: int, limit: int) -> int:
        """Drop records older than so many days, at most `limit`; returns how many."""

    async def find(self, decision_id: str) -> DecisionRecord | None:
        """One record by its decision's public id; an allow where a retry made it one."""

    async def page(
        self,
        *,
        since: datetime,
        until: datetime,
        customer_id: str = "",
        after: str = "",
        limit: int,
    ) -> Sequence[tuple[str, DecisionRecord]]:
        """
        Records of [since, until) in the order of time, each with its place in the list.

        Args:
            since, until: Instants of decision.
            customer_id: Of one customer; empty for all.
            after: The place after which to go on; empty for the start.
            limit: At most so many.

        Raises:
            InvalidInput: `after` is no place.
        """

    def usage(
        self, *, since: datetime, until: datetime, customer_id: str = ""
    ) -> AsyncIterator[ReplayUsage]:
        """Settled usage of [since, until) in the order of the deciding instants."""
