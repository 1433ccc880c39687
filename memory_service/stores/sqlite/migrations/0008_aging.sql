-- What nobody has touched for long. A turn moves `touched_at` of active sessions alone: this one costs it nothing.
CREATE INDEX sessions_ended ON sessions (touched_at) WHERE status = 'ended';
CREATE INDEX memories_by_age ON memories (created_at) WHERE kind = 'memory' AND superseded = 0;
