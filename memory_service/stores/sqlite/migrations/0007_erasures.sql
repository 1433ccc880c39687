-- What is read of a user belongs to an epoch; erasing something of the user begins another, and no two are called alike.
ALTER TABLE owners ADD COLUMN epoch TEXT NOT NULL DEFAULT 'first';

-- Erasures that were carried out here. A copy of this file from before one of them does not know it.
CREATE TABLE erasures (
    erasure_id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
