-- Figures: for how long the oldest jobs of each final state have been final, of the first hundred that were created.
SELECT state.status, extract(epoch FROM now() - min(first.finished_at))::float8 AS seconds
FROM (VALUES ('completed'), ('failed'), ('cancelled')) AS state (status)
CROSS JOIN LATERAL (
    SELECT j.finished_at
    FROM jobs AS j
    WHERE j.status = state.status
    ORDER BY j.created_at, j.seq
    LIMIT 100
) AS first
GROUP BY state.status
