"""Live balances, looked at whole and put right: implements `LiveBooks`."""

from collections.abc import Mapping, Sequence

from sidecar.domain.errors import InvalidInput
from sidecar.domain.reconciliation import GrantLine, LiveBook, LiveHold
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.connection import Argument, RedisConnection
from sidecar.outbound.redis.granting import grant_lines, grants_record
from sidecar.outbound.redis.keys import Keyspace

HOLDS_MAX = 20_000
"""Open holds of one customer that are looked at; the look blocks the server for so long."""
_HEAD = 6
_PIN_WIDTH = 3


class RedisLiveBooks:
    """Implements LiveBooks."""

    def __init__(self, connection: RedisConnection, keyspace: Keyspace) -> None:
        """Wire it."""
        self._connection = connection
        self._keyspace = keyspace

    def shard_of(self, customer_id: str) -> int:
        """Where the customer's stream is."""
        return self._keyspace.shard_of(customer_id)

    async def read_book(self, customer_id: str) -> LiveBook | None:
        """
        The book and its open holds at one moment; None for an unknown customer.

        Raises:
            InvalidInput: More than HOLDS_MAX open holds, or what is stored is no book.
        """
        keys, shard = self._keyspace, self._keyspace.shard_of(customer_id)
        reply = await self._connection.run(
            scripts.AUDIT,
            (keys.customer(customer_id), keys.shard(shard), keys.expiry(shard), keys.usage(shard)),
            (HOLDS_MAX, customer_id),
        )
        parts = [part.decode() for part in reply]
        match parts[0]:
            case "ok":
                return _read_book(parts)
            case "no_customer":
                return None
            case "too_many":
                raise InvalidInput(f"the customer has more than {HOLDS_MAX} open holds")
            case _:
                raise InvalidInput("what the store has of the customer is no balance or record")

    async def mend_book(
        self,
        customer_id: str,
        book: LiveBook,
        numbers: Mapping[str, int],
        grants: Sequence[GrantLine],
    ) -> bool:
        """
        Make a book what it ought to be; False if it has changed since it was read.

        Raises:
            InvalidInput: The customer is gone, or the numbers are no balance.
        """
        arguments: list[Argument] = [book.seal, customer_id, grants_record(grants)]
        arguments += [numbers[name] for name in book.numbers]
        reply = await self._connection.run(
            scripts.MEND, self._keyspace.customer_keys(customer_id), arguments
        )
        if reply in (b"no_customer", b"broken"):
            raise InvalidInput(f"the book cannot be mended: {reply.decode()}")
        return bool(reply == b"mended")


def _read_book(parts: Sequence[str]) -> LiveBook:
    _, instant, position, sealed, seal, count = parts[:_HEAD]
    after = _HEAD + 2 * int(count)
    numbers = {parts[at]: int(parts[at + 1]) for at in range(_HEAD, after, 2)}
    holds, at = [], after + 1
    while at < len(parts):
        hold_id, amount, expires, pin_count = parts[at : at + 4]
        at += 4
        pins = []
        for _ in range(int(pin_count)):
            grant_id, meter, pinned = parts[at : at + _PIN_WIDTH]
            pins.append((grant_id, meter, int(pinned)))
            at += _PIN_WIDTH
        holds.append(
            LiveHold(
                hold_id=hold_id,
                amount_nano=int(amount),
                expires_at_ms=int(expires),
                pins=tuple(pins),
            )
        )
    return LiveBook(
        instant_ms=int(instant),
        position=position,
        sealed=sealed == "1",
        seal=seal,
        numbers=numbers,
        grants=tuple(grant_lines(parts[after])),
        holds=tuple(holds),
    )
