-- What is configured of queues. $1 names, $2 concurrency, $3 preempt, $4 reserved_share, $5 ageing, $6 adaptive,
-- $7 whether to leave alone what is there
INSERT INTO queues AS q (name, concurrency, preempt, reserved_share, ageing, adaptive)
SELECT given.* FROM unnest($1::text[], $2::integer[], $3::boolean[], $4::float8[], $5::interval[], $6::boolean[])
    AS given (name, concurrency, preempt, reserved_share, ageing, adaptive)
ORDER BY 1
ON CONFLICT (name) DO UPDATE
SET concurrency = excluded.concurrency,
    preempt = excluded.preempt,
    reserved_share = excluded.reserved_share,
    ageing = excluded.ageing,
    adaptive = excluded.adaptive,
    adapted = CASE WHEN excluded.adaptive THEN q.adapted END,
    adapting = CASE WHEN excluded.adaptive THEN q.adapting END
WHERE NOT $7::boolean
  AND (q.concurrency, q.preempt, q.reserved_share, q.ageing, q.adaptive) IS DISTINCT FROM
      (excluded.concurrency, excluded.preempt, excluded.reserved_share, excluded.ageing, excluded.adaptive)
