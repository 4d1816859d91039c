-- The table that config/pipelines/events.toml stores into, a row for each event.
CREATE TABLE IF NOT EXISTS events (
    id         text PRIMARY KEY,
    event_type text NOT NULL,
    user_id    text NOT NULL,
    at         timestamptz NOT NULL,
    properties jsonb
);
