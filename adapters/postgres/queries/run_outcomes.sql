-- How these runs ended, if they did: after a settlement that found its token gone. $1 jobs, $2 tokens
SELECT r.job_id, r.lease_token, r.outcome, r.error_code
FROM runs AS r
WHERE r.job_id = ANY ($1::uuid[])
  AND r.lease_token = ANY ($2::uuid[])
