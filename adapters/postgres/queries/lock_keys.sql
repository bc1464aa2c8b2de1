-- Submit idempotency keys in several statements, or anew after a deadlock: one after the other. $1 owner_service
SELECT pg_advisory_xact_lock(hashtextextended('idempotency keys ' || $1::text, 0))
