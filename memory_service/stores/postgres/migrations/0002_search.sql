-- What PostgreSQL narrows a user's memory by, with pgvector; without, it is left out, and the process searches.
-- An entry is found by its item's words and by the direction of its vectors. All scans are of one user, by the primary key,
-- and exact: an approximate index over everybody's would cost each write and find the wrong users' neighbours first.

-- As far as all that was written of a user has entries too; a commit by a process that writes none leaves it behind for good.
-- First of all: a weaker lock taken before, as a reference takes one, would meet those of commits under way, each in wait of the other.
ALTER TABLE owners ADD COLUMN indexed bigint NOT NULL DEFAULT 0;

CREATE TABLE search_entries (
    owner bigint NOT NULL REFERENCES owners ON DELETE CASCADE,
    item_id text COLLATE "C" NOT NULL,
    -- The `id` of the turn's or memory's row: of another revision nothing is found.
    revision bigint NOT NULL,
    kind text NOT NULL,
    extract boolean NOT NULL,
    words tsvector NOT NULL,
    space text COLLATE "C",
    direction halfvec(256),
    PRIMARY KEY (owner, item_id)
);

ALTER TABLE search_entries ALTER COLUMN direction SET STORAGE PLAIN;

-- A commit together with the entries of what it writes: `search`, and the `direction` of its vectors.
CREATE FUNCTION commit_with_entries(p_tenant text, p_user text, p_change json, p_again boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_owner bigint;
    v_before bigint;
    v_session bigint;
BEGIN
    -- Another may be writing the first of this user too: what it wrote counts, with entries or without. Or erasing them.
    LOOP
        SELECT id, written INTO v_owner, v_before FROM owners
            WHERE tenant_id = p_tenant AND user_id = p_user FOR UPDATE;
        EXIT WHEN FOUND;
        IF p_change -> 'session' IS NULL AND p_change -> 'memories' IS NULL THEN
            PERFORM commit_change(p_tenant, p_user, p_change, p_again);
            RETURN;
        END IF;
        INSERT INTO owners (tenant_id, user_id) VALUES (p_tenant, p_user) ON CONFLICT DO NOTHING;
    END LOOP;
    PERFORM commit_change(p_tenant, p_user, p_change, p_again);
    -- Nothing to find, or made before by a try whose answer was lost: then others may have written over it since.
    IF v_before = (SELECT written FROM owners WHERE id = v_owner) THEN
        RETURN;
    END IF;

    IF p_change -> 'search' IS NOT NULL THEN
        SELECT id INTO v_session FROM sessions
            WHERE owner = v_owner AND session_id = p_change -> 'session' ->> 'session_id';
        INSERT INTO search_entries (owner, item_id, revision, kind, extract, words)
            SELECT v_owner, given.item_id, coalesce(turns.id, memories.id), given.kind, given.extract, given.words::tsvector
            FROM json_to_recordset(p_change -> 'search')
                AS given(item_id text, seq bigint, kind text, extract boolean, words text)
            LEFT JOIN turns ON turns.session = v_session AND turns.seq = given.seq
            LEFT JOIN memories ON memories.owner = v_owner AND memory_id = given.item_id AND given.seq IS NULL
            WHERE given.words IS NOT NULL
            ON CONFLICT (owner, item_id) DO UPDATE SET revision = excluded.revision, kind = excluded.kind,
                extract = excluded.extract, words = excluded.words, space = NULL, direction = NULL
            WHERE search_entries.revision <> excluded.revision;
        DELETE FROM search_entries
            USING json_to_recordset(p_change -> 'search') AS given(item_id text, words text)
            WHERE owner = v_owner AND search_entries.item_id = given.item_id AND given.words IS NULL;
    END IF;

    UPDATE search_entries SET space = given.space, direction = given.direction::halfvec
        FROM json_to_recordset(p_change -> 'vectors')
            AS given(item_id text, token bigint, space text, direction text)
        WHERE owner = v_owner AND search_entries.item_id = given.item_id AND revision = given.token;

    UPDATE owners SET indexed = written WHERE id = v_owner AND indexed = v_before AND indexed < written;
END
$$;
