"""Which plan a customer was on when, the periods that were cut, and what of late usage is open."""

from pathlib import Path

from sidecar.outbound.postgres.migrating import run_sql_file

revision = "0021"
down_revision = "0019"
branch_labels = None
depends_on = None
deploy = "pre"
"""Runs before the new code is deployed; "post" once the old code is gone."""


def upgrade() -> None:
    """Run the SQL file of the same name."""
    run_sql_file(Path(__file__).with_suffix(".sql"))
