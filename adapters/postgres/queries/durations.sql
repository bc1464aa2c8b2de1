-- Statistics: how long the runs that ended lately had waited and took, in seconds. $1 owner_service (NULL: all)
SELECT
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY lately.waited_ms / 1000.0) AS waited,
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
        ORDER BY extract(epoch FROM lately.ended_at - lately.started_at)::double precision
    ) AS ran
FROM (
    SELECT r.waited_ms, r.started_at, r.ended_at
    FROM runs AS r
    WHERE r.ended_at > now() - interval '5 minutes'
      AND ($1::text IS NULL OR (SELECT j.owner_service FROM jobs AS j WHERE j.id = r.job_id) = $1)
    ORDER BY r.ended_at DESC
    LIMIT 1000
) AS lately
