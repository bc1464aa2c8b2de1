-- After a submission that was there already: the jobs of these idempotency keys. $1 owner_services, $2 keys
SELECT g.place, d.job_id, d.fingerprint
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS g (owner_service, key, place)
JOIN job_details AS d ON d.owner_service = g.owner_service AND d.idempotency_key = g.key
