-- Callers' own names of their requests (Idempotency-Key), and the turn each stored.
CREATE TABLE requests (
    owner INTEGER NOT NULL REFERENCES owners,
    request_key TEXT NOT NULL,
    digest TEXT NOT NULL,
    session_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    made_at INTEGER NOT NULL,
    PRIMARY KEY (owner, request_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_age ON requests (made_at);
