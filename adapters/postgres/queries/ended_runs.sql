-- After a settlement that found its token gone: was it stored before, its answer lost? $1 jobs, $2 tokens
SELECT r.job_id, r.lease_token, r.outcome
FROM runs AS r
WHERE r.job_id = ANY ($1::uuid[])
  AND r.lease_token = ANY ($2::uuid[])
