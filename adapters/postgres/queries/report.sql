-- Heartbeat of an external worker: renew its lease and keep its progress. $1 job, $2 token, $3 progress (NULL: none)
WITH held AS (
    UPDATE jobs AS j
    SET lease_expires_at = now() + j.lease_timeout
    WHERE j.id = $1
      AND j.lease_token = $2
      AND j.lease_timeout IS NOT NULL
    RETURNING j.id, j.number, j.lease_expires_at
), told AS (
    INSERT INTO job_progress AS p (job_id, number, report, at, progress)
    SELECT held.id, held.number, 1, now(), $3::bytea
    FROM held
    WHERE $3::bytea IS NOT NULL
    ON CONFLICT (job_id) DO UPDATE
    SET number = excluded.number,
        report = CASE WHEN p.number = excluded.number THEN p.report + 1 ELSE 1 END,
        at = excluded.at,
        progress = excluded.progress
)
SELECT lease_expires_at, number FROM held
