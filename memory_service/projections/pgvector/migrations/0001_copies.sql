-- What of the record is searchable, one row for each message and memory. The record is elsewhere: this may be dropped.
-- All scans are of one user, by the primary key, and exact: an approximate index over everybody's vectors would find the
-- wrong users' neighbours first.

CREATE TABLE memory_copies (
    tenant_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    item_id text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    -- Picked and quoted, not written.
    is_extract boolean NOT NULL,
    session_id text COLLATE "C",
    category text,
    tags text[] NOT NULL,
    role text,
    name text,
    content text NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    -- Of `content`: tells one text from another.
    digest text NOT NULL,
    -- The stems of what it is found by, each once, spelled so that no dictionary changes them.
    words tsvector NOT NULL,
    -- Which model's the vector is, and how many numbers it has, is not ours to say: both may change.
    space text COLLATE "C",
    embedding vector,
    PRIMARY KEY (tenant_id, user_id, item_id)
);

-- Names these tables as they were made: what was brought into others is not here.
CREATE TABLE memory_copies_made (generation text NOT NULL);
INSERT INTO memory_copies_made VALUES (gen_random_uuid()::text);
