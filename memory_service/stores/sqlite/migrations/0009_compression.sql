-- A large turn is kept in `compressed`, by zlib, and has an empty `body`; so is none that was stored before.
ALTER TABLE turns ADD COLUMN compressed BLOB;
