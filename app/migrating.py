"""Migrating, for those who come for nothing else. Apart from the composition root, because Alembic loads slowly."""

from __future__ import annotations

from adapters.postgres.migrate import losses, migrate, migrate_back, revision

__all__ = ["losses", "migrate", "migrate_back", "revision"]
