-- What is due of one user is found without a look at each of the user's sessions.
ALTER TABLE sittings ADD COLUMN owner INTEGER;
UPDATE sittings SET owner = (SELECT owner FROM sessions WHERE sessions.id = session);
CREATE INDEX sittings_pending_of_owner ON sittings (owner, due_at) WHERE reflection = 'pending';
