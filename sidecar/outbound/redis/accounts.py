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
from sidecar.outbound.redis.granting import (
    BALANCE_FIELDS,
    grant_arguments,
    read_balance,
    read_live_grants,
    read_withdrawal,
    refuse_grant,
    withdrawal_arguments,
)
from sidecar.outbound.redis.keys import PUSH_CHANNEL, Keyspace, credential_key
from sidecar.outbound.redis.placing import check_amount
from sidecar.outbound.redis.push_messages import CredentialPush, CustomerPush, encode_push
from sidecar.services.control_ports import (
    Balance,
    Credential,
    Customer,
    Grant,
    LiveGrant,
    Withdrawal,
)
from sidecar.services.ports import StoredHold

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
            self._keyspace.customer_keys(customer.customer_id),
            (
                customer.currency,
                customer.customer_id,
                customer.plan,
                labels,
                check_amount(customer.overdraft_nano),
            ),
        )
        if reply == b"other_currency":
            raise Conflict(
                f"customer {customer.customer_id!r} has balances in another currency "
                f"than {customer.currency}"
            )
        if reply == b"broken":
            raise StoreDamaged("redis: a customer's balance is no number")
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
        Give a grant, once per grant_id: at once, or from its beginning on.

        Raises:
            TooMany: One grant too many now.
            InvalidInput: Not above zero, expired, or the customer's grants would pass the largest
                balance.
            NotFound: Unknown customer.
            Conflict: Another currency, or the id was given with other content.
            StoreDamaged: The stored balance is no number.
        """
        if not 0 < grant.amount_nano <= AMOUNT_NANO_MAX:
            raise InvalidInput("a grant's amount must be above zero", field="amount")
        reply = await self._connection.run(
            scripts.GRANT, self._keyspace.customer_keys(grant.customer_id), grant_arguments(grant)
        )
        refuse_grant(grant, reply)

    async def apply_withdrawal(self, withdrawal: Withdrawal) -> int:
        """
        Take credit back from a grant, once per withdrawal_id; returns the nano that it took.

        Raises:
            NotFound: Unknown customer, or a grant that the store does not have.
            Conflict: The grant has ended or is spent, less is free than is asked for, or the id
                did something else before.
            InvalidInput: A dispute without an amount; a balance would leave its bounds.
            StoreDamaged: The stored balance is no number.
        """
        reply = await self._connection.run(
            scripts.WITHDRAW,
            self._keyspace.customer_keys(withdrawal.customer_id),
            withdrawal_arguments(withdrawal),
        )
        return read_withdrawal(withdrawal, reply)

    async def read_balance(self, customer_id: str) -> Balance | None:
        """
        The live balance, or None for an unknown customer.

        Raises:
            StoreDamaged: The stored balance is no number.
        """
        key = self._keyspace.customer(customer_id)
        values, now = await self._connection.commands(
            [("HMGET", key, *BALANCE_FIELDS, "grants"), ("TIME",)]
        )
        return read_balance(values, from_epoch_ms(int(now[0]) * 1_000 + int(now[1]) // 1_000))

    async def list_live_grants(self, customer_id: str) -> Sequence[LiveGrant]:
        """Grants that still matter, in burn order. Raises StoreDamaged."""
        key = self._keyspace.customer(customer_id)
        return read_live_grants(await self._connection.command("HGET", key, "grants"))

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
