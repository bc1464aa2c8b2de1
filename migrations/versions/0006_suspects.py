"""Suspects: a job runs without company from the second time on that its worker died under it.

The functions keep their signatures, so processes of the version before follow the new rule as well.

Revision ID: 0006
"""

from __future__ import annotations

from importlib import import_module

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
oldest_program = "0005"
loses = "nothing"

INDEXES = (
    "DROP INDEX jobs_suspects",
    "CREATE INDEX jobs_suspects ON jobs (line, level, seq) WHERE status = 'pending' AND due AND crashes >= 2",
)

HEADS_OF_LINE = """
-- The levels of a line that have a job to be claimed: the most urgent first, then the others by how long theirs waits.
-- NULL where there is none. Asked for where a queue has a reserved share. p_suspects: suspects (see
-- claim_line) count on this level only; NULL: on none; 0: on all.
CREATE OR REPLACE FUNCTION heads_of_line(
    p_line text,
    p_level smallint,
    p_task_types text[],
    p_model_profiles text[],
    p_owner_services text[],
    p_sweeping boolean,
    p_suspects smallint
)
RETURNS smallint[]
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    found smallint[];
BEGIN
    WITH head AS MATERIALIZED (
        SELECT n.level, min(first.seq) AS seq
        FROM lanes AS n
        LEFT JOIN owners AS o ON o.owner_service = n.owner_service
        CROSS JOIN LATERAL (
            SELECT j.seq FROM jobs AS j
            WHERE j.line = p_line
              AND j.level = n.level
              AND j.owner_service = n.owner_service
              AND j.status = 'pending'
              AND j.due
              AND j.seq > CASE WHEN p_sweeping THEN 0 ELSE n.low_seq END
              AND (p_task_types IS NULL OR j.task_type = ANY (p_task_types))
              AND (p_model_profiles IS NULL OR j.model_profile = ANY (p_model_profiles))
              AND (j.deadline_at IS NULL OR j.deadline_at > now() OR j.started_at IS NOT NULL)
              AND (j.crashes < 2 OR p_suspects = 0 OR j.level = p_suspects)
            ORDER BY j.seq
            LIMIT 1
        ) AS first
        WHERE n.line = p_line
          AND (p_level IS NULL OR n.level = p_level)
          AND (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
          AND (o.max_running IS NULL OR running_of(o.owner_service) < o.max_running)
        GROUP BY n.level
    )
    SELECT array_agg(h.level ORDER BY h.level > (SELECT min(top.level) FROM head AS top), h.seq) INTO found
    FROM head AS h;
    RETURN found;
END
$$
"""

CLAIM_TRIAL = """
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
    full_up text[];
    job record;
BEGIN
    IF EXISTS (SELECT FROM lines AS l JOIN jobs AS j ON j.id = l.trial_job AND j.lease_token = l.trial_token
               WHERE l.name = p_line) THEN
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
            FROM lanes AS n
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
"""

CLAIM_LINE = """
-- Claim from one line: its free slots go to its waiting jobs by the rule of domain/order.py. Returns them in order.
-- Claimers of a line take turns by its row's lock, and each statement below sees what was committed before it was had:
-- a count that is taken in the statement that waits would be too old. Lock order: line, owners, jobs, lanes.
-- A lane is read from its mark on (low_seq): what lies before it is gone, and old index entries of it cost time. Now
-- and then, and where too little was found, it is read from its beginning: a job may be committed below the mark.
-- A job under which two workers died is a suspect: it goes to a claim that is alone in its process (p_alone; NULL:
-- asked from outside, which takes what comes), before its equals and without company.
CREATE OR REPLACE FUNCTION claim_line(
    p_line text,
    p_level smallint,
    p_task_types text[],
    p_model_profiles text[],
    p_owner_services text[],
    p_worker_id text,
    p_lease interval,
    p_outside boolean,
    p_alone boolean,
    p_limit integer
)
RETURNS uuid[]
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    here lines%ROWTYPE;
    policy queues%ROWTYPE;
    room integer := p_limit;
    share double precision := 0;
    sweeping boolean;
    sweep_began timestamptz;
    swept boolean := false;
    limited text[];
    levels smallint[];
    lvl smallint;
    heads smallint[];
    starts double precision[];
    owed double precision;
    claimed uuid[] := '{}';
    got uuid[];
    furthest double precision;
    paid double precision;
    seen integer;
    -- How many jobs are looked at: more than there is room for only where those in front are locked.
    width integer;
    who text[];
    vtimes double precision[];
    lasts bigint[];
    woken boolean[];
    full_up boolean[];
    -- So long some process may become free for a suspect by itself.
    patience CONSTANT interval := interval '5 seconds';
    suspect_level smallint;
    suspect_owner text;
    suspect_seq bigint;
    suspect_profile text;
    suspect_since timestamptz;
    suspect_waits boolean := false;
    -- Owners that run as many as they may, or nearly, and of whom a suspect waits for a place.
    kept_for text[] := '{}';
    suspects_turn boolean;
BEGIN
    SELECT * INTO here FROM lines WHERE name = p_line FOR UPDATE;
    IF NOT FOUND THEN
        RETURN claimed;
    END IF;
    starts := here.clocks;
    owed := here.reserve;
    IF p_limit <= 0 THEN
        RETURN claimed;
    END IF;
    limited := ARRAY (
        SELECT o.owner_service FROM owners AS o
        WHERE o.max_running IS NOT NULL
          AND o.owner_service IN (SELECT n.owner_service FROM lanes AS n WHERE n.line = p_line)
        ORDER BY o.owner_service
        FOR UPDATE
    );
    SELECT * INTO policy FROM queues WHERE name = p_line;
    IF FOUND THEN
        IF policy.paused OR policy.stopped OR policy.circuit_state = 'open' THEN
            RETURN claimed;
        END IF;
        share := policy.reserved_share;
        room := least(room, policy.concurrency - here.busy, policy.adapted - here.busy);
        IF room > 0 AND policy.circuit_state = 'half_open' THEN
            claimed := claim_trial(
                p_line, (policy.circuit ->> 'failed_job')::uuid, policy.circuit ->> 'model_profile', p_task_types,
                p_model_profiles, p_owner_services, p_worker_id, p_lease, p_outside, p_alone
            );
            RETURN claimed;
        END IF;
    END IF;
    IF room <= 0 THEN
        RETURN claimed;
    END IF;
    IF p_alone IS NOT NULL THEN
        SELECT j.level, j.owner_service, j.seq, j.model_profile, greatest(j.updated_at, j.run_at)
        INTO suspect_level, suspect_owner, suspect_seq, suspect_profile, suspect_since
        FROM jobs AS j
        WHERE j.line = p_line
          AND j.status = 'pending'
          AND j.due
          AND j.crashes >= 2
          AND (p_task_types IS NULL OR j.task_type = ANY (p_task_types))
          AND (p_model_profiles IS NULL OR j.model_profile = ANY (p_model_profiles))
          AND NOT EXISTS (
              SELECT FROM owners AS o
              WHERE o.owner_service = j.owner_service
                AND o.max_running <= running_of(o.owner_service)
          )
        ORDER BY j.level, j.seq
        LIMIT 1;
        suspect_waits := coalesce(suspect_since < now() - patience, false);
        IF cardinality(limited) > 0 THEN
            kept_for := ARRAY (
                SELECT DISTINCT j.owner_service FROM jobs AS j
                WHERE j.line = p_line
                  AND j.status = 'pending'
                  AND j.due
                  AND j.crashes >= 2
                  AND j.owner_service = ANY (limited)
                  AND greatest(j.updated_at, j.run_at) < now() - patience
            );
        END IF;
    END IF;
    levels := ARRAY (SELECT DISTINCT n.level FROM lanes AS n WHERE n.line = p_line ORDER BY n.level);
    sweeping := clock_timestamp() - here.swept_at > greatest(interval '1 second', 20 * here.sweep_took);
    LOOP
        IF sweeping THEN
            sweep_began := clock_timestamp();
        END IF;
        FOREACH lvl IN ARRAY levels LOOP
            CONTINUE WHEN lvl <> p_level;  -- never where it is NULL
            width := CASE WHEN share > 0 THEN 1 ELSE room END;
            LOOP
                EXIT WHEN room <= 0;
                IF share > 0 THEN
                    -- Who is next may change with each pick: the less urgent levels have their share to come.
                    heads := heads_of_line(
                        p_line, p_level, p_task_types, p_model_profiles, p_owner_services, sweeping,
                        CASE
                            WHEN p_alone IS NULL THEN 0::smallint
                            WHEN p_alone AND cardinality(claimed) = 0 THEN suspect_level
                        END
                    );
                    EXIT WHEN heads IS NULL;
                    lvl := CASE WHEN owed > 0 AND cardinality(heads) > 1 THEN heads[2] ELSE heads[1] END;
                END IF;
                suspects_turn := false;
                IF lvl >= suspect_level THEN
                    IF p_alone AND cardinality(claimed) = 0 THEN
                        suspects_turn := lvl = suspect_level;
                        room := CASE WHEN suspects_turn THEN 1 ELSE room END;
                    ELSIF suspect_waits AND makes_way(p_line, p_worker_id, suspect_profile) THEN
                        room := 0;
                        EXIT;
                    ELSIF suspect_waits THEN
                        -- Else whoever ends a run would take its slot again before the one that made way can.
                        room := least(
                            room, least(policy.concurrency, policy.adapted) - here.busy - cardinality(claimed) - 1
                        );
                    END IF;
                    EXIT WHEN room <= 0;
                END IF;

                WITH lane AS MATERIALIZED (
                    SELECT
                        n.owner_service, n.vtime, n.asleep, n.asleep OR n.fresh AS fresh,
                        CASE
                            WHEN suspects_turn THEN suspect_seq - 1
                            WHEN sweeping THEN 0
                            ELSE n.low_seq
                        END AS low,
                        greatest(coalesce(n.mean, here.mean, 1), 0.001) AS cost,
                        greatest(coalesce(n.mean, here.mean, 1), 0.001) / coalesce(o.weight, n.weight) AS step,
                        CASE
                            WHEN o.owner_service = ANY (limited) THEN
                                o.max_running - running_of(o.owner_service)
                                - (NOT suspects_turn AND o.owner_service = ANY (kept_for))::integer
                            -- Its first lane here has come since the owners were locked: next time.
                            WHEN o.max_running IS NOT NULL THEN 0
                        END AS spare
                    FROM lanes AS n
                    LEFT JOIN owners AS o ON o.owner_service = n.owner_service
                    WHERE n.line = p_line
                      AND n.level = lvl
                ), waiting AS MATERIALIZED (
                    SELECT lane.owner_service, j.id, j.seq, j.place
                    FROM lane
                    CROSS JOIN LATERAL (
                        SELECT w.id, w.seq, row_number() OVER (ORDER BY w.seq) - 1 AS place
                        FROM jobs AS w
                        WHERE w.line = p_line
                          AND w.level = lvl
                          AND w.owner_service = lane.owner_service
                          AND w.status = 'pending'
                          AND w.due
                          AND w.seq > lane.low
                          AND (p_task_types IS NULL OR w.task_type = ANY (p_task_types))
                          AND (p_model_profiles IS NULL OR w.model_profile = ANY (p_model_profiles))
                          AND (w.deadline_at IS NULL OR w.deadline_at > now() OR w.started_at IS NOT NULL)
                          AND (w.crashes < 2 OR suspects_turn OR p_alone IS NULL)
                        ORDER BY w.seq
                        LIMIT least(width, CASE WHEN lane.spare < 0 THEN 0 ELSE lane.spare END)
                    ) AS j
                    WHERE CASE
                        WHEN suspects_turn THEN lane.owner_service = suspect_owner
                        ELSE p_owner_services IS NULL OR lane.owner_service = ANY (p_owner_services)
                    END
                ), open AS MATERIALIZED (
                    SELECT lane.* FROM lane
                    WHERE EXISTS (SELECT FROM waiting AS w WHERE w.owner_service = lane.owner_service)
                ), based AS MATERIALIZED (
                    -- A lane that wakes begins where the one stands that is furthest behind, and goes before it.
                    SELECT
                        o.owner_service, o.step, o.cost, o.spare, o.fresh,
                        CASE
                            WHEN o.asleep THEN greatest(
                                o.vtime,
                                coalesce((SELECT min(a.vtime) FROM open AS a WHERE NOT a.asleep), starts[lvl])
                            )
                            ELSE o.vtime
                        END AS base
                    FROM open AS o
                ), next AS MATERIALIZED (
                    SELECT
                        w.owner_service, w.id, w.seq, b.cost, b.base + w.place * b.step AS start,
                        row_number() OVER (
                            ORDER BY b.base + w.place * b.step, w.place > 0 OR NOT b.fresh, w.seq
                        ) AS turn
                    FROM waiting AS w
                    JOIN based AS b ON b.owner_service = w.owner_service
                    ORDER BY turn
                    LIMIT width
                ), pick AS MATERIALIZED (
                    -- Locked rows are being cancelled: they are passed over, and stay where they are if that fails.
                    -- LATERAL: row by row in their order, whatever the planner thinks of how many they are.
                    SELECT n.*
                    FROM (SELECT next.* FROM next ORDER BY next.turn) AS n
                    CROSS JOIN LATERAL (
                        -- CASE: no condition by which a plan made for a few jobs would look through all that wait.
                        SELECT FROM jobs AS j
                        WHERE j.id = n.id
                          AND CASE WHEN j.status = 'pending' THEN j.due END
                        FOR UPDATE SKIP LOCKED
                    ) AS locked
                    LIMIT CASE WHEN share > 0 THEN 1 ELSE room END
                ), won AS MATERIALIZED (
                    SELECT p.owner_service, count(*) AS jobs, max(p.seq) AS last FROM pick AS p GROUP BY p.owner_service
                ), moved AS MATERIALIZED (
                    -- A lane whose owner runs as many as it may sleeps too: nobody saves up turns.
                    SELECT
                        b.owner_service, b.base + coalesce(w.jobs, 0) * b.step AS vtime, w.last,
                        b.fresh AND w.jobs IS NULL AS fresh,
                        coalesce(b.spare - coalesce(w.jobs, 0) <= 0, false) AS fully
                    FROM based AS b
                    LEFT JOIN won AS w ON w.owner_service = b.owner_service
                    UNION ALL
                    SELECT lane.owner_service, lane.vtime, NULL, lane.fresh, coalesce(lane.spare <= 0, false)
                    FROM lane
                    WHERE NOT lane.asleep
                      AND NOT EXISTS (SELECT FROM based AS b WHERE b.owner_service = lane.owner_service)
                ), started AS (
                    UPDATE jobs AS j
                    SET status = 'running',
                        number = j.number + 1,
                        lease_token = gen_random_uuid(),
                        lease_expires_at = now() + p_lease,
                        lease_timeout = CASE WHEN p_outside THEN p_lease END,
                        worker_id = p_worker_id,
                        waited_ms = waited_ms(j.run_at, j.created_at, now()),
                        charge = p.cost,
                        started_at = now(),
                        updated_at = now()
                    FROM pick AS p
                    WHERE j.id = p.id
                )
                SELECT
                    (SELECT array_agg(p.id ORDER BY p.turn) FROM pick AS p),
                    (SELECT max(p.start) FROM pick AS p),
                    (SELECT sum(p.cost) FROM pick AS p),
                    (SELECT count(*) FROM next),
                    (SELECT array_agg(m.owner_service ORDER BY m.owner_service) FROM moved AS m),
                    (SELECT array_agg(m.vtime ORDER BY m.owner_service) FROM moved AS m),
                    (SELECT array_agg(m.last ORDER BY m.owner_service) FROM moved AS m),
                    (SELECT array_agg(m.fresh ORDER BY m.owner_service) FROM moved AS m),
                    (SELECT array_agg(m.fully ORDER BY m.owner_service) FROM moved AS m)
                INTO got, furthest, paid, seen, who, vtimes, lasts, woken, full_up;

                IF got IS NULL THEN
                    EXIT WHEN seen < width OR width >= 4096;
                    width := 8 * width;
                    CONTINUE;
                END IF;

                -- Apart: only now the jobs that were taken are no longer seen as waiting.
                UPDATE lanes AS n
                SET used_at = now(),
                    vtime = m.vtime,
                    asleep = m.fully OR m.next IS NULL,
                    fresh = m.fresh,
                    low_seq = coalesce(m.next - 1, greatest(n.low_seq, m.last))
                FROM (
                    SELECT moved.*, next.seq AS next
                    FROM unnest(who, vtimes, lasts, woken, full_up)
                        AS moved (owner_service, vtime, last, fresh, fully)
                    JOIN lanes AS k
                      ON k.line = p_line AND k.level = lvl AND k.owner_service = moved.owner_service
                    LEFT JOIN LATERAL (
                        SELECT j.seq FROM jobs AS j
                        WHERE j.line = p_line
                          AND j.level = lvl
                          AND j.owner_service = moved.owner_service
                          AND j.status = 'pending'
                          AND j.due
                          AND j.seq > CASE WHEN sweeping THEN 0 ELSE k.low_seq END
                        ORDER BY j.seq
                        LIMIT 1
                    ) AS next ON true
                ) AS m
                WHERE n.line = p_line
                  AND n.level = lvl
                  AND n.owner_service = m.owner_service
                  AND (
                      n.vtime <> m.vtime
                      OR n.fresh <> m.fresh
                      OR n.asleep <> (m.fully OR m.next IS NULL)
                      OR n.low_seq >= m.next
                  );

                claimed := claimed || got;
                room := room - cardinality(got);
                starts[lvl] := greatest(starts[lvl], furthest);
                IF share > 0 THEN
                    EXIT WHEN suspects_turn;
                    heads := heads_of_line(
                        p_line, p_level, p_task_types, p_model_profiles, p_owner_services, sweeping,
                        CASE WHEN p_alone IS NULL THEN 0::smallint END
                    );
                    owed := owed + CASE
                        WHEN lvl > ANY (heads) THEN (share - 1) * paid
                        WHEN lvl < ANY (heads) THEN share * paid
                        ELSE 0
                    END;
                    width := 1;
                ELSE
                    EXIT WHEN seen < width OR width >= 4096;
                    width := 8 * width;
                END IF;
            END LOOP;
            EXIT WHEN share > 0;
        END LOOP;
        IF sweeping THEN
            swept := true;
            here.sweep_took := clock_timestamp() - sweep_began;
        END IF;
        EXIT WHEN room <= 0 OR sweeping OR clock_timestamp() - here.swept_at < 20 * here.sweep_took;
        sweeping := true;
    END LOOP;

    -- A look that found nothing writes nothing, unless it was dear and must not be repeated at once.
    IF cardinality(claimed) > 0 OR (swept AND here.sweep_took > interval '2 milliseconds') THEN
        UPDATE lines AS l
        SET busy = here.busy + cardinality(claimed),
            clocks = starts,
            reserve = owed,
            swept_at = CASE WHEN swept THEN clock_timestamp() ELSE l.swept_at END,
            sweep_took = here.sweep_took
        WHERE l.name = p_line;
    END IF;
    RETURN claimed;
END
$$
"""

PREEMPT_JOBS = """
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
    here lines%ROWTYPE;
    policy queues%ROWTYPE;
    slots integer;
    wanted integer;
    alone text[];
BEGIN
    SELECT * INTO policy FROM queues WHERE name = p_queue;
    IF policy.preempt IS NOT TRUE OR policy.paused OR policy.stopped OR policy.circuit_state <> 'closed' THEN
        RETURN;
    END IF;
    SELECT * INTO here FROM lines WHERE name = p_queue FOR UPDATE;
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
        FROM lanes AS n
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
    - greatest(least(slots, policy.concurrency, policy.adapted) - here.busy, 0)
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
"""

FUNCTIONS = (HEADS_OF_LINE, CLAIM_TRIAL, CLAIM_LINE, PREEMPT_JOBS)


def upgrade() -> None:
    for statement in (*INDEXES, *FUNCTIONS):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    before = import_module("migrations.versions.0004_liveness")
    for statement in (
        "DROP INDEX jobs_suspects",
        "CREATE INDEX jobs_suspects ON jobs (line, level, seq) WHERE status = 'pending' AND due AND crashes > 0",
        before.HEADS_OF_LINE,
        before.CLAIM_TRIAL,
        before.CLAIM_LINE,
        before.PREEMPT_JOBS,
    ):
        op.get_bind().exec_driver_sql(statement)
