-- Where a file can be gone on with, as JSON: in the middle of the blob that is noted beside it.
ALTER TABLE inbox ADD COLUMN blob_checkpoint text;
