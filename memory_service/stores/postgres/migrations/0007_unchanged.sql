-- What a commit asks before it writes memories that were read before: that nobody has changed them by hand meanwhile, or
-- written others in their place. The owner's row is locked first, as by the commit itself, so that it stays so.
-- `p_again`: the answer to an earlier try was lost; one that is as it is wanted is then its own work.
CREATE FUNCTION require_unchanged(p_tenant text, p_user text, p_states json, p_again boolean) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_owner bigint;
BEGIN
    SELECT id INTO v_owner FROM owners WHERE tenant_id = p_tenant AND user_id = p_user FOR UPDATE;
    IF EXISTS (
        SELECT FROM json_to_recordset(p_states)
            AS given(memory_id text, created_at bigint, updated_at text, wanted text)
        LEFT JOIN memories ON memories.owner = v_owner AND memories.memory_id = given.memory_id
        WHERE (memories.created_at IS DISTINCT FROM given.created_at
                OR memories.updated_at IS DISTINCT FROM given.updated_at)
            AND NOT (p_again AND memories.body IS NOT DISTINCT FROM given.wanted)
    ) THEN
        RAISE 'a memory was changed' USING ERRCODE = 'AM001';
    END IF;
    RETURN true;
END
$$;
