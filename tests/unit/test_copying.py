"""COPY over a connection that the server has just closed."""

import asyncpg
import pytest

from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.outbound.postgres.copying import copy_rows


class Lost:
    """A connection as asyncpg leaves it where the server hung up just before a COPY."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.terminated = False

    async def copy_records_to_table(self, *_: object, **__: object) -> None:
        raise self.error

    def terminate(self) -> None:
        self.terminated = True


async def test_a_connection_that_is_lost_is_ended_and_the_store_is_away():
    connection = Lost(asyncpg.InternalClientError("cannot switch to state 21; another operation"))
    with pytest.raises(StoreUnavailable):
        await copy_rows(connection, "usage_lines", ["a"], [[1]])
    assert connection.terminated


async def test_a_value_that_does_not_fit_ends_no_connection():
    connection = Lost(OverflowError("2**70 is out of range"))
    with pytest.raises(InvalidInput) as refused:
        await copy_rows(connection, "usage_lines", ["a"], [[2**70]])
    assert "2**70" not in str(refused.value)
    assert not connection.terminated
