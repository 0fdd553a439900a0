"""Alembic's entry: writes the revisions as one SQL script, which `migrating` runs."""

from alembic import context

context.configure(
    dialect_name="postgresql",
    output_buffer=context.config.output_buffer,
    literal_binds=True,
    # The caller's transaction is around all of it.
    transactional_ddl=False,
)
with context.begin_transaction():
    context.run_migrations()
