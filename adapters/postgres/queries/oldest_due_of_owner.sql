-- Statistics: for how long an owner's oldest due job has been due, in seconds. $1 owner_service
SELECT extract(epoch FROM now() - greatest(j.run_at, j.created_at))::double precision AS seconds
FROM jobs AS j
WHERE j.status = 'pending'
  AND j.due
  AND j.owner_service = $1
ORDER BY j.created_at, j.seq
LIMIT 1
