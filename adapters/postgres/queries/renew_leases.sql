-- Renew, every few seconds per worker process: which of these leases are no longer current? $1 jobs, $2 tokens, $3 lease
-- SKIP LOCKED: a row that is being settled at this moment needs no renewal, and waiting for it could deadlock.
WITH held AS MATERIALIZED (
    SELECT j.id, j.lease_token
    FROM jobs AS j
    WHERE j.id = ANY ($1::uuid[])
      AND j.lease_token = ANY ($2::uuid[])
), free AS MATERIALIZED (
    SELECT j.id
    FROM jobs AS j
    WHERE j.id = ANY ($1::uuid[])
      AND j.lease_token = ANY ($2::uuid[])
    FOR UPDATE SKIP LOCKED
), renewed AS (
    UPDATE jobs AS j
    SET lease_expires_at = now() + $3::interval
    WHERE j.id = ANY (ARRAY (SELECT free.id FROM free))
), closing AS (
    -- Their jobs are others' by now, but the calls are still being closed.
    UPDATE closing_slots AS c
    SET expires_at = now() + $3::interval
    WHERE c.lease_token = ANY ($2::uuid[])
)
SELECT given.place
FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS given (id, token, place)
WHERE NOT EXISTS (SELECT FROM held WHERE held.id = given.id AND held.lease_token = given.token)
