-- A new line begins with a state.
CREATE OR REPLACE FUNCTION begin_line()
RETURNS trigger
LANGUAGE plpgsql
SET jit = off
AS $$
BEGIN
    INSERT INTO line_states (line) VALUES (NEW.name) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$
