"""Traces: a job keeps the trace context of its submission, and a claim tells it, and how long the job waited.

The functions gain columns at the end of their answers: a program that reads them by name does not notice.

Revision ID: 0008
"""

from __future__ import annotations

from importlib import import_module

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
oldest_program = "0007"
loses = "to which trace of its caller a job belongs"

COLUMN = "ALTER TABLE job_inputs ADD COLUMN traceparent text"

DROPS = (
    """
    DROP FUNCTION exchange_jobs(
        uuid[], uuid[], text[], text[], bytea[], text[], text[], interval[], text, text[], text[], text, interval,
        boolean, integer
    )
    """,
    "DROP FUNCTION claim_jobs(text, text[], text[], text, interval, boolean, integer)",
)
"""A function whose answer gets other columns cannot be replaced; both are there again when this commits."""

CLAIM_JOBS = """
-- Claim for a built-in worker: the most urgent due jobs of one queue that it serves, each with a new lease.
CREATE OR REPLACE FUNCTION claim_jobs(
    p_queue text,
    p_task_types text[],
    p_model_profiles text[],
    p_worker_id text,
    p_lease interval,
    p_alone boolean,
    p_limit integer
)
RETURNS TABLE (
    job_id uuid,
    lease_token uuid,
    task_type text,
    model_profile text,
    owner_service text,
    queue text,
    priority smallint,
    attempts smallint,
    max_attempts smallint,
    give_backs smallint,
    number integer,
    trial boolean,
    crashes smallint,
    input bytea,
    waited_ms integer,
    traceparent text
)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    claimed uuid[];
    tried uuid;
BEGIN
    claimed := claim_line(
        p_queue, NULL, p_task_types, p_model_profiles, NULL, p_worker_id, p_lease, false, p_alone, p_limit
    );
    IF cardinality(claimed) = 0 THEN
        RETURN;
    END IF;
    tried := (SELECT s.trial_token FROM line_states AS s WHERE s.line = p_queue ORDER BY s.turn DESC LIMIT 1);
    RETURN QUERY
    SELECT
        j.id, j.lease_token, j.task_type, j.model_profile, j.owner_service, j.queue, j.priority, j.attempts,
        j.max_attempts, j.give_backs, j.number,
        coalesce(j.lease_token = tried, false),
        j.crashes,
        i.input,
        j.waited_ms,
        i.traceparent
    FROM unnest(claimed) WITH ORDINALITY AS c (id, place)
    JOIN jobs AS j ON j.id = c.id
    -- The limit keeps it a look-up for each, whatever the statistics say.
    CROSS JOIN LATERAL (SELECT b.input, b.traceparent FROM job_inputs AS b WHERE b.job_id = j.id LIMIT 1) AS i
    ORDER BY c.place;
END
$$
"""

EXCHANGE_JOBS = """
-- Exchange: settle what ended and claim what is next, in one commit. A row of the answer is a lost or a claimed job.
-- The claim sees what the settlement freed: each statement of a function takes its own snapshot.
CREATE OR REPLACE FUNCTION exchange_jobs(
    p_job_ids uuid[],
    p_tokens uuid[],
    p_outcomes text[],
    p_statuses text[],
    p_results bytea[],
    p_error_codes text[],
    p_error_messages text[],
    p_delays interval[],
    p_queue text,
    p_task_types text[],
    p_model_profiles text[],
    p_worker_id text,
    p_lease interval,
    p_alone boolean,
    p_limit integer
)
RETURNS TABLE (
    lost bigint,
    job_id uuid,
    lease_token uuid,
    task_type text,
    model_profile text,
    owner_service text,
    queue text,
    priority smallint,
    attempts smallint,
    max_attempts smallint,
    give_backs smallint,
    number integer,
    trial boolean,
    crashes smallint,
    input bytea,
    waited_ms integer,
    traceparent text
)
LANGUAGE plpgsql
SET jit = off
AS $$
BEGIN
    IF cardinality(p_job_ids) > 0 THEN
        RETURN QUERY
        SELECT
            s.lost, NULL::uuid, NULL::uuid, NULL, NULL, NULL, NULL, NULL::smallint, NULL::smallint, NULL::smallint,
            NULL::smallint, NULL::integer, NULL::boolean, NULL::smallint, NULL::bytea,
            NULL::integer, NULL
        FROM settle_jobs(
            p_job_ids, p_tokens, p_outcomes, p_statuses, p_results, p_error_codes, p_error_messages, p_delays,
            nullif(p_queue, '')
        ) AS s;
    END IF;
    IF p_limit > 0 THEN
        RETURN QUERY
        SELECT NULL::bigint, c.*
        FROM claim_jobs(p_queue, p_task_types, p_model_profiles, p_worker_id, p_lease, p_alone, p_limit) AS c;
    END IF;
END
$$
"""


def upgrade() -> None:
    for statement in (COLUMN, *DROPS, CLAIM_JOBS, EXCHANGE_JOBS):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    states = import_module("migrations.versions.0007_states")
    liveness = import_module("migrations.versions.0004_liveness")
    for statement in (
        *DROPS,
        states.CLAIM_JOBS,
        liveness.EXCHANGE_JOBS,
        "ALTER TABLE job_inputs DROP COLUMN traceparent",
    ):
        op.get_bind().exec_driver_sql(statement)
