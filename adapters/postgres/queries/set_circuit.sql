-- Circuits: keep what one has become. $1 queue, $2 state, $3 circuit
UPDATE queues SET circuit_state = $2, circuit = $3 WHERE name = $1
