-- After a lost connection: give back what this worker claimed on this queue without ever hearing of it.
-- $1 worker_id, $2 queue, $3 tokens that it does know
WITH orphan AS MATERIALIZED (
    SELECT j.id, j.lease_token
    FROM jobs AS j
    WHERE j.status = 'running'
      AND j.worker_id = $1
      AND j.queue = $2
      AND j.lease_timeout IS NULL
      AND j.lease_token <> ALL ($3::uuid[])
), orphans AS (
    SELECT
        array_agg(o.id) AS ids, array_agg(o.lease_token) AS tokens, count(*)::integer AS jobs
    FROM orphan AS o
)
SELECT coalesce(sum(o.jobs - lost.jobs), 0)::bigint AS count
FROM orphans AS o
CROSS JOIN LATERAL (
    SELECT count(*) AS jobs FROM settle_jobs(
        o.ids, o.tokens, array_fill('released'::text, ARRAY[o.jobs]), array_fill('pending'::text, ARRAY[o.jobs]),
        array_fill(NULL::bytea, ARRAY[o.jobs]), array_fill(NULL::text, ARRAY[o.jobs]),
        array_fill(NULL::text, ARRAY[o.jobs]), array_fill(interval '0', ARRAY[o.jobs]), $2
    )
) AS lost
WHERE o.jobs > 0
