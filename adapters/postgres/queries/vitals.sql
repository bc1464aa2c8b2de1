-- Metrics: what tells early that PostgreSQL will become slow. Of others' sessions a user sees only as much as it may.
-- A transaction that has written keeps dead rows as one that reads does; what vacuums keeps none.
WITH held AS (
    SELECT
        extract(epoch FROM now() - xact_start)::double precision AS seconds,
        greatest(age(backend_xmin), age(backend_xid)) AS transactions
    FROM pg_stat_activity
    WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
      AND pid <> pg_backend_pid()
      AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
    UNION ALL
    SELECT extract(epoch FROM now() - prepared)::double precision, age(transaction)
    FROM pg_prepared_xacts
    UNION ALL
    SELECT NULL, greatest(age(xmin), age(catalog_xmin))
    FROM pg_replication_slots
)
SELECT
    coalesce((SELECT max(seconds) FROM held), 0)::double precision AS oldest_snapshot_seconds,
    coalesce((SELECT max(transactions) FROM held), 0)::bigint AS oldest_snapshot_transactions,
    pg_database_size(current_database()) AS size_bytes,
    (
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend'
    ) AS connections,
    (SELECT count(*) FROM (SELECT FROM job_count_changes LIMIT 100000) AS c) AS unfolded_changes
