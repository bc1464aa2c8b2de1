-- Submit for an owner whose waiting jobs are limited: how many it has. $1 owner_service
SELECT coalesce(sum(c.jobs), 0)::bigint AS jobs
FROM (
    SELECT owner_service, status, jobs FROM job_counts
    UNION ALL
    SELECT owner_service, status, jobs FROM job_count_changes
) AS c
WHERE c.owner_service = $1
  AND c.status = 'pending'
