-- Rows that the filter did not want.
ALTER TABLE progress ADD COLUMN filtered_rows INTEGER NOT NULL DEFAULT 0;
