"""
The control plane's writes to the live store: implements `LiveAccounts`.

Each write is told to the gateways after it has happened, at a repeat too: the first attempt may
have ended in between.
"""

import json
from collections.abc import Sequence
from datetime import datetime

from sidecar.domain.errors import Conflict, InvalidInput, NotFound
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.standing import StandingFact
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.balances import read_stored_hold
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import PUSH_CHANNEL, Keyspace, credential_key
from sidecar.outbound.redis.push_messages import CredentialPush, CustomerPush, encode_push
from sidecar.services.control_ports import Balance, Credential, Customer, Grant
from sidecar.services.ports import StoredHold

_BALANCE_FIELDS = ("currency", "granted", "used", "held", "avail")
_SCAN_COUNT = 500
_HOLD_PREFIX = b"h:"


class RedisLiveAccounts:
    """Implements LiveAccounts; every write is one script, and safe to repeat."""

    def __init__(self, connection: RedisConnection, keyspace: Keyspace) -> None:
        """Wire it."""
        self._connection = connection
        self._keyspace = keyspace

    async def put_customer(self, customer: Customer) -> None:
        """
        Create the customer's live state or update plan and labels; balances stay.

        Facts that gateways remember are stale afterwards if anything changed.

        Raises:
            Conflict: The customer has another currency, which balances cannot change.
        """
        labels = json.dumps(dict(customer.labels), sort_keys=True, separators=(",", ":"))
        reply = await self._connection.run(
            scripts.CUSTOMER,
            self._keyspace.customer_keys(customer.customer_id)[:2],
            (customer.currency, customer.plan, labels),
        )
        if reply == b"other_currency":
            raise Conflict(
                f"customer {customer.customer_id!r} has balances in another currency "
                f"than {customer.currency}"
            )
        await self._push_customer(customer.customer_id)

    async def put_credential(self, credential: Credential) -> None:
        """
        Make a credential valid on every gateway, until its end if it has one; or revoked.

        The customer's hash comes first: until it knows the generation, the index leads to a
        refusal, and a revoked credential is refused before the index has forgotten it. A put
        that a later generation or a revocation has overtaken changes nothing.

        Raises:
            NotFound: Unknown customer.
        """
        revoked = credential.revoked_at is not None
        reply = await self._connection.run(
            scripts.CREDENTIAL,
            self._keyspace.customer_keys(credential.customer_id)[:2],
            (
                credential.credential_id,
                credential.generation,
                int(revoked),
                _ms(credential.expires_at),
            ),
        )
        if reply == b"no_customer":
            raise NotFound(f"there is no customer {credential.customer_id!r}")
        commands: list[tuple[str | int, ...]] = []
        if revoked:
            commands.append(("DEL", credential_key(credential.secret_hash)))
        elif reply == b"ok":
            commands += _index(credential)
        if commands:
            await self._connection.commands(commands)
        # Behind the index, so a call of its own: in a cluster the two may be on different nodes.
        push = CredentialPush(secret_hash=credential.secret_hash)
        await self._connection.command("PUBLISH", PUSH_CHANNEL, encode_push(push))

    async def put_standing(self, customer_id: str, standing: StandingFact) -> None:
        """Set the standing that the place script reads, and its invoices. Raises NotFound."""
        reply = await self._connection.run(
            scripts.STANDING,
            self._keyspace.customer_keys(customer_id)[:2],
            (
                standing.standing.value,
                _ms(standing.until),
                _ms(standing.overdue_since),
                "" if standing.overdue_nano is None else standing.overdue_nano,
                int(standing.disputed),
            ),
        )
        if reply == b"no_customer":
            raise NotFound(f"there is no customer {customer_id!r}")
        await self._push_customer(customer_id)

    async def apply_grant(self, grant: Grant) -> None:
        """
        Add a grant to the balance and the stream, once per grant_id.

        Raises:
            InvalidInput: Not above zero, or the customer's grants would pass the largest balance.
            NotFound: Unknown customer.
            Conflict: Another currency, or the id was applied with another amount.
            StoreDamaged: The stored balance is no number.
        """
        if not 0 < grant.amount_nano <= AMOUNT_NANO_MAX:
            raise InvalidInput("a grant's amount must be above zero", field="amount")
        reply = await self._connection.run(
            scripts.GRANT,
            self._keyspace.customer_keys(grant.customer_id),
            (
                grant.grant_id,
                grant.customer_id,
                grant.amount_nano,
                grant.currency,
                AMOUNT_NANO_MAX - grant.amount_nano,
            ),
        )
        match reply:
            case b"no_customer":
                raise NotFound(f"there is no customer {grant.customer_id!r}")
            case b"other_currency":
                raise Conflict(f"the customer's balance is not in {grant.currency}")
            case b"conflict":
                raise Conflict(f"grant {grant.grant_id!r} was applied with another amount")
            case b"out_of_bounds":
                raise InvalidInput("the customer's grants would pass the largest balance")
            case b"broken":
                raise StoreDamaged("redis: a customer's balance is no number")

    async def read_balance(self, customer_id: str) -> Balance | None:
        """
        The live balance, or None for an unknown customer.

        Raises:
            StoreDamaged: The stored balance is no number.
        """
        key = self._keyspace.customer(customer_id)
        values, now = await self._connection.commands([("HMGET", key, *_BALANCE_FIELDS), ("TIME",)])
        if values[0] is None:
            return None
        try:
            granted, used, held, available = (int(value or b"") for value in values[1:])
        except ValueError as error:
            raise StoreDamaged("redis: a customer's balance is no number") from error
        return Balance(
            currency=values[0].decode(),
            granted_nano=granted,
            used_nano=used,
            held_nano=held,
            available_nano=available,
            as_of=from_epoch_ms(int(now[0]) * 1_000 + int(now[1]) // 1_000),
        )

    async def list_open_holds(self, customer_id: str, limit: int) -> Sequence[StoredHold]:
        """Open holds of a customer, at most `limit`, in no particular order."""
        key = self._keyspace.customer(customer_id)
        ids: dict[bytes, None] = {}
        cursor = b"0"
        while True:
            cursor, flat = await self._connection.command(
                "HSCAN", key, cursor, "MATCH", "h:*", "COUNT", _SCAN_COUNT
            )
            ids |= dict.fromkeys(name.removeprefix(_HOLD_PREFIX) for name in flat[::2])
            if cursor == b"0" or len(ids) >= limit:
                break
        holds = []
        for hold_id in list(ids)[:limit]:
            text = hold_id.decode()
            keys = self._keyspace.hold_keys(customer_id, text)
            stored = read_stored_hold(await self._connection.run(scripts.READ, keys, (text,)))
            if stored is not None and stored.state.value == "open":
                holds.append(stored)
        return holds

    async def _push_customer(self, customer_id: str) -> None:
        push = CustomerPush(customer_id=customer_id)
        await self._connection.command("PUBLISH", PUSH_CHANNEL, encode_push(push))


def _index(credential: Credential) -> list[tuple[str | int, ...]]:
    """Commands that make a presented secret lead to its customer, until the credential's end."""
    key = credential_key(credential.secret_hash)
    commands: list[tuple[str | int, ...]] = [
        (
            *("HSET", key),
            *("customer_id", credential.customer_id),
            *("credential_id", credential.credential_id),
            *("team_id", credential.team_id),
            *("user_id", credential.user_id),
            *("generation", credential.generation),
        )
    ]
    if credential.expires_at is not None:
        commands.append(("PEXPIREAT", key, to_epoch_ms(credential.expires_at)))
    return commands


def _ms(instant: datetime | None) -> int | str:
    return "" if instant is None else to_epoch_ms(instant)
