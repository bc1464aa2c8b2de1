-- Read one whole job. $1 id
SELECT j.*, d.owner_ref, d.created_at, i.input, r.result
FROM jobs AS j
JOIN job_details AS d ON d.job_id = j.id
JOIN job_inputs AS i ON i.job_id = j.id
LEFT JOIN job_results AS r ON r.job_id = j.id
WHERE j.id = $1
