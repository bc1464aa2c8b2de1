"""Alembic runs this to apply revisions; `adapters/postgres/migrate.py` hands it the connection."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=None)
with context.begin_transaction():
    context.run_migrations()
