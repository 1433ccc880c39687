-- What memory drivers lack of a user: the to-do column of mirroring. Each commit counts up `changed` of its user, for all
-- drivers that are followed; there is something to do while `mirrored` is behind. No reference to owners: a user who was
-- erased is still to be forgotten elsewhere.
CREATE TABLE drivers (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE mirrors (
    driver TEXT NOT NULL REFERENCES drivers ON DELETE CASCADE,
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    target TEXT NOT NULL DEFAULT '',
    cursor TEXT NOT NULL DEFAULT 'null',
    changed INTEGER NOT NULL DEFAULT 1,
    mirrored INTEGER NOT NULL DEFAULT 0,
    begun INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER,
    PRIMARY KEY (driver, tenant_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX mirrors_due ON mirrors (driver) WHERE mirrored < changed;
