-- What is read of a user belongs to an epoch; erasing something of the user begins another, and no two are called alike.
ALTER TABLE owners ADD COLUMN epoch text NOT NULL DEFAULT 'first';
ALTER TABLE owners ALTER COLUMN epoch SET DEFAULT gen_random_uuid()::text;

-- Erasures that were carried out here. A copy of this record from before one of them does not know it.
CREATE TABLE erasures (
    erasure_id text COLLATE "C" PRIMARY KEY
);

CREATE TRIGGER begin_mirrors_anew_in_an_epoch AFTER UPDATE OF epoch ON owners
    FOR EACH ROW EXECUTE FUNCTION begin_mirrors_anew();

-- As it was, and: a commit of another epoch is refused, a session is not taken for an erased one of its id, and nobody is
-- made anew by what is left of the work on what was erased.
CREATE OR REPLACE FUNCTION commit_change(p_tenant text, p_user text, p_change json, p_again boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_owner bigint;
    v_written bigint;
    v_session bigint;
    v_head record;
    v_item record;
    v_before bigint;
    v_epoch text;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;

    SELECT id, written, epoch INTO v_owner, v_written, v_epoch FROM owners
        WHERE tenant_id = p_tenant AND user_id = p_user FOR UPDATE;
    IF p_change ->> 'epoch' <> coalesce(v_epoch, '') THEN
        RAISE 'it was erased' USING ERRCODE = 'AM001';
    END IF;
    IF v_owner IS NULL THEN
        IF p_change -> 'session' IS NULL AND p_change -> 'memories' IS NULL THEN
            IF p_change -> 'sittings' IS NOT NULL THEN
                RAISE 'it was erased' USING ERRCODE = 'AM001';
            END IF;
            RETURN;
        END IF;
        INSERT INTO owners (tenant_id, user_id) VALUES (p_tenant, p_user) ON CONFLICT DO NOTHING;
        SELECT id, written INTO v_owner, v_written FROM owners
            WHERE tenant_id = p_tenant AND user_id = p_user FOR UPDATE;
    END IF;
    v_before := v_written;

    SELECT * INTO v_head FROM json_to_record(p_change -> 'session') AS given(
        session_id text, version bigint, status text, touched_at bigint, unreflected_turns bigint, live_after bigint,
        incarnation text, body text);
    SELECT id INTO v_session FROM sessions WHERE owner = v_owner AND session_id = v_head.session_id;

    IF p_again AND (
        EXISTS (SELECT FROM sessions WHERE id = v_session AND head = v_head.body)
        OR EXISTS (
            SELECT FROM turns JOIN json_to_recordset(p_change -> 'turns') AS given(seq bigint, body text) USING (seq, body)
            WHERE session = v_session)
        OR (v_head.body IS NULL AND EXISTS (
            SELECT FROM sittings
            JOIN json_to_recordset(p_change -> 'sittings') AS given(first_seq bigint, body text) USING (first_seq, body)
            WHERE owner = v_owner))
    ) THEN
        RETURN;
    END IF;

    IF p_change -> 'request' IS NOT NULL THEN
        SELECT * INTO v_item FROM json_to_record(p_change -> 'request') AS given(
            key text, digest text, session_id text, turn_id text, made_at bigint, forget_before bigint);
        DELETE FROM requests WHERE ctid IN (
            SELECT ctid FROM requests WHERE made_at < v_item.forget_before LIMIT 1000 FOR UPDATE SKIP LOCKED);
        INSERT INTO requests
            VALUES (v_owner, v_item.key, v_item.digest, v_item.session_id, v_item.turn_id, v_item.made_at);
    END IF;

    IF v_head.version = 1 THEN
        INSERT INTO sessions (owner, session_id, version, status, touched_at, unreflected_turns, live_after, incarnation, head)
            VALUES (v_owner, v_head.session_id, v_head.version, v_head.status, v_head.touched_at,
                v_head.unreflected_turns, v_head.live_after, v_head.incarnation, v_head.body)
            RETURNING id INTO v_session;
    ELSIF v_head.version > 1 THEN
        UPDATE sessions SET version = v_head.version, status = v_head.status, touched_at = v_head.touched_at,
                unreflected_turns = v_head.unreflected_turns, live_after = v_head.live_after, head = v_head.body
            WHERE id = v_session AND version = v_head.version - 1
                -- one from before there was the column has none
                AND coalesce(incarnation, v_head.incarnation) = v_head.incarnation;
        IF NOT FOUND THEN
            RAISE 'stale version' USING ERRCODE = 'AM001';
        END IF;
    END IF;

    INSERT INTO turns (owner, session, seq, turn_id, written, body)
        SELECT v_owner, v_session, seq, turn_id, v_written + n, body
        FROM ROWS FROM (json_to_recordset(p_change -> 'turns') AS (seq bigint, turn_id text, body text))
            WITH ORDINALITY AS given(seq, turn_id, body, n);
    GET DIAGNOSTICS v_written = ROW_COUNT;
    v_written := v_before + v_written;

    FOR v_item IN SELECT * FROM json_to_recordset(p_change -> 'sittings') AS given(
        session_id text, first_seq bigint, version bigint, reflection text, due_at bigint, lease_until bigint, body text)
    LOOP
        SELECT id INTO v_session FROM sessions WHERE owner = v_owner AND session_id = v_item.session_id;
        IF v_item.version = 1 AND v_session IS NOT NULL THEN
            INSERT INTO sittings (owner, session, first_seq, version, reflection, due_at, lease_until, body)
                VALUES (v_owner, v_session, v_item.first_seq, v_item.version, v_item.reflection, v_item.due_at,
                    v_item.lease_until, v_item.body);
        ELSE
            UPDATE sittings SET version = v_item.version, reflection = v_item.reflection, due_at = v_item.due_at,
                    lease_until = v_item.lease_until, body = v_item.body
                WHERE session = v_session AND first_seq = v_item.first_seq AND version = v_item.version - 1;
            IF NOT FOUND THEN
                RAISE 'stale version' USING ERRCODE = 'AM001';
            END IF;
        END IF;
    END LOOP;

    FOR v_item IN SELECT * FROM json_to_recordset(p_change -> 'memories') AS given(
        memory_id text, kind text, created_at bigint, superseded boolean, session_id text, updated_at text,
        rough boolean, settled boolean, body text)
    LOOP
        v_written := v_written + 1;
        DELETE FROM vectors WHERE owner = v_owner AND item_id = v_item.memory_id;
        DELETE FROM memories WHERE owner = v_owner AND memory_id = v_item.memory_id;
        INSERT INTO memories
                (owner, memory_id, kind, created_at, superseded, session_id, updated_at, rough, settled, written, body)
            VALUES (v_owner, v_item.memory_id, v_item.kind, v_item.created_at, v_item.superseded, v_item.session_id,
                v_item.updated_at, v_item.rough, v_item.settled, v_written, v_item.body);
    END LOOP;

    -- A vector is kept only if its item is still the one it was computed of.
    FOR v_item IN SELECT * FROM json_to_recordset(p_change -> 'vectors') AS given(
        item_id text, token bigint, space text, data text)
    LOOP
        IF v_item.item_id LIKE '%#%' THEN
            UPDATE turns SET space = v_item.space WHERE id = v_item.token AND owner = v_owner;
        ELSE
            UPDATE memories SET space = v_item.space WHERE id = v_item.token AND owner = v_owner;
        END IF;
        IF FOUND THEN
            v_written := v_written + 1;
            INSERT INTO vectors (owner, item_id, space, written, data)
                VALUES (v_owner, v_item.item_id, v_item.space, v_written, decode(v_item.data, 'base64'))
                ON CONFLICT (owner, item_id, space) DO UPDATE SET written = excluded.written, data = excluded.data;
        END IF;
    END LOOP;

    IF v_written > v_before THEN
        UPDATE owners SET written = v_written WHERE id = v_owner;
    END IF;
END
$$;
