"""The first tables: jobs and what belongs to them, worker processes, the scheduler's lead.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
oldest_program = "0001"
loses = "everything"

TABLES = (
    """
    CREATE SEQUENCE jobs_seq
    """,
    """
    -- Hot: every transition writes here, so nothing that never changes and no index but those of the hot paths.
    -- Room on each page and an eager vacuum, because dead rows in the ready index are what slows a queue in PostgreSQL.
    CREATE TABLE jobs (
        id uuid PRIMARY KEY,
        lease_token uuid,
        seq bigint NOT NULL,
        run_at timestamptz NOT NULL,
        lease_expires_at timestamptz,
        started_at timestamptz,
        finished_at timestamptz,
        updated_at timestamptz NOT NULL,
        priority smallint NOT NULL CHECK (priority IN (1, 3, 5)),
        attempts smallint NOT NULL DEFAULT 0,
        max_attempts smallint NOT NULL CHECK (max_attempts > 0),
        crashes smallint NOT NULL DEFAULT 0,
        give_backs smallint NOT NULL DEFAULT 0,
        due boolean NOT NULL,
        status text NOT NULL CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
        queue text,
        owner_service text NOT NULL,
        task_type text NOT NULL,
        model_profile text NOT NULL,
        worker_id text,
        error_code text,
        error_message text,
        CONSTRAINT only_running_jobs_are_leased CHECK (
            (status = 'running') = (lease_token IS NOT NULL)
            AND (status = 'running') = (lease_expires_at IS NOT NULL)
            AND (status <> 'running' OR worker_id IS NOT NULL)
        ),
        CONSTRAINT only_final_jobs_are_finished CHECK (
            (status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)
        ),
        CONSTRAINT failed_jobs_say_why CHECK (status NOT IN ('failed', 'cancelled') OR error_code IS NOT NULL),
        CONSTRAINT attempts_are_bounded CHECK (attempts BETWEEN 0 AND max_attempts)
    ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0)
    """,
    """
    CREATE INDEX jobs_ready ON jobs (queue, priority, seq) WHERE status = 'pending' AND due
    """,
    """
    CREATE INDEX jobs_scheduled ON jobs (run_at) WHERE status = 'pending' AND NOT due
    """,
    """
    CREATE INDEX jobs_leases ON jobs (lease_expires_at) WHERE status = 'running'
    """,
    """
    -- What never changes and is browsed by.
    CREATE TABLE job_details (
        job_id uuid PRIMARY KEY,
        seq bigint NOT NULL,
        created_at timestamptz NOT NULL,
        owner_service text NOT NULL,
        owner_ref text NOT NULL,
        task_type text NOT NULL,
        model_profile text NOT NULL
    )
    """,
    """
    CREATE INDEX job_details_seq ON job_details (seq)
    """,
    """
    CREATE INDEX job_details_owner ON job_details (owner_service, seq)
    """,
    """
    -- JSON as it was sent, neither parsed nor rewritten; the result apart, so that storing it never rewrites the input.
    CREATE TABLE job_inputs (job_id uuid PRIMARY KEY, input bytea NOT NULL)
    """,
    """
    CREATE TABLE job_results (job_id uuid PRIMARY KEY, result bytea NOT NULL)
    """,
    """
    -- Runs that ended: a job's history, and the fence of repeated completions. A run in progress is its job's own row.
    CREATE TABLE runs (
        job_id uuid NOT NULL,
        lease_token uuid NOT NULL,
        started_at timestamptz NOT NULL,
        ended_at timestamptz NOT NULL,
        worker_id text NOT NULL,
        outcome text NOT NULL CHECK (
            outcome IN ('completed', 'failed', 'given_back', 'released', 'crashed', 'cancelled', 'retried')
        ),
        error_code text,
        error_message text,
        PRIMARY KEY (job_id, lease_token)
    )
    """,
    """
    -- Live worker processes. No job refers to them: deleting a row must never cascade over jobs.
    CREATE TABLE workers (
        id uuid PRIMARY KEY,
        started_at timestamptz NOT NULL,
        seen_at timestamptz NOT NULL,
        slots_per_queue integer NOT NULL,
        worker_id text NOT NULL,
        host text NOT NULL,
        queues text[] NOT NULL,
        running jsonb NOT NULL
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE leader (name text PRIMARY KEY, holder uuid NOT NULL, expires_at timestamptz NOT NULL)
    """,
)

CLAIM_JOBS = """
-- Claim: the most urgent due jobs of one queue that nobody holds, each with a new lease.
-- plpgsql keeps the plan: JIT would compile it for ten times the price of running it once the table is large, and one
-- made while the table was empty would go on scanning it.
CREATE OR REPLACE FUNCTION claim_jobs(
    p_queue text,
    p_task_types text[],
    p_model_profiles text[],
    p_worker_id text,
    p_lease interval,
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
    input bytea
)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH claimed AS (
        UPDATE jobs AS j
        SET status = 'running',
            lease_token = gen_random_uuid(),
            lease_expires_at = now() + p_lease,
            worker_id = p_worker_id,
            started_at = now(),
            updated_at = now()
        -- ANY (ARRAY (...)), not a join: a generic plan takes LIMIT for a tenth of the table and would scan all of it.
        WHERE j.id = ANY (ARRAY (
            SELECT ready.id
            FROM jobs AS ready
            WHERE ready.queue = p_queue
              AND ready.status = 'pending'
              AND ready.due
              AND ready.task_type = ANY (p_task_types)
              AND ready.model_profile = ANY (p_model_profiles)
            ORDER BY ready.priority, ready.seq
            LIMIT p_limit
            FOR UPDATE SKIP LOCKED
        ))
        RETURNING j.*
    )
    SELECT
        claimed.id,
        claimed.lease_token,
        claimed.task_type,
        claimed.model_profile,
        claimed.owner_service,
        claimed.queue,
        claimed.priority,
        claimed.attempts,
        claimed.max_attempts,
        claimed.give_backs,
        (SELECT job_inputs.input FROM job_inputs WHERE job_inputs.job_id = claimed.id)
    FROM claimed
    ORDER BY claimed.priority, claimed.seq;
END
$$
"""

SETTLE_JOBS = """
-- Settle: end runs and move their jobs on, where the run's token is still the job's. Returns the places, from 1, of
-- those where it is not: by place and not by job, for two runs of one job may end together, one of them too late.
CREATE OR REPLACE FUNCTION settle_jobs(
    p_job_ids uuid[],
    p_tokens uuid[],
    p_outcomes text[],
    p_statuses text[],
    p_results bytea[],
    p_error_codes text[],
    p_error_messages text[],
    p_delays interval[]
)
RETURNS TABLE (lost bigint)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    settled bigint[];
BEGIN
    WITH ended AS MATERIALIZED (
        SELECT *
        FROM unnest(
            p_job_ids, p_tokens, p_outcomes, p_statuses, p_results, p_error_codes, p_error_messages, p_delays
        ) WITH ORDINALITY AS e (job_id, token, outcome, status, result, error_code, error_message, delay, place)
    ), job AS (
        UPDATE jobs AS j
        SET status = e.status,
            attempts = j.attempts + (e.outcome IN ('completed', 'failed'))::integer,
            give_backs = j.give_backs + (e.outcome = 'given_back')::integer,
            error_code = CASE WHEN e.status = 'completed' THEN NULL ELSE coalesce(e.error_code, j.error_code) END,
            error_message = CASE
                WHEN e.status = 'completed' THEN NULL
                WHEN e.error_code IS NULL THEN j.error_message
                ELSE e.error_message
            END,
            run_at = CASE WHEN e.delay > interval '0' THEN now() + e.delay ELSE j.run_at END,
            due = e.delay = interval '0',
            lease_token = NULL,
            lease_expires_at = NULL,
            finished_at = CASE WHEN e.status = 'pending' THEN NULL ELSE now() END,
            updated_at = now()
        FROM ended AS e
        WHERE j.id = ANY (p_job_ids)
          AND j.id = e.job_id
          AND j.lease_token = e.token
        RETURNING
            e.place, j.id, j.worker_id, j.started_at, e.token, e.outcome, e.result, e.error_code, e.error_message
    ), run AS (
        INSERT INTO runs (job_id, lease_token, worker_id, started_at, ended_at, outcome, error_code, error_message)
        SELECT job.id, job.token, job.worker_id, job.started_at, now(), job.outcome, job.error_code, job.error_message
        FROM job
    ), result AS (
        INSERT INTO job_results (job_id, result)
        SELECT job.id, job.result
        FROM job
        WHERE job.result IS NOT NULL
    )
    SELECT coalesce(array_agg(job.place), '{}') INTO settled FROM job;

    IF cardinality(settled) < cardinality(p_job_ids) THEN
        RETURN QUERY
        SELECT given.place FROM generate_series(1, cardinality(p_job_ids)::bigint) AS given (place)
        WHERE given.place <> ALL (settled);
    END IF;
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
    input bytea
)
LANGUAGE plpgsql
SET jit = off
AS $$
BEGIN
    IF cardinality(p_job_ids) > 0 THEN
        RETURN QUERY
        SELECT
            s.lost, NULL::uuid, NULL::uuid, NULL, NULL, NULL, NULL,
            NULL::smallint, NULL::smallint, NULL::smallint, NULL::smallint, NULL::bytea
        FROM settle_jobs(
            p_job_ids, p_tokens, p_outcomes, p_statuses, p_results, p_error_codes, p_error_messages, p_delays
        ) AS s;
    END IF;
    IF p_limit > 0 THEN
        RETURN QUERY
        SELECT NULL::bigint, c.*
        FROM claim_jobs(p_queue, p_task_types, p_model_profiles, p_worker_id, p_lease, p_limit) AS c;
    END IF;
END
$$
"""


def upgrade() -> None:
    for statement in (*TABLES, CLAIM_JOBS, SETTLE_JOBS, EXCHANGE_JOBS):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for statement in (
        "DROP FUNCTION exchange_jobs, settle_jobs, claim_jobs",
        "DROP TABLE leader, workers, runs, job_results, job_inputs, job_details, jobs",
        "DROP SEQUENCE jobs_seq",
    ):
        op.get_bind().exec_driver_sql(statement)
