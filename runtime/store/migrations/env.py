"""Run by Alembic: migrate over the connection, and in the transaction, that the caller has open."""

from alembic import context

from runtime.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
