-- Rows that the entity's or type's filter did not want.
ALTER TABLE _waybill_progress ADD COLUMN filtered bigint NOT NULL DEFAULT 0;
-- Which rows an entity's table was filled with: the predicate and the types of its columns; null for all.
ALTER TABLE _waybill_table ADD COLUMN filter text;
