-- Position: due jobs that would be claimed before this one by the rule of domain/order.py, each lane counted up to $5.
-- $1 line, $2 level, $3 owner_service, $4 seq
WITH lane AS MATERIALIZED (
    SELECT
        n.level, n.owner_service, n.vtime, n.asleep, n.asleep OR n.fresh AS fresh, n.low_seq,
        l.clocks[n.level] AS clock,
        greatest(coalesce(n.mean, l.mean, 1), 0.001) / coalesce(o.weight, n.weight) AS step,
        n.level = $2::smallint AND n.owner_service = $3::text AS own,
        (
            SELECT count(*)
            FROM (
                SELECT FROM jobs AS j
                WHERE j.line = $1
                  AND j.level = n.level
                  AND j.owner_service = n.owner_service
                  AND j.status = 'pending'
                  AND j.due
                  AND j.seq > n.low_seq
                  AND j.seq < CASE
                      WHEN n.level = $2 AND n.owner_service = $3 THEN $4::bigint
                      ELSE 9223372036854775807
                  END
                LIMIT $5
            ) AS waiting
        ) AS jobs
    FROM lines AS l
    JOIN lanes AS n ON n.line = l.name
    LEFT JOIN owners AS o ON o.owner_service = n.owner_service
    WHERE l.name = $1
      AND n.level <= $2
), based AS MATERIALIZED (
    SELECT
        lane.*,
        CASE
            WHEN lane.asleep THEN greatest(
                lane.vtime,
                coalesce(
                    (
                        SELECT min(a.vtime) FROM lane AS a
                        WHERE a.level = $2 AND NOT a.asleep AND (a.jobs > 0 OR a.own)
                    ),
                    lane.clock
                )
            )
            ELSE lane.vtime
        END AS base
    FROM lane
), own AS (
    SELECT b.jobs, b.base + b.jobs * b.step AS start, b.jobs > 0 OR NOT b.fresh AS settled
    FROM based AS b
    WHERE b.own
)
SELECT
    coalesce((SELECT sum(b.jobs) FROM based AS b WHERE b.level < $2), 0)::bigint
    + coalesce((SELECT own.jobs FROM own), 0)
    + coalesce(
        (
            SELECT sum(least(b.jobs, turns.before + (
                -- Of the same start, a newcomer's job; then the one that has waited longer.
                b.base + turns.before * b.step < own.start
                OR (
                    b.base + turns.before * b.step = own.start
                    AND (
                        turns.before > 0 OR NOT b.fresh,
                        (
                            SELECT j.seq FROM jobs AS j
                            WHERE j.line = $1
                              AND j.level = $2
                              AND j.owner_service = b.owner_service
                              AND j.status = 'pending'
                              AND j.due
                              AND j.seq > b.low_seq
                            ORDER BY j.seq
                            OFFSET turns.before
                            LIMIT 1
                        )
                    ) < (own.settled, $4)
                )
            )::integer))
            FROM based AS b
            CROSS JOIN own
            CROSS JOIN LATERAL (
                SELECT least(greatest(floor((own.start - b.base) / b.step), 0), b.jobs)::bigint AS before
            ) AS turns
            WHERE b.level = $2
              AND NOT b.own
              AND b.base <= own.start
        ),
        0
    )::bigint AS jobs
