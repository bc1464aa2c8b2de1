-- Read whole jobs. $1 ids
SELECT
    j.*,
    coalesce(
        j.lease_token = (SELECT s.trial_token FROM line_states AS s WHERE s.line = j.line ORDER BY s.turn DESC LIMIT 1),
        false
    ) AS trial,
    d.owner_ref, d.labels, d.batch_id, i.input, r.result, p.progress
FROM jobs AS j
JOIN job_details AS d ON d.job_id = j.id
JOIN job_inputs AS i ON i.job_id = j.id
LEFT JOIN job_results AS r ON r.job_id = j.id
LEFT JOIN job_progress AS p ON p.job_id = j.id
WHERE j.id = ANY ($1::uuid[])
