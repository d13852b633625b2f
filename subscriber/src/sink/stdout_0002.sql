-- Of these rows, those that cannot be used and those that the filter did not want.
ALTER TABLE progress ADD COLUMN bad INTEGER NOT NULL DEFAULT 0;
ALTER TABLE progress ADD COLUMN filtered INTEGER NOT NULL DEFAULT 0;
