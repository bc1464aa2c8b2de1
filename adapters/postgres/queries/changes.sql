-- Events: a job's changes of state above $2, put together from what is stored once: its creation, the start and the end
-- of each run, and the few changes that end no run. $1 id
SELECT c.*
FROM (
    SELECT 1 AS number, 'pending' AS status, j.created_at AS at, NULL AS error_code, NULL AS error_message
    FROM jobs AS j
    WHERE j.id = $1
    UNION ALL
    SELECT r.number - 1, 'running', r.started_at, NULL, NULL FROM runs AS r WHERE r.job_id = $1
    UNION ALL
    SELECT r.number, r.became, r.ended_at, r.error_code, r.error_message FROM runs AS r WHERE r.job_id = $1
    UNION ALL
    SELECT s.number, s.status, s.at, s.error_code, s.error_message FROM job_changes AS s WHERE s.job_id = $1
    UNION ALL
    SELECT j.number, 'running', j.started_at, NULL, NULL FROM jobs AS j WHERE j.id = $1 AND j.status = 'running'
) AS c
WHERE c.number > $2
ORDER BY c.number
