-- Claim from one line: its free slots go to its waiting jobs by the rule of domain/order.py. Returns them in order.
-- Claimers of a line take turns by its row's lock, and each statement below sees what was committed before it was had:
-- a count that is taken in the statement that waits would be too old. Lock order: line, owners, jobs, lanes.
-- What changes with every claim is found by its newest turn, however many versions an old snapshot keeps behind it.
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
    here line_states%ROWTYPE;
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
    moving record;
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
    PERFORM FROM line_names WHERE name = p_line FOR UPDATE;
    IF NOT FOUND OR p_limit <= 0 THEN
        RETURN claimed;
    END IF;
    SELECT * INTO here FROM line_states AS s WHERE s.line = p_line ORDER BY s.turn DESC LIMIT 1;
    starts := here.clocks;
    owed := here.reserve;
    limited := ARRAY (
        SELECT o.owner_service FROM owners AS o
        WHERE o.max_running IS NOT NULL
          AND o.owner_service IN (SELECT n.owner_service FROM lane_names AS n WHERE n.line = p_line)
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
    levels := ARRAY (SELECT DISTINCT n.level FROM lane_names AS n WHERE n.line = p_line ORDER BY n.level);
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
                        n.owner_service, s.vtime, s.asleep, s.asleep OR s.fresh AS fresh,
                        CASE
                            WHEN suspects_turn THEN suspect_seq - 1
                            WHEN sweeping THEN 0
                            ELSE s.low_seq
                        END AS low,
                        greatest(coalesce(s.mean, here.mean, 1), 0.001) AS cost,
                        greatest(coalesce(s.mean, here.mean, 1), 0.001) / coalesce(o.weight, n.weight) AS step,
                        CASE
                            WHEN o.owner_service = ANY (limited) THEN
                                o.max_running - running_of(o.owner_service)
                                - (NOT suspects_turn AND o.owner_service = ANY (kept_for))::integer
                            -- Its first lane here has come since the owners were locked: next time.
                            WHEN o.max_running IS NOT NULL THEN 0
                        END AS spare
                    FROM lane_names AS n
                    CROSS JOIN LATERAL (
                        SELECT * FROM lane_states AS s
                        WHERE s.line = p_line AND s.level = lvl AND s.owner_service = n.owner_service
                        ORDER BY s.turn DESC
                        LIMIT 1
                    ) AS s
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

                -- Apart: only now the jobs that were taken are no longer seen as waiting. One by one: a plan for all of
                -- them at once may read every version of each.
                FOR moving IN
                    SELECT n.owner_service, n.vtime, n.last, n.fresh, n.fully, s.turn, next.seq AS next
                    FROM unnest(who, vtimes, lasts, woken, full_up)
                        AS n (owner_service, vtime, last, fresh, fully)
                    CROSS JOIN LATERAL (
                        SELECT * FROM lane_states AS s
                        WHERE s.line = p_line AND s.level = lvl AND s.owner_service = n.owner_service
                        ORDER BY s.turn DESC
                        LIMIT 1
                    ) AS s
                    LEFT JOIN LATERAL (
                        SELECT j.seq FROM jobs AS j
                        WHERE j.line = p_line
                          AND j.level = lvl
                          AND j.owner_service = n.owner_service
                          AND j.status = 'pending'
                          AND j.due
                          AND j.seq > CASE WHEN sweeping THEN 0 ELSE s.low_seq END
                        ORDER BY j.seq
                        LIMIT 1
                    ) AS next ON true
                    WHERE s.vtime <> n.vtime
                       OR s.fresh <> n.fresh
                       OR s.asleep <> (n.fully OR next.seq IS NULL)
                       OR s.low_seq >= next.seq
                    ORDER BY n.owner_service
                LOOP
                    UPDATE lane_states AS s
                    SET changes = s.changes + 1,
                        used_at = now(),
                        vtime = moving.vtime,
                        asleep = moving.fully OR moving.next IS NULL,
                        fresh = moving.fresh,
                        low_seq = coalesce(moving.next - 1, greatest(s.low_seq, moving.last))
                    WHERE s.line = p_line
                      AND s.level = lvl
                      AND s.owner_service = moving.owner_service
                      AND s.turn = moving.turn;
                END LOOP;

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
        UPDATE line_states AS s
        SET changes = s.changes + 1,
            busy = here.busy + cardinality(claimed),
            clocks = starts,
            reserve = owed,
            swept_at = CASE WHEN swept THEN clock_timestamp() ELSE s.swept_at END,
            sweep_took = here.sweep_took
        WHERE s.line = p_line
          AND s.turn = here.turn;
    END IF;
    RETURN claimed;
END
$$
