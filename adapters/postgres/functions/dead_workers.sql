-- Workers that are proven dead: the lock of their session is gone, and nothing was heard of them for a while. Called by
-- rescue_jobs. A lock alone is a hint: a worker whose connection broke takes a new one within a second, and says so.
-- Where at least four workers and more than half fell silent within five seconds it is more likely the network or the
-- database that failed: they keep their jobs until their leases run out.
-- p_lease: older beats prove nothing that the leases do not.
CREATE OR REPLACE FUNCTION dead_workers(p_silent interval, p_lease interval)
RETURNS text[]
LANGUAGE plpgsql
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN ARRAY (
        WITH known AS MATERIALIZED (
            SELECT w.worker_id, w.seen_at, w.lock_key FROM workers AS w WHERE w.seen_at > now() - p_lease
        ), silent AS MATERIALIZED (
            SELECT k.* FROM known AS k WHERE k.lock_key IS NOT NULL AND k.seen_at < now() - p_silent
        ), gone AS MATERIALIZED (
            -- Ours until the end of this transaction: whoever is back takes his new one after it.
            SELECT s.* FROM silent AS s WHERE pg_try_advisory_xact_lock(s.lock_key)
        ), counted AS (
            SELECT
                g.worker_id,
                (
                    SELECT count(*) FROM gone AS o
                    WHERE o.seen_at BETWEEN g.seen_at - interval '5 seconds' AND g.seen_at + interval '5 seconds'
                ) AS together,
                (SELECT count(*) FROM known) AS all_of_them
            FROM gone AS g
        )
        SELECT c.worker_id FROM counted AS c
        WHERE c.together < 4
           OR 2 * c.together <= c.all_of_them
    );
END
$$
