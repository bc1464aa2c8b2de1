-- Whether this session has lasted so long: then PostgreSQL was not away meanwhile. One that restarted, crashed or was
-- failed over to has no older sessions. Called by what takes jobs and slots from workers that were not heard of.
CREATE OR REPLACE FUNCTION has_seen(p_time interval)
RETURNS boolean
LANGUAGE sql
STABLE
AS $$
    SELECT p_time <= interval '0' OR coalesce(
        (SELECT session.backend_start <= now() - p_time FROM pg_stat_get_activity(pg_backend_pid()) AS session), false
    )
$$
