-- The full export at which an entity's table begins, as JSON: of which type, publisher and epoch, and as of which number. Upserts of
-- earlier files take no effect. Null: the table is made of all files.
ALTER TABLE _waybill_table ADD COLUMN begins TEXT;
