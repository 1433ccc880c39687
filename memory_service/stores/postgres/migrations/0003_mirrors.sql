-- What memory drivers lack of a user: the to-do column of mirroring. Each commit that writes something counts up `changed` of
-- its user, for all drivers that are followed; there is something to do while `mirrored` is behind. No reference to owners:
-- a user who was erased is still to be forgotten elsewhere.
CREATE TABLE drivers (
    name text COLLATE "C" PRIMARY KEY
);

-- No reference to drivers either: a commit under way would be refused because somebody ends a driver.
CREATE TABLE mirrors (
    driver text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    target text NOT NULL DEFAULT '',
    cursor text NOT NULL DEFAULT 'null',
    changed bigint NOT NULL DEFAULT 1,
    mirrored bigint NOT NULL DEFAULT 0,
    begun bigint NOT NULL DEFAULT 0,
    lease_until bigint,
    -- The lease under which it was written last: by this who writes again, since the answer was lost, knows its own work.
    written_under bigint,
    PRIMARY KEY (driver, tenant_id, user_id)
);

-- Not by lease too: a lease is then taken and ended without a word to the index.
CREATE INDEX mirrors_due ON mirrors (driver) WHERE mirrored < changed;

-- Rows of one user are locked in the order of drivers' names, and by whoever has locked the owner's row before.
CREATE FUNCTION mark_mirrors() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO mirrors (driver, tenant_id, user_id)
        SELECT name, NEW.tenant_id, NEW.user_id FROM drivers ORDER BY name
        ON CONFLICT (driver, tenant_id, user_id) DO UPDATE SET changed = mirrors.changed + 1;
    RETURN NULL;
END
$$;

-- Those that have no row have nothing of this user.
CREATE FUNCTION begin_mirrors_anew() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE mirrors SET cursor = 'null', begun = begun + 1, changed = changed + 1
        WHERE driver IN (SELECT name FROM drivers) AND tenant_id = OLD.tenant_id AND user_id = OLD.user_id;
    RETURN NULL;
END
$$;

CREATE TRIGGER mark_mirrors AFTER UPDATE OF written ON owners
    FOR EACH ROW EXECUTE FUNCTION mark_mirrors();
CREATE TRIGGER begin_mirrors_anew AFTER DELETE ON owners
    FOR EACH ROW EXECUTE FUNCTION begin_mirrors_anew();

-- The last step of following: whoever is writing while a driver is new does not see it yet, and would mark nothing. Those are
-- waited for, and new ones wait, but only until those users are noted who came since all were.
CREATE FUNCTION follow_driver(p_driver text) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '3s' AS $$
BEGIN
    INSERT INTO drivers VALUES (p_driver) ON CONFLICT DO NOTHING;
    LOCK TABLE owners IN SHARE MODE;
    INSERT INTO mirrors (driver, tenant_id, user_id)
        SELECT p_driver, tenant_id, user_id FROM owners WHERE NOT EXISTS (
            SELECT FROM mirrors WHERE driver = p_driver
                AND mirrors.tenant_id = owners.tenant_id AND mirrors.user_id = owners.user_id)
        ON CONFLICT DO NOTHING;
END
$$;

-- The last step of following no more: whoever is writing sees the driver still.
CREATE FUNCTION unfollow_driver(p_driver text) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '3s' AS $$
BEGIN
    LOCK TABLE owners IN SHARE MODE;
    DELETE FROM drivers WHERE name = p_driver;
    DELETE FROM mirrors WHERE driver = p_driver;
END
$$;
