"""${message}.

Revision ID: ${up_revision}
"""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None
# The revision of the oldest program that can use this schema; docs/upgrade.md says what that asks of a revision.
oldest_program = ${repr(down_revision)}
# What a way back takes along that no former program could keep: "ai-service migrate --to" tells it.
loses = "nothing"


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
