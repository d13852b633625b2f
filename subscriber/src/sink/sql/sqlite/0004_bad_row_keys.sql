-- Whose row it is; null where its key cannot be read.
ALTER TABLE _waybill_bad_row ADD COLUMN key TEXT;
