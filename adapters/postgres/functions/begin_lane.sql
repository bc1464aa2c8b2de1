-- A new lane begins with a state.
CREATE OR REPLACE FUNCTION begin_lane()
RETURNS trigger
LANGUAGE plpgsql
SET jit = off
AS $$
BEGIN
    INSERT INTO lane_states (line, level, owner_service)
    VALUES (NEW.line, NEW.level, NEW.owner_service)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$
