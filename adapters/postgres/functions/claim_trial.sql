-- Claim from a queue whose circuit is half open: one job, if none is being tried; its end decides about the circuit.
-- Not the one that failed last if there is another; one whose server is the sick one, if it waits: what another server
-- answers tells nothing. And of those in front one that was given back least: an outage must not use up the give-backs
-- of the first in line. Called by claim_line, which has locked the line and owners.
CREATE OR REPLACE FUNCTION claim_trial(
    p_line text,
    p_failed_job uuid,
    p_sick_profile text,
    p_task_types text[],
    p_model_profiles text[],
    p_owner_services text[],
    p_worker_id text,
    p_lease interval,
    p_outside boolean
)
RETURNS uuid[]
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    job record;
BEGIN
    IF EXISTS (SELECT FROM lines AS l JOIN jobs AS j ON j.id = l.trial_job AND j.lease_token = l.trial_token
               WHERE l.name = p_line) THEN
        RETURN '{}';
    END IF;
    SELECT j.id, j.level, j.owner_service INTO job
    FROM jobs AS j
    WHERE j.id = ANY (ARRAY (
        SELECT near.id
        FROM (VALUES (true), (false)) AS of_server (sick)
        CROSS JOIN LATERAL (
            SELECT w.id, w.level, w.seq, w.give_backs FROM jobs AS w
            WHERE w.line = p_line
              AND w.status = 'pending'
              AND w.due
              AND (w.model_profile IS NOT DISTINCT FROM p_sick_profile) = of_server.sick
              AND (p_task_types IS NULL OR w.task_type = ANY (p_task_types))
              AND (p_model_profiles IS NULL OR w.model_profile = ANY (p_model_profiles))
              AND (p_owner_services IS NULL OR w.owner_service = ANY (p_owner_services))
              AND (w.deadline_at IS NULL OR w.deadline_at > now() OR w.started_at IS NOT NULL)
              AND NOT EXISTS (
                  SELECT FROM owners AS o
                  WHERE o.owner_service = w.owner_service
                    AND o.max_running <= running_of(o.owner_service)
              )
            ORDER BY w.level, w.owner_service, w.seq
            LIMIT 100
        ) AS near
        ORDER BY
            near.id IS NOT DISTINCT FROM p_failed_job, NOT of_server.sick, near.give_backs, near.level, near.seq
        LIMIT 1
    ))
      AND j.status = 'pending'
      AND j.due
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN '{}';
    END IF;

    UPDATE jobs AS j
    SET status = 'running',
        number = j.number + 1,
        lease_token = gen_random_uuid(),
        lease_expires_at = now() + p_lease,
        lease_timeout = CASE WHEN p_outside THEN p_lease END,
        worker_id = p_worker_id,
        waited_ms = waited_ms(j.run_at, j.created_at, now()),
        charge = 0,
        started_at = now(),
        updated_at = now()
    WHERE j.id = job.id;
    UPDATE lines AS l
    SET busy = l.busy + 1, trial_job = job.id, trial_token = (SELECT j.lease_token FROM jobs AS j WHERE j.id = job.id)
    WHERE l.name = p_line;
    RETURN ARRAY[job.id];
END
$$
