-- Scheduler, every second: take running jobs from workers that are dead, and free their slots: those whose lease ran
-- out, and those of workers that are proven dead before that. A built-in worker's run crashed and is not counted; an
-- external worker's failed.
-- A session that is younger than p_steady rescues nobody: it has not seen how long PostgreSQL was away for the workers.
-- p_everyone: no built-in worker can be alive. Those outside may be; they could renew nothing meanwhile.
CREATE OR REPLACE FUNCTION rescue_jobs(
    p_max_crashes integer,
    p_error_code text,
    p_crashed text,
    p_crashed_too_often text,
    p_expired text,
    p_delay interval,
    p_silent interval,
    p_lease interval,
    p_steady interval,
    p_everyone boolean,
    p_limit integer
)
RETURNS TABLE (id uuid, owner_service text, task_type text, queue text, status text, number integer)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    dead_ones text[];
    chosen uuid[];
    locked text[];
    rescued uuid[];
BEGIN
    IF NOT has_seen(p_steady) THEN
        RETURN;
    END IF;
    dead_ones := dead_workers(p_silent, p_lease);
    chosen := ARRAY (
        SELECT j.id FROM jobs AS j
        WHERE j.status = 'running'
          AND j.lease_expires_at < now()
          AND (j.lease_timeout IS NULL OR NOT p_everyone)
        ORDER BY j.lease_expires_at
        LIMIT p_limit
    );
    IF p_everyone OR cardinality(dead_ones) > 0 THEN
        chosen := chosen || ARRAY (
            SELECT j.id FROM jobs AS j
            WHERE j.status = 'running'
              AND j.lease_expires_at >= now()
              AND j.lease_timeout IS NULL
              AND (p_everyone OR j.worker_id = ANY (dead_ones))
            LIMIT p_limit
        );
    END IF;
    IF cardinality(chosen) = 0 AND cardinality(dead_ones) = 0 THEN
        RETURN;
    END IF;
    locked := ARRAY (SELECT DISTINCT j.line FROM jobs AS j WHERE j.id = ANY (chosen));
    PERFORM FROM line_names AS l WHERE l.name = ANY (locked) ORDER BY l.name FOR UPDATE;

    WITH dead AS MATERIALIZED (
        SELECT
            j.id, j.lease_token, j.worker_id, j.started_at, j.waited_ms,
            j.line, j.level, j.owner_service, j.seq, j.charge,
            j.number + 1 AS number,
            j.lease_timeout IS NOT NULL AS external,
            j.attempts + (j.lease_timeout IS NOT NULL)::integer AS attempts,
            j.crashes + (j.lease_timeout IS NULL)::integer AS crashes,
            CASE WHEN j.lease_timeout IS NULL THEN j.crashes + 1 >= p_max_crashes
                 ELSE j.attempts + 1 >= j.max_attempts
            END AS hopeless
        FROM jobs AS j
        WHERE j.id = ANY (chosen)
          AND j.status = 'running'
          AND j.line = ANY (locked)
          AND (
              (j.lease_expires_at < now() AND (j.lease_timeout IS NULL OR NOT p_everyone))
              OR (j.lease_timeout IS NULL AND (p_everyone OR j.worker_id = ANY (dead_ones)))
          )
        FOR UPDATE SKIP LOCKED
    ), said AS MATERIALIZED (
        SELECT
            d.*,
            CASE WHEN d.hopeless THEN 'failed' ELSE 'pending' END AS became,
            CASE WHEN d.external THEN p_expired
                 WHEN d.hopeless THEN format(p_crashed_too_often, d.crashes)
                 ELSE p_crashed
            END AS message,
            d.external AND NOT d.hopeless AND p_delay > interval '0' AS delayed
        FROM dead AS d
    ), run AS (
        INSERT INTO runs (
            job_id, lease_token, worker_id, started_at, ended_at, waited_ms, number, became, outcome, error_code,
            error_message
        )
        SELECT
            s.id, s.lease_token, s.worker_id, s.started_at, now(), s.waited_ms, s.number, s.became,
            CASE WHEN s.external THEN 'expired' ELSE 'crashed' END, p_error_code, s.message
        FROM said AS s
    ), job AS (
        UPDATE jobs AS j
        SET status = s.became,
            number = s.number,
            attempts = s.attempts,
            crashes = s.crashes,
            error_code = p_error_code,
            error_message = s.message,
            run_at = CASE WHEN s.delayed THEN now() + p_delay ELSE j.run_at END,
            due = NOT s.delayed,
            lease_token = NULL,
            lease_expires_at = NULL,
            lease_timeout = NULL,
            finished_at = CASE WHEN s.hopeless THEN now() END,
            updated_at = now()
        FROM said AS s
        WHERE j.id = s.id
        RETURNING j.id
    ), slot AS (
        SELECT free_slots(
            array_agg(s.line), array_agg(s.level), array_agg(s.owner_service), array_agg(s.charge),
            array_agg(extract(epoch FROM now() - s.started_at)::double precision), array_agg(false)
        )
        FROM said AS s
    ), lane AS (
        SELECT reach_lanes(
            array_agg(s.line), array_agg(s.level), array_agg(s.owner_service), array_agg(s.seq)
        )
        FROM said AS s
        WHERE s.became = 'pending'
          AND NOT s.delayed
    )
    SELECT coalesce(array_agg(job.id), '{}') INTO rescued
    FROM job, (SELECT count(*) FROM slot) AS slots, (SELECT count(*) FROM lane) AS lanes;

    IF cardinality(dead_ones) > 0 THEN
        -- The slots of their runs that had lost their jobs before. SKIP LOCKED: renewals lock them in another order.
        UPDATE closing_slots AS c
        SET expires_at = now() - interval '1 microsecond'
        WHERE c.lease_token = ANY (ARRAY (
            SELECT s.lease_token FROM closing_slots AS s
            JOIN runs AS r ON r.job_id = s.job_id AND r.lease_token = s.lease_token
            WHERE r.worker_id = ANY (dead_ones)
            FOR UPDATE OF s SKIP LOCKED
        ));
        DELETE FROM workers AS w
        WHERE w.worker_id = ANY (dead_ones)
          AND NOT EXISTS (SELECT FROM jobs AS j WHERE j.status = 'running' AND j.worker_id = w.worker_id);
    END IF;

    RETURN QUERY
    SELECT j.id, j.owner_service, j.task_type, j.queue, j.status, j.number FROM jobs AS j WHERE j.id = ANY (rescued);
END
$$
