-- Rows that a filter did not want; unknown where an earlier try brought a part of the file into effect.
ALTER TABLE inbox ADD COLUMN filtered_rows INTEGER;
CREATE INDEX inbox_filtered ON inbox (filtered_rows) WHERE filtered_rows > 0;
