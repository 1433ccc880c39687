-- Whose a session or a memory is of which only the session's id is known.
CREATE INDEX sessions_by_name ON sessions (session_id);

-- Columns, not expressions over the value: PostgreSQL reads no JSON that holds a NUL, and what was said may.
ALTER TABLE sessions ADD COLUMN incarnation text COLLATE "C";
ALTER TABLE memories ADD COLUMN session_id text COLLATE "C", ADD COLUMN updated_at text COLLATE "C",
    ADD COLUMN rough boolean NOT NULL DEFAULT false, ADD COLUMN settled boolean NOT NULL DEFAULT false;
UPDATE memories SET session_id = body::json ->> 'session_id' WHERE strpos(body, '\u0000') = 0;
CREATE INDEX memories_by_session ON memories (session_id) WHERE kind = 'memory';
-- The to-do column of refining: a memory that a model is still to write.
CREATE INDEX memories_rough ON memories (id) WHERE rough;
