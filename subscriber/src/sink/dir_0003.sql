-- The format that the file is written in, by its suffix.
ALTER TABLE progress ADD COLUMN format TEXT NOT NULL DEFAULT 'jsonl';
