"""Uploads: recordings in chunks, the jobs that use them; and the attempts that a run made at its providers.

A program of the version before goes on beside it: what it erases takes its rows here along.

Revision ID: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
oldest_program = "0004"
loses = "uploads, of which waiting jobs may need some; and which providers a run asked before the one that served it"

TABLES = (
    """
    -- Those that came whole.
    CREATE TABLE uploads (
        id uuid PRIMARY KEY,
        bytes bigint NOT NULL,
        created_at timestamptz NOT NULL,
        owner_service text NOT NULL,
        -- For the jobs' reference, which names the owner so that nobody uses another's.
        CONSTRAINT uploads_of_owner UNIQUE (id, owner_service)
    )
    """,
    """
    -- Also of uploads that come in or go away. Without a reference: to remove a large one takes many statements.
    CREATE TABLE upload_chunks (
        upload_id uuid NOT NULL,
        place integer NOT NULL,
        data bytea NOT NULL,
        PRIMARY KEY (upload_id, place)
    )
    """,
    # Recordings are compressed already, and trying costs more time than storing them.
    "ALTER TABLE upload_chunks ALTER COLUMN data SET STORAGE EXTERNAL",
    """
    -- Uploads that did not come whole yet, or are no longer wanted: from then on their chunks are removed.
    CREATE TABLE upload_leftovers (upload_id uuid PRIMARY KEY, remove_at timestamptz NOT NULL)
    """,
    """
    CREATE TABLE upload_jobs (
        -- NULL once the job is erased: its upload has been used all the same.
        job_id uuid UNIQUE REFERENCES jobs (id) ON DELETE SET NULL,
        upload_id uuid NOT NULL,
        owner_service text NOT NULL,
        CONSTRAINT upload_is_there FOREIGN KEY (upload_id, owner_service) REFERENCES uploads (id, owner_service)
    )
    """,
    "CREATE INDEX upload_jobs_upload ON upload_jobs (upload_id)",
    """
    -- JSON: which providers a run asked, where they were more than the one that served it.
    CREATE TABLE run_attempts (
        lease_token uuid PRIMARY KEY,
        job_id uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        attempts bytea NOT NULL
    )
    """,
    "CREATE INDEX run_attempts_job ON run_attempts (job_id)",
)


def upgrade() -> None:
    for statement in TABLES:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP TABLE run_attempts, upload_jobs, upload_leftovers, upload_chunks, uploads")
