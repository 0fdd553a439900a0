"""Steps of the transactions about credentials; `accounts` opens and ends them."""

from datetime import datetime

from sidecar.domain.errors import Conflict, InvariantViolated, NotFound
from sidecar.outbound.postgres.pool import Connection
from sidecar.outbound.postgres.queries import query
from sidecar.services.control_ports import Credential, Rotation


async def insert_credential(connection: Connection, credential: Credential) -> bool:
    """Store a credential and whose its hash is, unless its id is there; whether it was stored."""
    inserted = await connection.fetchval(
        query("insert_credential"),
        credential.customer_id,
        credential.credential_id,
        credential.secret_hash,
        credential.team_id,
        credential.user_id,
        credential.name,
        credential.generation,
        credential.expires_at,
    )
    if inserted is not None:
        await _insert_hash(connection, credential)
    return inserted is not None


async def read_credential(connection: Connection, credential: Credential) -> Credential:
    """The row of a credential that must be there."""
    row = await connection.fetchrow(
        query("read_credential"), credential.customer_id, credential.credential_id
    )
    if row is None:
        raise InvariantViolated("a credential that was just stored is gone")
    return Credential(**dict(row))


async def rotate(
    connection: Connection, retired: Credential, successor: Credential, ends_at: datetime | None
) -> Rotation:
    """
    Store the successor and give the retired credential its end.

    Raises:
        NotFound: The retired credential is gone.
        Conflict: It has another successor, or has ended.
    """
    customer_id, retired_id = retired.customer_id, retired.credential_id
    row = await connection.fetchrow(query("lock_credential"), customer_id, retired_id)
    if row is None:
        raise NotFound(f"there is no credential {retired_id!r}")
    if row["replaced_by"] == successor.credential_id:
        # The first attempt died, or its answer was lost: nobody has its secret. The end stays.
        await connection.execute(
            query("renew_credential"), customer_id, successor.credential_id, successor.secret_hash
        )
        await _insert_hash(connection, successor)
    elif row["replaced_by"] is not None:
        raise Conflict(f"credential {retired_id!r} has been rotated to {row['replaced_by']!r}")
    elif row["ended"]:
        raise Conflict(f"credential {retired_id!r} has ended; issue another")
    else:
        if not await insert_credential(connection, successor):
            raise Conflict(f"credential {successor.credential_id!r} exists already")
        await connection.execute(
            query("retire_credential"), customer_id, retired_id, successor.credential_id, ends_at
        )
    return Rotation(
        retired=await read_credential(connection, retired),
        successor=await read_credential(connection, successor),
    )


async def _insert_hash(connection: Connection, credential: Credential) -> None:
    await connection.execute(
        query("insert_credential_hash"),
        credential.secret_hash,
        credential.customer_id,
        credential.credential_id,
    )
