-- Submit for an owner whose waiting jobs are limited: one after the other. $1 owner_service
SELECT pg_advisory_xact_lock(hashtextextended('max_pending ' || $1::text, 0))
