-- Each table keeps its value as JSON (`head`, `body`), and beside it only what is queried.
-- Times are microseconds since 1970, UTC. Ids are never reused: readers follow them as a cursor.

CREATE TABLE owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    UNIQUE (tenant_id, user_id)
) STRICT;

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner INTEGER NOT NULL REFERENCES owners,
    session_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    status TEXT NOT NULL,
    touched_at INTEGER NOT NULL,
    unreflected_turns INTEGER NOT NULL,
    live_after INTEGER NOT NULL,
    head TEXT NOT NULL,
    UNIQUE (owner, session_id)
) STRICT;

CREATE INDEX sessions_active ON sessions (touched_at) WHERE status = 'active';

CREATE TABLE turns (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner INTEGER NOT NULL REFERENCES owners,
    session INTEGER NOT NULL REFERENCES sessions,
    seq INTEGER NOT NULL,
    turn_id TEXT NOT NULL,
    space TEXT,
    body TEXT NOT NULL,
    UNIQUE (session, seq),
    UNIQUE (turn_id, session) -- names that are made one after the other are then on one page
) STRICT;

CREATE INDEX turns_of_owner ON turns (owner);
CREATE INDEX turns_by_space ON turns (space);

CREATE TABLE sittings (
    session INTEGER NOT NULL REFERENCES sessions,
    first_seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    reflection TEXT NOT NULL,
    due_at INTEGER NOT NULL,
    lease_until INTEGER,
    body TEXT NOT NULL,
    PRIMARY KEY (session, first_seq)
) STRICT;

CREATE INDEX sittings_pending ON sittings (due_at) WHERE reflection = 'pending';

CREATE TABLE memories (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner INTEGER NOT NULL REFERENCES owners,
    memory_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    superseded INTEGER NOT NULL,
    space TEXT,
    body TEXT NOT NULL,
    UNIQUE (owner, memory_id)
) STRICT;

CREATE INDEX memories_by_kind ON memories (owner, kind, created_at);
CREATE INDEX memories_of_owner ON memories (owner);
CREATE INDEX memories_by_space ON memories (space);

CREATE TABLE vectors (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner INTEGER NOT NULL REFERENCES owners,
    item_id TEXT NOT NULL,
    space TEXT NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (owner, item_id, space)
) STRICT;

CREATE INDEX vectors_of_owner ON vectors (owner);
