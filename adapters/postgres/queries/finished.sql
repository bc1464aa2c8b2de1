-- Statistics: jobs that became final within the last minute, five minutes and hour, to within ten seconds.
SELECT
    owner_service, status,
    coalesce(sum(jobs) FILTER (WHERE at > now() - interval '1 minute'), 0)::bigint AS last_minute,
    coalesce(sum(jobs) FILTER (WHERE at > now() - interval '5 minutes'), 0)::bigint AS last_5_minutes,
    sum(jobs)::bigint AS last_hour
FROM (
    SELECT owner_service, status, since AS at, jobs FROM jobs_finished
    UNION ALL
    SELECT owner_service, status, at, jobs
    FROM job_count_changes
    WHERE jobs > 0
      AND status IN ('completed', 'failed', 'cancelled')
) AS ended
WHERE at > now() - interval '1 hour'
GROUP BY owner_service, status
