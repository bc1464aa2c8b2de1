-- Circuits: read one to change it; it is locked until then. $1 queue
SELECT q.circuit, clock_timestamp() AS now FROM queues AS q WHERE q.name = $1 FOR UPDATE
