"""Payments in the ledger: accounts for them, and how much of each is posted."""

from pathlib import Path

from sidecar.outbound.postgres.migrating import run_sql_file

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None
deploy = "pre"
"""Runs before the new code is deployed; "post" once the old code is gone."""


def upgrade() -> None:
    """Run the SQL file of the same name."""
    run_sql_file(Path(__file__).with_suffix(".sql"))
