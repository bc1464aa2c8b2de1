-- Settle: the calls of providers that runs made, where there were several. Those of a run that is told of again stay.
-- $1 lease tokens, $2 job ids, $3 attempts as JSON
INSERT INTO run_attempts (lease_token, job_id, attempts)
SELECT given.lease_token, given.job_id, given.attempts
FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS given (lease_token, job_id, attempts)
WHERE EXISTS (SELECT FROM jobs AS j WHERE j.id = given.job_id)
ON CONFLICT DO NOTHING
