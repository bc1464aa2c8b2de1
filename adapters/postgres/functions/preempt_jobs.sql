-- Preemption: slots of running low jobs for high ones that find none free, where the queue's policy allows it.
-- One that has aged to the highest level is low no longer. The victims go back unharmed; each slot stays taken until
-- its worker says that the call is closed.
CREATE OR REPLACE FUNCTION preempt_jobs(p_queue text, p_alive interval)
RETURNS TABLE (id uuid, owner_service text, task_type text, queue text, status text, number integer)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    taken integer;
    policy queues%ROWTYPE;
    slots integer;
    wanted integer;
    alone text[];
BEGIN
    SELECT * INTO policy FROM queues WHERE name = p_queue;
    IF policy.preempt IS NOT TRUE OR policy.paused OR policy.stopped OR policy.circuit_state <> 'closed' THEN
        RETURN;
    END IF;
    PERFORM FROM line_names WHERE name = p_queue FOR UPDATE;
    taken := (SELECT s.busy FROM line_states AS s WHERE s.line = p_queue ORDER BY s.turn DESC LIMIT 1);
    alone := ARRAY (
        SELECT j.worker_id FROM jobs AS j
        WHERE j.status = 'running'
          AND j.crashes >= 2
          AND j.lease_timeout IS NULL
    );
    slots := (
        -- One that runs a job without company has no other slot to give.
        SELECT coalesce(sum(CASE WHEN w.worker_id = ANY (alone) THEN 1 ELSE w.slots_per_queue END), 0)
        FROM workers AS w
        WHERE p_queue = ANY (w.queues)
          AND w.seen_at > now() - p_alive
    )
    -- Runs of external workers are busy slots of the queue, and of no worker here.
    + (
        SELECT count(*) FROM jobs AS j
        WHERE j.status = 'running'
          AND j.queue = p_queue
          AND j.lease_timeout IS NOT NULL
    );
    -- High jobs that a free slot would start: not those of an owner who runs as many as it may, nor those too late, nor
    -- those that wait for a worker without company.
    wanted := (
        SELECT sum(least(high.jobs, CASE WHEN o.max_running < running_of(n.owner_service) THEN 0
                                         ELSE o.max_running - running_of(n.owner_service) END))
        FROM lane_names AS n
        LEFT JOIN owners AS o ON o.owner_service = n.owner_service AND o.max_running IS NOT NULL
        CROSS JOIN LATERAL (
            SELECT count(*) AS jobs
            FROM (
                SELECT FROM jobs AS j
                WHERE j.line = p_queue
                  AND j.level = 1
                  AND j.owner_service = n.owner_service
                  AND j.status = 'pending'
                  AND j.due
                  AND j.priority = 1
                  AND j.crashes < 2
                  AND (j.deadline_at IS NULL OR j.deadline_at > now() OR j.started_at IS NOT NULL)
                LIMIT 1000
            ) AS waiting
        ) AS high
        WHERE n.line = p_queue
          AND n.level = 1
    )
    - greatest(least(slots, policy.concurrency, policy.adapted) - taken, 0)
    - (SELECT count(*) FROM closing_slots AS c WHERE c.line = p_queue);
    -- The reserved share of the slots is not taken: what has just had its turn would lose it again and again.
    IF policy.reserved_share > 0 THEN
        wanted := least(
            wanted,
            (SELECT count(*) FROM jobs AS j WHERE j.status = 'running' AND j.queue = p_queue AND j.level > 1)
            - ceil(policy.reserved_share * least(slots, policy.concurrency, policy.adapted))
        );
    END IF;
    IF wanted IS NULL OR wanted <= 0 THEN
        RETURN;
    END IF;

    RETURN QUERY
    WITH victim AS MATERIALIZED (
        SELECT
            j.id, j.lease_token, j.lease_expires_at, j.worker_id, j.started_at, j.waited_ms,
            j.line, j.level, j.owner_service, j.seq, j.charge, j.number + 1 AS number
        FROM jobs AS j
        WHERE j.status = 'running'
          AND j.queue = p_queue
          AND j.priority = 5
          AND j.level > 1
          AND j.lease_timeout IS NULL
        ORDER BY j.started_at DESC, j.seq DESC
        LIMIT wanted
        FOR UPDATE SKIP LOCKED
    ), run AS (
        INSERT INTO runs (job_id, lease_token, worker_id, started_at, ended_at, waited_ms, number, became, outcome)
        SELECT v.id, v.lease_token, v.worker_id, v.started_at, now(), v.waited_ms, v.number, 'pending', 'preempted'
        FROM victim AS v
    ), slot AS (
        INSERT INTO closing_slots (lease_token, job_id, line, level, owner_service, charge, started_at, expires_at)
        SELECT v.lease_token, v.id, v.line, v.level, v.owner_service, v.charge, v.started_at, v.lease_expires_at
        FROM victim AS v
    ), lane AS (
        SELECT reach_lanes(array_agg(v.line), array_agg(v.level), array_agg(v.owner_service), array_agg(v.seq))
        FROM victim AS v
    )
    UPDATE jobs AS j
    SET status = 'pending',
        number = v.number,
        due = true,
        lease_token = NULL,
        lease_expires_at = NULL,
        updated_at = now()
    FROM victim AS v, (SELECT count(*) FROM lane) AS lanes
    WHERE j.id = v.id
    RETURNING j.id, j.owner_service, j.task_type, j.queue, j.status, j.number;
END
$$
