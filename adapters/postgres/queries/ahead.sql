-- Position: of jobs of one lane, in the order given, how many due jobs would be claimed before each by the rule of
-- domain/order.py, each lane counted up to $5. $1 line, $2 level, $3 owner_service, $4 seqs
WITH lane AS MATERIALIZED (
    SELECT
        n.level, n.owner_service, s.vtime, s.asleep, s.asleep OR s.fresh AS fresh, s.low_seq,
        l.clocks[n.level] AS clock,
        greatest(coalesce(s.mean, l.mean, 1), 0.001) / coalesce(o.weight, n.weight) AS step,
        n.level = $2::smallint AND n.owner_service = $3::text AS own,
        ARRAY (
            SELECT j.seq FROM jobs AS j
            WHERE j.line = $1
              AND j.level = n.level
              AND j.owner_service = n.owner_service
              AND j.status = 'pending'
              AND j.due
              AND j.seq > s.low_seq
            ORDER BY j.seq
            LIMIT $5
        ) AS seqs
    FROM lane_names AS n
    CROSS JOIN LATERAL (SELECT * FROM line_states AS l WHERE l.line = n.line ORDER BY l.turn DESC LIMIT 1) AS l
    CROSS JOIN LATERAL (
        SELECT * FROM lane_states AS s
        WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
        ORDER BY s.turn DESC
        LIMIT 1
    ) AS s
    LEFT JOIN owners AS o ON o.owner_service = n.owner_service
    WHERE n.line = $1
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
                        WHERE a.level = $2 AND NOT a.asleep AND (a.seqs <> '{}' OR a.own)
                    ),
                    lane.clock
                )
            )
            ELSE lane.vtime
        END AS base
    FROM lane
)
SELECT
    coalesce((SELECT sum(cardinality(b.seqs)) FROM based AS b WHERE b.level < $2), 0)::bigint
    + coalesce(own.jobs, 0)
    + coalesce(
        (
            SELECT sum(least(cardinality(b.seqs), turns.before + (
                -- Of the same start, a newcomer's job; then the one that has waited longer.
                b.base + turns.before * b.step < own.start
                OR (
                    b.base + turns.before * b.step = own.start
                    AND (turns.before > 0 OR NOT b.fresh, b.seqs[turns.before + 1]) < (own.settled, asked.seq)
                )
            )::integer))
            FROM based AS b
            CROSS JOIN LATERAL (
                SELECT least(greatest(floor((own.start - b.base) / b.step), 0), cardinality(b.seqs))::integer AS before
            ) AS turns
            WHERE b.level = $2
              AND NOT b.own
              AND b.base <= own.start
        ),
        0
    )::bigint AS jobs
FROM unnest($4::bigint[]) WITH ORDINALITY AS asked (seq, place)
LEFT JOIN LATERAL (
    SELECT before.jobs, b.base + before.jobs * b.step AS start, before.jobs > 0 OR NOT b.fresh AS settled
    FROM based AS b
    CROSS JOIN LATERAL (
        SELECT CASE WHEN b.seqs = '{}' THEN 0 ELSE width_bucket(asked.seq - 1, b.seqs) END AS jobs
    ) AS before
    WHERE b.own
) AS own ON true
ORDER BY asked.place
