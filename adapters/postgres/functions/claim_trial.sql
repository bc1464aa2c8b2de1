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
    p_outside boolean,
    p_alone boolean
)
RETURNS uuid[]
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    here line_states%ROWTYPE;
    full_up text[];
    job record;
BEGIN
    SELECT * INTO here FROM line_states AS s WHERE s.line = p_line ORDER BY s.turn DESC LIMIT 1;
    IF EXISTS (SELECT FROM jobs AS j WHERE j.id = here.trial_job AND j.lease_token = here.trial_token) THEN
        RETURN '{}';
    END IF;
    full_up := ARRAY (SELECT o.owner_service FROM owners AS o WHERE o.max_running <= running_of(o.owner_service));
    SELECT j.id INTO job
    FROM jobs AS j
    WHERE j.id = ANY (ARRAY (
        SELECT near.id
        FROM (VALUES (true), (false)) AS of_server (sick)
        CROSS JOIN LATERAL (
            SELECT w.id, n.level, w.seq, w.give_backs
            FROM lane_names AS n
            CROSS JOIN LATERAL (
                SELECT k.id, k.seq, k.give_backs FROM jobs AS k
                WHERE k.line = p_line
                  AND k.level = n.level
                  AND k.owner_service = n.owner_service
                  AND k.status = 'pending'
                  AND k.due
                  AND (k.model_profile IS NOT DISTINCT FROM p_sick_profile) = of_server.sick
                  AND (p_task_types IS NULL OR k.task_type = ANY (p_task_types))
                  AND (p_model_profiles IS NULL OR k.model_profile = ANY (p_model_profiles))
                  AND (k.deadline_at IS NULL OR k.deadline_at > now() OR k.started_at IS NOT NULL)
                  -- A suspect (see claim_line) runs without company.
                  AND (k.crashes < 2 OR p_alone IS NOT FALSE)
                ORDER BY k.seq
                LIMIT 100
            ) AS w
            WHERE n.line = p_line
              AND n.owner_service <> ALL (full_up)
              AND (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
            ORDER BY n.level, n.owner_service, w.seq
            LIMIT 100
        ) AS near
        ORDER BY
            near.id IS NOT DISTINCT FROM p_failed_job, NOT of_server.sick, near.give_backs, near.level, near.seq
        LIMIT 1
    ))
      AND CASE WHEN j.status = 'pending' THEN j.due END  -- as in claim_line
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
    UPDATE line_states AS s
    SET changes = s.changes + 1,
        busy = s.busy + 1,
        trial_job = job.id,
        trial_token = (SELECT j.lease_token FROM jobs AS j WHERE j.id = job.id)
    WHERE s.line = p_line
      AND s.turn = here.turn;
    RETURN ARRAY[job.id];
END
$$
