-- Progress of a built-in worker's run, once a second at most; its lease is not touched. $1 job, $2 token, $3 progress
-- FOR SHARE: what ends the run meanwhile waits, or has been waited for.
WITH held AS MATERIALIZED (
    SELECT j.id, j.number
    FROM jobs AS j
    WHERE j.id = $1
      AND j.lease_token = $2
    FOR SHARE
)
INSERT INTO job_progress AS p (job_id, number, report, at, progress)
SELECT held.id, held.number, 1, now(), $3::bytea
FROM held
ON CONFLICT (job_id) DO UPDATE
SET number = excluded.number,
    report = CASE WHEN p.number = excluded.number THEN p.report + 1 ELSE 1 END,
    at = excluded.at,
    progress = excluded.progress
RETURNING number
