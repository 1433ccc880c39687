-- Listing what was given up must not read every sitting there ever was.
CREATE INDEX sittings_by_state ON sittings (reflection, due_at) WHERE reflection <> 'done';
