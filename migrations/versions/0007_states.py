"""States: what changes with every claim lies apart from what is locked, and is found at once under any old snapshot.

An old snapshot keeps every version of a row, and a look-up by its key walks them all. So the key of a state has a part
that rises: the newest is the first that a scan from the end of its index meets.

Revision ID: 0007
"""

from __future__ import annotations

from importlib import import_module

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
oldest_program = "0006"
loses = "nothing"

TABLES = (
    """
    -- Claimers of a line take turns by the lock of its row, which never changes.
    CREATE TABLE line_names (
        name text PRIMARY KEY
    )
    """,
    """
    CREATE TABLE lane_names (
        line text NOT NULL,
        level smallint NOT NULL,
        owner_service text NOT NULL,
        weight double precision NOT NULL DEFAULT 1,
        PRIMARY KEY (line, level, owner_service)
    )
    """,
    """
    -- Hot: each claim and each end of a run writes its line's once, holding the line. One row a page.
    CREATE TABLE line_states (
        line text NOT NULL REFERENCES line_names ON DELETE CASCADE,
        changes bigint NOT NULL DEFAULT 0,
        -- Most changes leave it, and so the index, as it is: it is the few since that are walked.
        turn bigint NOT NULL GENERATED ALWAYS AS (changes / 32) STORED,
        busy integer NOT NULL DEFAULT 0,
        -- By level.
        clocks double precision[] NOT NULL DEFAULT '{0,0,0,0,0}',
        reserve double precision NOT NULL DEFAULT 0,
        mean double precision,
        swept_at timestamptz NOT NULL DEFAULT to_timestamp(0),
        sweep_took interval NOT NULL DEFAULT interval '0',
        -- The run that was let through a half-open circuit.
        trial_job uuid,
        trial_token uuid,
        PRIMARY KEY (line, turn)
    ) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
    """,
    """
    -- Hot: what each owner was given of a line.
    CREATE TABLE lane_states (
        line text NOT NULL,
        level smallint NOT NULL,
        owner_service text NOT NULL,
        changes bigint NOT NULL DEFAULT 0,
        turn bigint NOT NULL GENERATED ALWAYS AS (changes / 32) STORED,
        vtime double precision NOT NULL DEFAULT 0,
        asleep boolean NOT NULL DEFAULT true,
        -- It woke, and nothing of it was picked since.
        fresh boolean NOT NULL DEFAULT false,
        mean double precision,
        -- No job that waits in it has this seq or a lower one, as far as is known.
        low_seq bigint NOT NULL DEFAULT 0,
        used_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (line, level, owner_service, turn),
        FOREIGN KEY (line, level, owner_service) REFERENCES lane_names ON DELETE CASCADE
    ) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
    """,
)

LOCKS = "LOCK TABLE lines, lanes IN ACCESS EXCLUSIVE MODE"

CONTENTS = (
    "INSERT INTO line_names (name) SELECT name FROM lines",
    """
    INSERT INTO line_states (
        line, busy, clocks, reserve, mean, swept_at, sweep_took, trial_job, trial_token
    )
    SELECT name, busy, clocks, reserve, mean, swept_at, sweep_took, trial_job, trial_token FROM lines
    """,
    "INSERT INTO lane_names (line, level, owner_service, weight) SELECT line, level, owner_service, weight FROM lanes",
    """
    INSERT INTO lane_states (line, level, owner_service, vtime, asleep, fresh, mean, low_seq, used_at)
    SELECT line, level, owner_service, vtime, asleep, fresh, mean, low_seq, used_at FROM lanes
    """,
    "DROP TABLE lines, lanes",
)

VIEWS = (
    # Each column by itself: so PostgreSQL lets rows be added, removed and locked, and reads only what is asked for.
    """
    CREATE VIEW lines AS
    SELECT
        n.name,
        (SELECT s.busy FROM line_states AS s WHERE s.line = n.name ORDER BY s.turn DESC LIMIT 1) AS busy,
        (SELECT s.clocks FROM line_states AS s WHERE s.line = n.name ORDER BY s.turn DESC LIMIT 1) AS clocks,
        (SELECT s.reserve FROM line_states AS s WHERE s.line = n.name ORDER BY s.turn DESC LIMIT 1) AS reserve,
        (SELECT s.mean FROM line_states AS s WHERE s.line = n.name ORDER BY s.turn DESC LIMIT 1) AS mean,
        (SELECT s.swept_at FROM line_states AS s WHERE s.line = n.name ORDER BY s.turn DESC LIMIT 1) AS swept_at,
        (SELECT s.sweep_took FROM line_states AS s WHERE s.line = n.name ORDER BY s.turn DESC LIMIT 1) AS sweep_took,
        (SELECT s.trial_job FROM line_states AS s WHERE s.line = n.name ORDER BY s.turn DESC LIMIT 1) AS trial_job,
        (SELECT s.trial_token FROM line_states AS s WHERE s.line = n.name ORDER BY s.turn DESC LIMIT 1) AS trial_token
    FROM line_names AS n
    """,
    """
    CREATE VIEW lanes AS
    SELECT
        n.line,
        n.level,
        n.owner_service,
        (
            SELECT s.vtime FROM lane_states AS s
            WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
            ORDER BY s.turn DESC
            LIMIT 1
        ) AS vtime,
        (
            SELECT s.asleep FROM lane_states AS s
            WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
            ORDER BY s.turn DESC
            LIMIT 1
        ) AS asleep,
        (
            SELECT s.fresh FROM lane_states AS s
            WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
            ORDER BY s.turn DESC
            LIMIT 1
        ) AS fresh,
        (
            SELECT s.mean FROM lane_states AS s
            WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
            ORDER BY s.turn DESC
            LIMIT 1
        ) AS mean,
        n.weight,
        (
            SELECT s.low_seq FROM lane_states AS s
            WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
            ORDER BY s.turn DESC
            LIMIT 1
        ) AS low_seq,
        (
            SELECT s.used_at FROM lane_states AS s
            WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
            ORDER BY s.turn DESC
            LIMIT 1
        ) AS used_at
    FROM lane_names AS n
    """,
)

TRIGGERS = (
    "CREATE TRIGGER begin_line AFTER INSERT ON line_names FOR EACH ROW EXECUTE FUNCTION begin_line()",
    "CREATE TRIGGER begin_lane AFTER INSERT ON lane_names FOR EACH ROW EXECUTE FUNCTION begin_lane()",
    "CREATE TRIGGER begin_anew INSTEAD OF UPDATE ON lines FOR EACH ROW EXECUTE FUNCTION begin_anew()",
    "CREATE TRIGGER begin_anew INSTEAD OF UPDATE ON lanes FOR EACH ROW EXECUTE FUNCTION begin_anew()",
)

BEGIN_LINE = """
-- A new line begins with a state.
CREATE OR REPLACE FUNCTION begin_line()
RETURNS trigger
LANGUAGE plpgsql
SET jit = off
AS $$
BEGIN
    INSERT INTO line_states (line) VALUES (NEW.name) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$
"""

BEGIN_LANE = """
-- A new lane begins with a state.
CREATE OR REPLACE FUNCTION begin_lane()
RETURNS trigger
LANGUAGE plpgsql
SET jit = off
AS $$
BEGIN
    INSERT INTO lane_states (line, level, owner_service)
    VALUES (NEW.line, NEW.level, NEW.owner_service)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$
"""

BEGIN_ANEW = """
-- A claim that was under way while the tables changed: its caller takes this for a short outage, and asks again.
CREATE OR REPLACE FUNCTION begin_anew()
RETURNS trigger
LANGUAGE plpgsql
SET jit = off
AS $$
BEGIN
    RAISE EXCEPTION 'the database was migrated meanwhile' USING ERRCODE = 'lock_not_available';
END
$$
"""

REACH_LANES = """
-- Jobs have come to wait in these lanes: see that the lanes are there, and are read from far enough in front.
-- Writes nothing where that is so already, as for nearly every new job.
-- Not every caller holds the lines. So this leaves the turn as it is: whoever holds a line finds its rows by theirs.
-- And where the turn has changed while this waited for the row, it looks anew.
CREATE OR REPLACE FUNCTION reach_lanes(
    p_lines text[], p_levels smallint[], p_owner_services text[], p_seqs bigint[]
)
RETURNS void
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    given record;
    missed boolean;
BEGIN
    INSERT INTO line_names (name)
    SELECT DISTINCT g.line FROM unnest(p_lines) AS g (line)
    WHERE NOT EXISTS (SELECT FROM line_names AS n WHERE n.name = g.line)
    ORDER BY 1
    ON CONFLICT DO NOTHING;
    INSERT INTO lane_names (line, level, owner_service, weight)
    SELECT DISTINCT
        g.line, g.level, g.owner_service,
        -- A new one, as of a job that has aged, weighs what its owner's others do.
        coalesce(
            (
                SELECT max(n.weight) FROM lane_names AS n
                WHERE n.line = g.line
                  AND n.owner_service = g.owner_service
            ),
            1
        )
    FROM unnest(p_lines, p_levels, p_owner_services) AS g (line, level, owner_service)
    WHERE NOT EXISTS (
        SELECT FROM lane_names AS n
        WHERE n.line = g.line
          AND n.level = g.level
          AND n.owner_service = g.owner_service
    )
    ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING;
    LOOP
        missed := false;
        FOR given IN
            SELECT n.line, n.level, n.owner_service, n.seq - 1 AS low, s.turn
            FROM (
                SELECT g.line, g.level, g.owner_service, min(g.seq) AS seq
                FROM unnest(p_lines, p_levels, p_owner_services, p_seqs) AS g (line, level, owner_service, seq)
                GROUP BY 1, 2, 3
            ) AS n
            CROSS JOIN LATERAL (
                SELECT * FROM lane_states AS s
                WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
                ORDER BY s.turn DESC
                LIMIT 1
            ) AS s
            WHERE s.low_seq >= n.seq
            ORDER BY 1, 2, 3
        LOOP
            UPDATE lane_states AS s
            SET low_seq = least(s.low_seq, given.low)
            WHERE s.line = given.line
              AND s.level = given.level
              AND s.owner_service = given.owner_service
              AND s.turn = given.turn;
            missed := missed OR NOT FOUND;
        END LOOP;
        EXIT WHEN NOT missed;
    END LOOP;
END
$$
"""

FREE_SLOTS = """
-- Free slots of lines, and correct what their runs were charged by what they cost: see `correct` in domain/order.py.
-- Runs that end together count in a mean by their own mean; a run that failed only where it took longer than was
-- charged: so much it may take. The lines must be locked.
CREATE OR REPLACE FUNCTION free_slots(
    p_lines text[],
    p_levels smallint[],
    p_owner_services text[],
    p_charges double precision[],
    p_costs double precision[],
    p_completed boolean[]
)
RETURNS void
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    f record;
BEGIN
    -- One by one: a plan for all of them at once may read every version of each that an old snapshot keeps.
    FOR f IN
        SELECT
            given.line, given.level, given.owner_service, coalesce(o.weight, n.weight) AS weight,
            sum(given.cost - given.charge) AS more,
            count(*) FILTER (WHERE given.telling) AS runs, avg(given.cost) FILTER (WHERE given.telling) AS mean
        FROM (
            SELECT g.*, g.completed OR g.cost > g.charge AS telling
            FROM unnest(p_lines, p_levels, p_owner_services, p_charges, p_costs, p_completed)
                AS g (line, level, owner_service, charge, cost, completed)
        ) AS given
        JOIN lane_names AS n
          ON n.line = given.line AND n.level = given.level AND n.owner_service = given.owner_service
        LEFT JOIN owners AS o ON o.owner_service = given.owner_service
        GROUP BY 1, 2, 3, 4
        ORDER BY 1, 2, 3
    LOOP
        UPDATE lane_states AS s
        SET changes = s.changes + 1,
            vtime = s.vtime + f.more / f.weight,
            mean = CASE WHEN f.runs > 0 THEN f.mean + coalesce(s.mean - f.mean, 0) * power(0.8, f.runs) ELSE s.mean END
        WHERE s.line = f.line
          AND s.level = f.level
          AND s.owner_service = f.owner_service
          AND s.turn = (
              SELECT k.turn FROM lane_states AS k
              WHERE k.line = f.line AND k.level = f.level AND k.owner_service = f.owner_service
              ORDER BY k.turn DESC
              LIMIT 1
          );
    END LOOP;
    FOR f IN
        SELECT
            given.line, count(*) AS slots,
            count(*) FILTER (WHERE given.telling) AS runs, avg(given.cost) FILTER (WHERE given.telling) AS mean
        FROM (
            SELECT g.*, g.completed OR g.cost > g.charge AS telling
            FROM unnest(p_lines, p_charges, p_costs, p_completed) AS g (line, charge, cost, completed)
        ) AS given
        GROUP BY 1
        ORDER BY 1
    LOOP
        UPDATE line_states AS s
        SET changes = s.changes + 1,
            busy = greatest(s.busy - f.slots, 0),
            mean = CASE WHEN f.runs > 0 THEN f.mean + coalesce(s.mean - f.mean, 0) * power(0.8, f.runs) ELSE s.mean END
        WHERE s.line = f.line
          AND s.turn = (SELECT k.turn FROM line_states AS k WHERE k.line = f.line ORDER BY k.turn DESC LIMIT 1);
    END LOOP;
END
$$
"""

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
        FROM lane_names AS n
        CROSS JOIN LATERAL (
            SELECT * FROM lane_states AS s
            WHERE s.line = p_line AND s.level = n.level AND s.owner_service = n.owner_service
            ORDER BY s.turn DESC
            LIMIT 1
        ) AS s
        LEFT JOIN owners AS o ON o.owner_service = n.owner_service
        CROSS JOIN LATERAL (
            SELECT j.seq FROM jobs AS j
            WHERE j.line = p_line
              AND j.level = n.level
              AND j.owner_service = n.owner_service
              AND j.status = 'pending'
              AND j.due
              AND j.seq > CASE WHEN p_sweeping THEN 0 ELSE s.low_seq END
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
"""

CLAIM_LINE = """
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
"""

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
    input bytea
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
        (SELECT i.input FROM job_inputs AS i WHERE i.job_id = j.id)
    FROM unnest(claimed) WITH ORDINALITY AS c (id, place)
    JOIN jobs AS j ON j.id = c.id
    ORDER BY c.place;
END
$$
"""

CLAIM_FOR_EXTERNAL = """
-- Claim over HTTP: the most urgent due jobs among those that match, of any queue and of none. NULL matches any.
-- Each line gives by its own rule. Between lines the more urgent job goes first, then the one that has waited longer.
-- All of the lines are locked in the order of their names, then all of their owners whose running jobs are limited: two
-- claims never wait for each other in a circle.
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
    candidates text[];
    -- Of each line that is a queue, where kinds are asked for: whose jobs match, and how many. It is not read further.
    matches jsonb;
    best record;
    claimed uuid[] := '{}';
    got uuid[];
BEGIN
    IF p_task_types IS NOT NULL OR p_model_profiles IS NOT NULL THEN
        matches := (
            SELECT coalesce(jsonb_object_agg(m.queue, jsonb_build_object('owners', m.owners, 'jobs', m.jobs)), '{}')
            FROM (
                SELECT o.queue, array_agg(o.owner_service) AS owners, sum(o.jobs) AS jobs
                FROM (
                    SELECT c.queue, c.owner_service, sum(c.jobs) AS jobs
                    FROM (
                        SELECT owner_service, queue, task_type, model_profile, due, jobs FROM job_counts
                        UNION ALL
                        SELECT owner_service, queue, task_type, model_profile, due, jobs FROM job_count_changes
                    ) AS c
                    WHERE c.due
                      AND c.queue <> ''
                      AND (p_task_types IS NULL OR c.task_type = ANY (p_task_types))
                      AND (p_model_profiles IS NULL OR c.model_profile = ANY (p_model_profiles))
                      AND (p_owner_services IS NULL OR c.owner_service = ANY (p_owner_services))
                    GROUP BY c.queue, c.owner_service
                    HAVING sum(c.jobs) > 0
                ) AS o
                GROUP BY o.queue
            ) AS m
        );
    END IF;
    candidates := ARRAY (
        SELECT line.name
        FROM (
            SELECT DISTINCT n.line AS name FROM lane_names AS n
            WHERE (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
              AND (p_queues IS NULL OR n.line = ANY (p_queues))
        ) AS line
        LEFT JOIN queues AS q ON q.name = line.name
        WHERE q.paused IS NOT TRUE
          AND q.stopped IS NOT TRUE
          AND q.circuit_state IS DISTINCT FROM 'open'
          AND CASE
              -- A line without a queue is named for its kind, with a space between task type and profile.
              WHEN strpos(line.name, ' ') > 0 THEN
                  (p_task_types IS NULL OR split_part(line.name, ' ', 1) = ANY (p_task_types))
                  AND (p_model_profiles IS NULL OR split_part(line.name, ' ', 2) = ANY (p_model_profiles))
              ELSE matches IS NULL OR matches ? line.name
          END
          AND EXISTS (
              SELECT FROM lane_names AS n
              CROSS JOIN LATERAL (
                  SELECT FROM jobs AS j
                  WHERE j.line = line.name
                    AND j.level = n.level
                    AND j.owner_service = n.owner_service
                    AND j.status = 'pending'
                    AND j.due
                  LIMIT 1
              ) AS waiting
              WHERE n.line = line.name
                AND (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
          )
    );
    PERFORM FROM line_names AS l WHERE l.name = ANY (candidates) ORDER BY l.name FOR UPDATE;
    PERFORM FROM owners AS o
    WHERE o.max_running IS NOT NULL
      AND o.owner_service IN (SELECT n.owner_service FROM lane_names AS n WHERE n.line = ANY (candidates))
    ORDER BY o.owner_service
    FOR UPDATE;

    WHILE cardinality(claimed) < p_limit AND cardinality(candidates) > 0 LOOP
        best := NULL;
        IF cardinality(candidates) > 1 THEN
            WITH lane AS MATERIALIZED (
                SELECT
                    n.line, n.level, n.owner_service,
                    CASE
                        WHEN clock_timestamp() - l.swept_at > greatest(interval '1 second', 20 * l.sweep_took) THEN 0
                        ELSE s.low_seq
                    END AS low,
                    (
                        SELECT o.max_running - running_of(o.owner_service) FROM owners AS o
                        WHERE o.owner_service = n.owner_service
                          AND o.max_running IS NOT NULL
                    ) AS spare
                FROM lane_names AS n
                CROSS JOIN LATERAL (
                    SELECT * FROM lane_states AS s
                    WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
                    ORDER BY s.turn DESC
                    LIMIT 1
                ) AS s
                CROSS JOIN LATERAL (
                    SELECT * FROM line_states AS l WHERE l.line = n.line ORDER BY l.turn DESC LIMIT 1
                ) AS l
                WHERE n.line = ANY (candidates)
                  AND (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
                  AND (matches IS NULL OR strpos(n.line, ' ') > 0
                       OR matches -> n.line -> 'owners' ? n.owner_service)
            ), head AS MATERIALIZED (
                SELECT n.line, n.level, n.owner_service, n.spare, first.seq
                FROM lane AS n
                CROSS JOIN LATERAL (
                    SELECT j.seq FROM jobs AS j
                    WHERE j.line = n.line
                      AND j.level = n.level
                      AND j.owner_service = n.owner_service
                      AND j.status = 'pending'
                      AND j.due
                      AND j.seq > n.low
                      AND (p_task_types IS NULL OR j.task_type = ANY (p_task_types))
                      AND (p_model_profiles IS NULL OR j.model_profile = ANY (p_model_profiles))
                      AND (j.deadline_at IS NULL OR j.deadline_at > now() OR j.started_at IS NOT NULL)
                    ORDER BY j.seq
                    LIMIT 1
                ) AS first
                WHERE n.spare IS NULL
                   OR n.spare > 0
            ), first AS (
                SELECT head.line, head.level, coalesce(q.reserved_share, 0) > 0 AS shared
                FROM head
                LEFT JOIN queues AS q ON q.name = head.line
                ORDER BY head.level, head.seq
                LIMIT 1
            ), other AS (
                SELECT min(head.seq) AS seq
                FROM head
                JOIN first ON first.line <> head.line AND first.level = head.level
            )
            -- As many as come before another line's first; with a reserved share each pick may change who is next.
            SELECT
                first.line,
                CASE WHEN NOT first.shared THEN first.level END AS level,
                CASE
                    WHEN first.shared THEN 1
                    ELSE (
                        SELECT sum(before.jobs)
                        FROM head
                        CROSS JOIN LATERAL (
                            SELECT count(*) AS jobs
                            FROM (
                                SELECT FROM jobs AS j
                                WHERE j.line = head.line
                                  AND j.level = head.level
                                  AND j.owner_service = head.owner_service
                                  AND j.status = 'pending'
                                  AND j.due
                                  AND j.seq >= head.seq
                                  AND j.seq < coalesce((SELECT other.seq FROM other), 9223372036854775807)
                                  AND (p_task_types IS NULL OR j.task_type = ANY (p_task_types))
                                  AND (p_model_profiles IS NULL OR j.model_profile = ANY (p_model_profiles))
                                  AND (j.deadline_at IS NULL OR j.deadline_at > now() OR j.started_at IS NOT NULL)
                                LIMIT least(p_limit, head.spare)
                            ) AS waiting
                        ) AS before
                        WHERE head.line = first.line
                          AND head.level = first.level
                    )
                END AS jobs
            INTO best
            FROM first;
        END IF;
        IF best IS NULL THEN
            SELECT candidates[1] AS line, NULL::smallint AS level, p_limit::numeric AS jobs INTO best;
        END IF;
        got := claim_line(
            best.line, best.level, p_task_types, p_model_profiles,
            CASE
                WHEN matches IS NULL OR strpos(best.line, ' ') > 0 THEN p_owner_services
                ELSE ARRAY (SELECT jsonb_array_elements_text(matches -> best.line -> 'owners'))
            END,
            p_worker_id, p_lease, true, NULL,
            least(
                p_limit - cardinality(claimed),
                greatest(best.jobs, 1)::integer,
                CASE WHEN strpos(best.line, ' ') = 0 THEN (matches -> best.line -> 'jobs')::integer END
            )
        );
        claimed := claimed || got;
        IF cardinality(got) = 0 OR cardinality(candidates) = 1 THEN
            candidates := array_remove(candidates, best.line);
        END IF;
    END LOOP;

    RETURN QUERY
    SELECT j.id, j.lease_token
    FROM unnest(claimed) WITH ORDINALITY AS c (id, place)
    JOIN jobs AS j ON j.id = c.id
    ORDER BY c.place;
END
$$
"""

SETTLE_JOBS = """
-- Settle: end runs and move their jobs on, where the run's token is still the job's. Returns the places, from 1, of
-- those where it is not: by place and not by job, for two runs of one job may end together, one of them too late.
-- Either way the run's slot is free then. p_line is the line of them all; NULL: look it up.
CREATE OR REPLACE FUNCTION settle_jobs(
    p_job_ids uuid[],
    p_tokens uuid[],
    p_outcomes text[],
    p_statuses text[],
    p_results bytea[],
    p_error_codes text[],
    p_error_messages text[],
    p_delays interval[],
    p_line text
)
RETURNS TABLE (lost bigint)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    settled bigint[];
    ended_in text[];
    at_levels smallint[];
    of_owners text[];
    charges double precision[];
    costs double precision[];
    as_completed boolean[];
    back_in text[];
    back_levels smallint[];
    back_owners text[];
    back_seqs bigint[];
BEGIN
    -- The lines first: whoever claims holds one of them, and then asks for jobs.
    PERFORM FROM line_names AS l
    WHERE l.name = ANY (
        CASE WHEN p_line IS NOT NULL THEN ARRAY[p_line] ELSE ARRAY (
            SELECT j.line FROM jobs AS j WHERE j.id = ANY (p_job_ids)
            UNION
            SELECT c.line FROM closing_slots AS c WHERE c.lease_token = ANY (p_tokens)
        ) END
    )
    ORDER BY l.name
    FOR UPDATE;

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
        WHERE j.id = e.job_id
          AND j.lease_token = e.token
        RETURNING
            e.place, j.id, j.worker_id, j.started_at, j.waited_ms, j.number, j.status,
            e.token, e.outcome, e.result, e.error_code, e.error_message,
            j.line, j.level, j.owner_service, j.seq, j.charge, j.due
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
    SELECT
        (SELECT coalesce(array_agg(job.place), '{}') FROM job), slot.*, back.*
    INTO
        settled, ended_in, at_levels, of_owners, charges, costs, as_completed,
        back_in, back_levels, back_owners, back_seqs
    FROM (
        SELECT
            array_agg(job.line), array_agg(job.level), array_agg(job.owner_service), array_agg(job.charge),
            array_agg(extract(epoch FROM now() - job.started_at)::double precision),
            array_agg(job.outcome = 'completed')
        FROM job
    ) AS slot
    CROSS JOIN (
        SELECT
            array_agg(job.line), array_agg(job.level), array_agg(job.owner_service), array_agg(job.seq)
        FROM job
        WHERE job.status = 'pending'
          AND job.due
    ) AS back;
    IF ended_in IS NOT NULL THEN
        PERFORM free_slots(ended_in, at_levels, of_owners, charges, costs, as_completed);
    END IF;
    IF back_in IS NOT NULL THEN
        PERFORM reach_lanes(back_in, back_levels, back_owners, back_seqs);
    END IF;

    IF cardinality(settled) < cardinality(p_job_ids) THEN
        -- Apart: what took the jobs away may have been waited for above, and its slots are seen only now.
        WITH closed AS (
            DELETE FROM closing_slots AS c
            WHERE c.lease_token = ANY (p_tokens)
            RETURNING c.*
        )
        SELECT
            array_agg(c.line), array_agg(c.level), array_agg(c.owner_service), array_agg(c.charge),
            array_agg(extract(epoch FROM now() - c.started_at)::double precision), array_agg(false)
        INTO ended_in, at_levels, of_owners, charges, costs, as_completed
        FROM closed AS c;
        IF ended_in IS NOT NULL THEN
            PERFORM free_slots(ended_in, at_levels, of_owners, charges, costs, as_completed);
        END IF;
        RETURN QUERY
        SELECT given.place FROM generate_series(1, cardinality(p_job_ids)::bigint) AS given (place)
        WHERE given.place <> ALL (settled);
    END IF;
END
$$
"""

RESCUE_JOBS = """
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
"""

FREE_ABANDONED_SLOTS = """
-- Scheduler, every second: free slots whose worker was not heard of until their lease ran out. Returns how many.
-- p_steady: as in rescue_jobs.
CREATE OR REPLACE FUNCTION free_abandoned_slots(p_steady interval)
RETURNS bigint
LANGUAGE plpgsql
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    locked text[];
    freed bigint;
BEGIN
    IF NOT has_seen(p_steady) THEN
        RETURN 0;
    END IF;
    locked := ARRAY (SELECT DISTINCT c.line FROM closing_slots AS c WHERE c.expires_at < now());
    IF cardinality(locked) = 0 THEN
        RETURN 0;
    END IF;
    PERFORM FROM line_names AS l WHERE l.name = ANY (locked) ORDER BY l.name FOR UPDATE;
    WITH gone AS (
        DELETE FROM closing_slots AS c
        WHERE c.expires_at < now()
          AND c.line = ANY (locked)
        RETURNING *
    ), slot AS (
        SELECT
            count(*) AS slots,
            free_slots(
                array_agg(g.line), array_agg(g.level), array_agg(g.owner_service), array_agg(g.charge),
                array_agg(extract(epoch FROM now() - g.started_at)::double precision), array_agg(false)
            )
        FROM gone AS g
    )
    SELECT slot.slots INTO freed FROM slot;
    RETURN freed;
END
$$
"""

TEND_LINES = """
-- Scheduler, now and then: set right what a crash or a race may have left of lines: lanes with jobs that were not
-- found, lanes that nobody has used for long, counts of busy slots. Returns how many counts were wrong.
CREATE OR REPLACE FUNCTION tend_lines(p_unused interval)
RETURNS integer
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    line record;
    wrong integer;
BEGIN
    PERFORM FROM line_names AS l ORDER BY l.name FOR UPDATE;

    -- One with a weight of its own is kept: what comes back to it, from a run or a scheduled time, does not tell it.
    DELETE FROM lane_names AS n
    USING lanes AS k
    WHERE k.line = n.line
      AND k.level = n.level
      AND k.owner_service = n.owner_service
      AND k.asleep
      AND k.weight = 1
      AND k.used_at < now() - p_unused
      AND NOT EXISTS (
          SELECT FROM jobs AS j
          WHERE j.line = n.line
            AND j.level = n.level
            AND j.owner_service = n.owner_service
            AND j.status = 'pending'
            AND j.due
      );

    WITH RECURSIVE lane (line, level, owner_service, seq) AS (
        (
            SELECT j.line, j.level, j.owner_service, j.seq FROM jobs AS j
            WHERE j.status = 'pending' AND j.due
            ORDER BY j.line, j.level, j.owner_service, j.seq
            LIMIT 1
        )
        UNION ALL
        SELECT following.*
        FROM lane AS k
        CROSS JOIN LATERAL (
            SELECT j.line, j.level, j.owner_service, j.seq FROM jobs AS j
            WHERE j.status = 'pending' AND j.due
              AND (j.line, j.level, j.owner_service) > (k.line, k.level, k.owner_service)
            ORDER BY j.line, j.level, j.owner_service, j.seq
            LIMIT 1
        ) AS following
    )
    INSERT INTO lane_names (line, level, owner_service)
    SELECT k.line, k.level, k.owner_service FROM lane AS k
    ON CONFLICT DO NOTHING;
    INSERT INTO line_names (name) SELECT DISTINCT n.line FROM lane_names AS n ON CONFLICT DO NOTHING;

    wrong := 0;
    FOR line IN
        SELECT l.name, coalesce(counted.slots, 0) AS slots
        FROM lines AS l
        LEFT JOIN (
            SELECT taken.line, count(*) AS slots
            FROM (
                SELECT j.line FROM jobs AS j WHERE j.status = 'running'
                UNION ALL
                SELECT c.line FROM closing_slots AS c
            ) AS taken
            GROUP BY taken.line
        ) AS counted ON counted.line = l.name
        WHERE l.busy <> coalesce(counted.slots, 0)
    LOOP
        UPDATE line_states AS s
        SET changes = s.changes + 1, busy = line.slots
        WHERE s.line = line.name
          AND s.turn = (SELECT k.turn FROM line_states AS k WHERE k.line = line.name ORDER BY k.turn DESC LIMIT 1);
        wrong := wrong + 1;
    END LOOP;
    RETURN wrong;
END
$$
"""

FUNCTIONS = (
    BEGIN_LINE,
    BEGIN_LANE,
    BEGIN_ANEW,
    REACH_LANES,
    FREE_SLOTS,
    HEADS_OF_LINE,
    CLAIM_TRIAL,
    CLAIM_LINE,
    CLAIM_JOBS,
    CLAIM_FOR_EXTERNAL,
    SETTLE_JOBS,
    RESCUE_JOBS,
    PREEMPT_JOBS,
    FREE_ABANDONED_SLOTS,
    TEND_LINES,
)


def upgrade() -> None:
    # The tables in use last of all: they are locked from there on.
    for statement in (
        *TABLES,
        *FUNCTIONS,
        LOCKS,
        *CONTENTS,
        *VIEWS,
        *TRIGGERS,
    ):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    order = import_module("migrations.versions.0003_order")
    liveness = import_module("migrations.versions.0004_liveness")
    suspects = import_module("migrations.versions.0006_suspects")
    lines, lanes = order.TABLES[2:4]
    for statement in (
        "LOCK TABLE line_names, lane_names, line_states, lane_states IN ACCESS EXCLUSIVE MODE",
        "ALTER VIEW lines RENAME TO line_view",
        "ALTER VIEW lanes RENAME TO lane_view",
        lines,
        lanes,
        """
        INSERT INTO lines (name, busy, clocks, reserve, mean, swept_at, sweep_took, trial_job, trial_token)
        SELECT name, busy, clocks, reserve, mean, swept_at, sweep_took, trial_job, trial_token FROM line_view
        """,
        """
        INSERT INTO lanes (line, level, owner_service, vtime, asleep, fresh, mean, weight, low_seq, used_at)
        SELECT line, level, owner_service, vtime, asleep, fresh, mean, weight, low_seq, used_at FROM lane_view
        """,
        "DROP VIEW line_view, lane_view",
        "DROP TABLE line_states, lane_states, line_names, lane_names",
        "DROP FUNCTION begin_line, begin_lane, begin_anew",
        order.REACH_LANES,
        order.FREE_SLOTS,
        order.SETTLE_JOBS,
        order.TEND_LINES,
        liveness.CLAIM_JOBS,
        liveness.CLAIM_FOR_EXTERNAL,
        liveness.RESCUE_JOBS,
        liveness.FREE_ABANDONED_SLOTS,
        suspects.HEADS_OF_LINE,
        suspects.CLAIM_TRIAL,
        suspects.CLAIM_LINE,
        suspects.PREEMPT_JOBS,
    ):
        op.get_bind().exec_driver_sql(statement)
