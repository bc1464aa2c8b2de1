"""The whole job API: who may find a job and how, its history, external leases, and figures that stay cheap.

Revision ID: 0002
"""

from __future__ import annotations

from importlib import import_module

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
oldest_program = "0002"
loses = "idempotency keys, labels, batches, deadlines, progress and what changed jobs beside their runs"

COLUMNS = (
    """
    ALTER TABLE jobs
        -- When it was created, again: a list by state is read in this order.
        ADD COLUMN created_at timestamptz,
        ADD COLUMN deadline_at timestamptz,
        -- Counts the changes of state. What the history says of each is put together from runs and job_changes.
        ADD COLUMN number integer NOT NULL DEFAULT 1,
        -- Only of a run by an external worker: how long its lease lasts from each heartbeat.
        ADD COLUMN lease_timeout interval,
        -- For how long it had been due when its last run began.
        ADD COLUMN waited_ms integer NOT NULL DEFAULT 0
    """,
    """
    ALTER TABLE job_details
        ADD COLUMN queue text,
        ADD COLUMN priority smallint,
        ADD COLUMN labels jsonb,
        ADD COLUMN batch_id uuid,
        ADD COLUMN idempotency_key text,
        ADD COLUMN fingerprint bytea
    """,
    """
    ALTER TABLE runs
        -- The change of state that ended it, and the state that followed.
        ADD COLUMN number integer,
        ADD COLUMN became text,
        ADD COLUMN waited_ms integer NOT NULL DEFAULT 0,
        DROP CONSTRAINT runs_outcome_check,
        ADD CONSTRAINT runs_outcome_check CHECK (
            outcome IN ('completed', 'failed', 'given_back', 'released', 'expired', 'crashed', 'cancelled', 'retried')
        )
    """,
    """
    -- Changes of state that neither began nor ended a run: a waiting job cancelled, an ended one started afresh.
    CREATE TABLE job_changes (
        job_id uuid NOT NULL,
        number integer NOT NULL,
        status text NOT NULL,
        at timestamptz NOT NULL,
        error_code text,
        error_message text,
        PRIMARY KEY (job_id, number)
    )
    """,
    """
    -- The last that a run reported. Apart from jobs: it may be large, and is written at every heartbeat.
    CREATE TABLE job_progress (
        job_id uuid PRIMARY KEY,
        number integer NOT NULL,
        report integer NOT NULL,
        at timestamptz NOT NULL,
        progress bytea NOT NULL
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE job_labels (
        name text NOT NULL,
        value text NOT NULL,
        created_at timestamptz NOT NULL,
        seq bigint NOT NULL,
        job_id uuid NOT NULL,
        PRIMARY KEY (name, value, created_at, seq)
    )
    """,
    """
    -- How many jobs there are of each kind. No NULL, so that the key is one: an empty queue or code stands for none.
    CREATE TABLE job_counts (
        owner_service text NOT NULL,
        queue text NOT NULL,
        task_type text NOT NULL,
        model_profile text NOT NULL,
        priority smallint NOT NULL,
        status text NOT NULL,
        due boolean NOT NULL,
        error_code text NOT NULL,
        jobs bigint NOT NULL,
        PRIMARY KEY (owner_service, queue, task_type, model_profile, priority, status, due, error_code)
    ) WITH (fillfactor = 50)
    """,
    """
    -- What statements noted since the last count; the scheduler folds it in every second.
    CREATE TABLE job_count_changes (
        owner_service text NOT NULL,
        queue text NOT NULL,
        task_type text NOT NULL,
        model_profile text NOT NULL,
        priority smallint NOT NULL,
        status text NOT NULL,
        due boolean NOT NULL,
        error_code text NOT NULL,
        at timestamptz NOT NULL,
        jobs bigint NOT NULL
    ) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0)
    """,
    """
    CREATE TABLE jobs_finished (
        since timestamptz NOT NULL,
        owner_service text NOT NULL,
        status text NOT NULL,
        jobs bigint NOT NULL,
        PRIMARY KEY (since, owner_service, status)
    ) WITH (fillfactor = 50)
    """,
)

CONTENTS = (
    """
    UPDATE job_details AS d SET queue = j.queue, priority = j.priority FROM jobs AS j WHERE j.id = d.job_id
    """,
    """
    UPDATE runs AS r
    SET number = 2 * counted.place + 1,
        became = CASE
            WHEN r.outcome IN ('completed', 'cancelled') THEN r.outcome
            WHEN counted.last AND j.status = 'failed' THEN 'failed'
            ELSE 'pending'
        END
    FROM (
        SELECT
            job_id, lease_token,
            row_number() OVER (PARTITION BY job_id ORDER BY ended_at) AS place,
            row_number() OVER (PARTITION BY job_id ORDER BY ended_at DESC) = 1 AS last
        FROM runs
    ) AS counted
    JOIN jobs AS j ON j.id = counted.job_id
    WHERE r.job_id = counted.job_id
      AND r.lease_token = counted.lease_token
    """,
    """
    UPDATE jobs AS j
    SET created_at = d.created_at,
        number = 1 + 2 * (SELECT count(*) FROM runs AS r WHERE r.job_id = j.id) + (j.status = 'running')::integer
    FROM job_details AS d
    WHERE d.job_id = j.id
    """,
    """
    -- What led an ended or waiting job to its state without a run was not kept until now.
    INSERT INTO job_changes (job_id, number, status, at, error_code, error_message)
    SELECT j.id, j.number + 1, j.status, j.updated_at, j.error_code, j.error_message
    FROM jobs AS j
    WHERE j.status IN ('cancelled', 'pending')
      AND j.status <> coalesce(
          (SELECT r.became FROM runs AS r WHERE r.job_id = j.id AND r.number = j.number), 'pending'
      )
    """,
    """
    UPDATE jobs AS j SET number = s.number FROM job_changes AS s WHERE s.job_id = j.id
    """,
    """
    INSERT INTO job_counts (owner_service, queue, task_type, model_profile, priority, status, due, error_code, jobs)
    SELECT
        owner_service, coalesce(queue, ''), task_type, model_profile, priority, status, status = 'pending' AND due,
        coalesce(error_code, ''), count(*)
    FROM jobs
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    """,
)

INDEXES = (
    "ALTER TABLE jobs ALTER COLUMN created_at SET NOT NULL",
    "ALTER TABLE job_details ALTER COLUMN priority SET NOT NULL",
    "ALTER TABLE runs ALTER COLUMN number SET NOT NULL, ALTER COLUMN became SET NOT NULL",
    "DROP INDEX jobs_ready",
    "CREATE INDEX jobs_ready ON jobs (queue, priority, seq) WHERE status = 'pending' AND due AND queue IS NOT NULL",
    """
    -- Jobs without a queue wait among those of their kind; by owner too: an owner's worker need not look at others'.
    CREATE INDEX jobs_unserved ON jobs (task_type, model_profile, owner_service, priority, seq)
    WHERE status = 'pending' AND due AND queue IS NULL
    """,
    "CREATE INDEX jobs_by_status ON jobs (status, created_at, seq)",
    "CREATE INDEX jobs_by_error_code ON jobs (error_code, created_at, seq) WHERE error_code IS NOT NULL",
    "DROP INDEX job_details_seq",
    "DROP INDEX job_details_owner",
    "CREATE INDEX job_details_by_creation ON job_details (created_at, seq)",
    "CREATE INDEX job_details_by_owner ON job_details (owner_service, created_at, seq)",
    "CREATE INDEX job_details_by_ref ON job_details (owner_ref, created_at, seq)",
    "CREATE INDEX job_details_by_task_type ON job_details (task_type, created_at, seq)",
    "CREATE INDEX job_details_by_profile ON job_details (model_profile, created_at, seq)",
    "CREATE INDEX job_details_by_queue ON job_details (queue, created_at, seq)",
    "CREATE INDEX job_details_by_priority ON job_details (priority, created_at, seq)",
    "CREATE INDEX job_details_by_batch ON job_details (batch_id, created_at, seq) WHERE batch_id IS NOT NULL",
    """
    CREATE UNIQUE INDEX job_details_keys ON job_details (owner_service, idempotency_key)
    WHERE idempotency_key IS NOT NULL
    """,
    "CREATE INDEX runs_by_end ON runs (ended_at)",
)

WAITED_MS = """
-- For how long a job that starts now has been due, in milliseconds: what statistics of waiting are made of.
CREATE OR REPLACE FUNCTION waited_ms(p_run_at timestamptz, p_created_at timestamptz, p_now timestamptz)
RETURNS integer
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT least(greatest(extract(epoch FROM p_now - greatest(p_run_at, p_created_at)) * 1000, 0), 2147483647)::integer
$$
"""

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
    number integer,
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
            number = j.number + 1,
            lease_token = gen_random_uuid(),
            lease_expires_at = now() + p_lease,
            lease_timeout = NULL,
            worker_id = p_worker_id,
            waited_ms = waited_ms(j.run_at, j.created_at, now()),
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
        claimed.number,
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
            number = j.number + 1,
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
            lease_timeout = NULL,
            finished_at = CASE WHEN e.status = 'pending' THEN NULL ELSE now() END,
            updated_at = now()
        FROM ended AS e
        WHERE j.id = ANY (p_job_ids)
          AND j.id = e.job_id
          AND j.lease_token = e.token
        RETURNING
            e.place, j.id, j.worker_id, j.started_at, j.waited_ms, j.number, j.status,
            e.token, e.outcome, e.result, e.error_code, e.error_message
    ), run AS (
        INSERT INTO runs (
            job_id, lease_token, worker_id, started_at, ended_at, waited_ms, number, became, outcome, error_code,
            error_message
        )
        SELECT
            job.id, job.token, job.worker_id, job.started_at, now(), job.waited_ms, job.number, job.status,
            job.outcome, job.error_code, job.error_message
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
    number integer,
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
            NULL::smallint, NULL::smallint, NULL::smallint, NULL::smallint, NULL::integer, NULL::bytea
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

CLAIM_FOR_EXTERNAL = """
-- Claim over HTTP: the most urgent due jobs among those that match, of any queue and of none. NULL matches any.
-- Candidates are read without locks, line by line, and locked in their common order; the caller gets fewer than it
-- asked for only when there are no more, since a round that lost its candidates to others looks deeper.
-- Its plan is a general one: one made for rare values would look for them among all jobs, and sort. Each line is read
-- in its order, to its last match.
CREATE OR REPLACE FUNCTION claim_for_external(
    p_worker_id text,
    p_lease interval,
    p_limit integer,
    p_task_types text[],
    p_model_profiles text[],
    p_owner_services text[],
    p_queues text[]
)
RETURNS TABLE (job_id uuid, lease_token uuid)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    depth integer := p_limit + 16;
    chosen uuid[] := '{}';
    locked uuid[];
    candidates uuid[];
BEGIN
    LOOP
        WITH RECURSIVE queue (name) AS (
            (
                SELECT j.queue FROM jobs AS j
                WHERE j.status = 'pending' AND j.due AND j.queue IS NOT NULL AND p_queues IS NULL
                ORDER BY j.queue
                LIMIT 1
            )
            UNION ALL
            SELECT (
                SELECT j.queue FROM jobs AS j
                WHERE j.status = 'pending' AND j.due AND j.queue > q.name
                ORDER BY j.queue
                LIMIT 1
            )
            FROM queue AS q
            WHERE q.name IS NOT NULL
        ), kind (task_type, model_profile, owner_service) AS (
            (
                SELECT j.task_type, j.model_profile, j.owner_service FROM jobs AS j
                WHERE j.status = 'pending' AND j.due AND j.queue IS NULL AND p_queues IS NULL
                ORDER BY j.task_type, j.model_profile, j.owner_service
                LIMIT 1
            )
            UNION ALL
            SELECT following.*
            FROM kind AS k
            CROSS JOIN LATERAL (
                SELECT j.task_type, j.model_profile, j.owner_service FROM jobs AS j
                WHERE j.status = 'pending' AND j.due AND j.queue IS NULL
                  AND (j.task_type, j.model_profile, j.owner_service)
                    > (k.task_type, k.model_profile, k.owner_service)
                ORDER BY j.task_type, j.model_profile, j.owner_service
                LIMIT 1
            ) AS following
        ), matching AS MATERIALIZED (
            SELECT c.queue, sum(c.jobs)::bigint AS jobs
            FROM (
                SELECT owner_service, queue, task_type, model_profile, due, jobs FROM job_counts
                UNION ALL
                SELECT owner_service, queue, task_type, model_profile, due, jobs FROM job_count_changes
            ) AS c
            WHERE (p_task_types IS NOT NULL OR p_model_profiles IS NOT NULL OR p_owner_services IS NOT NULL)
              AND c.due
              AND (p_task_types IS NULL OR c.task_type = ANY (p_task_types))
              AND (p_model_profiles IS NULL OR c.model_profile = ANY (p_model_profiles))
              AND (p_owner_services IS NULL OR c.owner_service = ANY (p_owner_services))
            GROUP BY c.queue
        ), promising AS (
            -- A long queue must not be searched beyond its last match, or without one.
            SELECT q.name, m.jobs
            FROM (SELECT name FROM queue UNION SELECT unnest(p_queues)) AS q
            LEFT JOIN matching AS m ON m.queue = q.name
            WHERE m.jobs > 0
               OR (p_task_types IS NULL AND p_model_profiles IS NULL AND p_owner_services IS NULL)
        ), candidate AS (
            SELECT c.*
            FROM promising AS q
            CROSS JOIN LATERAL (
                SELECT j.id, j.priority, j.seq FROM jobs AS j
                WHERE j.queue = q.name AND j.status = 'pending' AND j.due
                  AND (p_task_types IS NULL OR j.task_type = ANY (p_task_types))
                  AND (p_model_profiles IS NULL OR j.model_profile = ANY (p_model_profiles))
                  AND (p_owner_services IS NULL OR j.owner_service = ANY (p_owner_services))
                ORDER BY j.priority, j.seq
                LIMIT least(depth, q.jobs)
            ) AS c
            UNION ALL
            SELECT c.*
            FROM kind AS k
            CROSS JOIN LATERAL (
                SELECT j.id, j.priority, j.seq FROM jobs AS j
                WHERE j.queue IS NULL AND j.status = 'pending' AND j.due
                  AND j.task_type = k.task_type
                  AND j.model_profile = k.model_profile
                  AND j.owner_service = k.owner_service
                ORDER BY j.priority, j.seq
                LIMIT depth
            ) AS c
            WHERE (p_task_types IS NULL OR k.task_type = ANY (p_task_types))
              AND (p_model_profiles IS NULL OR k.model_profile = ANY (p_model_profiles))
              AND (p_owner_services IS NULL OR k.owner_service = ANY (p_owner_services))
        )
        SELECT array_agg(first.id) INTO candidates
        FROM (SELECT c.id FROM candidate AS c ORDER BY c.priority, c.seq LIMIT depth) AS first;

        locked := ARRAY (
            SELECT j.id FROM jobs AS j
            WHERE j.id = ANY (candidates) AND j.status = 'pending' AND j.due AND j.id <> ALL (chosen)
            ORDER BY j.priority, j.seq
            LIMIT p_limit - cardinality(chosen)
            FOR UPDATE SKIP LOCKED
        );
        chosen := chosen || locked;
        EXIT WHEN cardinality(chosen) >= p_limit OR coalesce(cardinality(candidates), 0) < depth;
        depth := depth * 4;
    END LOOP;

    RETURN QUERY
    UPDATE jobs AS j
    SET status = 'running',
        number = j.number + 1,
        lease_token = gen_random_uuid(),
        lease_expires_at = now() + p_lease,
        lease_timeout = p_lease,
        worker_id = p_worker_id,
        waited_ms = waited_ms(j.run_at, j.created_at, now()),
        started_at = now(),
        updated_at = now()
    WHERE j.id = ANY (chosen)
    RETURNING j.id, j.lease_token;
END
$$
"""

NOTE_JOB_COUNTS = """
-- Trigger on jobs, once per statement: note by how much each kind of job became more or fewer.
-- Appended, not added up: a counter that every statement updates would serialise them all.
CREATE OR REPLACE FUNCTION note_job_counts()
RETURNS trigger
LANGUAGE plpgsql
SET jit = off
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO job_count_changes (
            owner_service, queue, task_type, model_profile, priority, status, due, error_code, at, jobs
        )
        SELECT
            owner_service, coalesce(queue, ''), task_type, model_profile, priority, status,
            status = 'pending' AND due, coalesce(error_code, ''), now(), count(*)
        FROM added
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO job_count_changes (
            owner_service, queue, task_type, model_profile, priority, status, due, error_code, at, jobs
        )
        SELECT
            owner_service, coalesce(queue, ''), task_type, model_profile, priority, status,
            status = 'pending' AND due, coalesce(error_code, ''), now(), -count(*)
        FROM removed
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
    ELSE
        INSERT INTO job_count_changes (
            owner_service, queue, task_type, model_profile, priority, status, due, error_code, at, jobs
        )
        SELECT
            owner_service, coalesce(queue, ''), task_type, model_profile, priority, status,
            status = 'pending' AND due, coalesce(error_code, ''), now(), sum(one)
        FROM (SELECT added.*, 1 AS one FROM added UNION ALL SELECT removed.*, -1 FROM removed) AS change
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        HAVING sum(one) <> 0;
    END IF;
    RETURN NULL;
END
$$
"""

FUNCTIONS = (WAITED_MS, CLAIM_JOBS, SETTLE_JOBS, EXCHANGE_JOBS, CLAIM_FOR_EXTERNAL, NOTE_JOB_COUNTS)

TRIGGERS = (
    """
    CREATE TRIGGER jobs_added AFTER INSERT ON jobs
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note_job_counts()
    """,
    """
    CREATE TRIGGER jobs_changed AFTER UPDATE ON jobs
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note_job_counts()
    """,
    """
    CREATE TRIGGER jobs_removed AFTER DELETE ON jobs
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION note_job_counts()
    """,
)


def upgrade() -> None:
    for statement in (
        *COLUMNS,
        *CONTENTS,
        *INDEXES,
        "DROP FUNCTION exchange_jobs, settle_jobs, claim_jobs",
        *FUNCTIONS,
        *TRIGGERS,
    ):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    before = import_module("migrations.versions.0001_jobs")
    for statement in (
        "DROP TRIGGER jobs_added ON jobs",
        "DROP TRIGGER jobs_changed ON jobs",
        "DROP TRIGGER jobs_removed ON jobs",
        "DROP FUNCTION note_job_counts, claim_for_external, exchange_jobs, settle_jobs, claim_jobs, waited_ms",
        "DROP TABLE jobs_finished, job_count_changes, job_counts, job_labels, job_progress, job_changes",
        "DROP INDEX jobs_ready, jobs_unserved, jobs_by_status, jobs_by_error_code, runs_by_end",
        """
        DROP INDEX
            job_details_by_creation, job_details_by_owner, job_details_by_ref, job_details_by_task_type,
            job_details_by_profile, job_details_by_queue, job_details_by_priority, job_details_by_batch,
            job_details_keys
        """,
        """
        ALTER TABLE jobs
            DROP created_at, DROP deadline_at, DROP number, DROP lease_timeout, DROP waited_ms
        """,
        """
        ALTER TABLE job_details
            DROP queue, DROP priority, DROP labels, DROP batch_id, DROP idempotency_key, DROP fingerprint
        """,
        "UPDATE runs SET outcome = 'failed' WHERE outcome = 'expired'",
        """
        ALTER TABLE runs
            DROP number, DROP became, DROP waited_ms,
            DROP CONSTRAINT runs_outcome_check,
            ADD CONSTRAINT runs_outcome_check CHECK (
                outcome IN ('completed', 'failed', 'given_back', 'released', 'crashed', 'cancelled', 'retried')
            )
        """,
        "CREATE INDEX jobs_ready ON jobs (queue, priority, seq) WHERE status = 'pending' AND due",
        "CREATE INDEX job_details_seq ON job_details (seq)",
        "CREATE INDEX job_details_owner ON job_details (owner_service, seq)",
        before.CLAIM_JOBS,
        before.SETTLE_JOBS,
        before.EXCHANGE_JOBS,
    ):
        op.get_bind().exec_driver_sql(statement)
