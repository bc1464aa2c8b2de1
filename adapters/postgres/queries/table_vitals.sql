-- Metrics: rows of our tables, live and dead. $1 the tables
SELECT relname AS name, n_live_tup AS live, n_dead_tup AS dead
FROM pg_stat_user_tables
WHERE schemaname = current_schema()
  AND relname = ANY ($1::text[])
ORDER BY relname
