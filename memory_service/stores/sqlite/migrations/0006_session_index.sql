-- Whose a session or a memory is of which only the session's id is known.
CREATE INDEX sessions_by_name ON sessions (session_id);
CREATE INDEX memories_by_session ON memories (body ->> '$.session_id') WHERE kind = 'memory';
-- The to-do column of refining is in the value itself: a memory that a model is still to write says from what.
CREATE INDEX memories_rough ON memories (id) WHERE body ->> '$.rough' IS NOT NULL;
