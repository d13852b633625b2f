-- The tables beside the rows, and the rows, of schema 1.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE _waybill_progress (
    file TEXT NOT NULL PRIMARY KEY,
    blob_type TEXT NOT NULL,
    rows INTEGER NOT NULL,
    done INTEGER NOT NULL,
    inserted INTEGER NOT NULL DEFAULT 0,
    updated INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0,
    ignored INTEGER NOT NULL DEFAULT 0,
    superseded INTEGER NOT NULL DEFAULT 0,
    parked INTEGER NOT NULL DEFAULT 0,
    released INTEGER NOT NULL DEFAULT 0,
    bad INTEGER NOT NULL DEFAULT 0,
    stored_bytes INTEGER,
    plain_bytes INTEGER,
    plain_sha256 TEXT,
    began_at TEXT NOT NULL,
    changed_at TEXT NOT NULL
);
INSERT INTO _waybill_progress VALUES('export:waybill/01a213e7-5ba5-7528-a802-5eecdf7a7027','ItemChanges',5,1,2,0,1,0,0,1,0,1,106,153,NULL,'2026-11-25T18:10:59.190901045Z','2026-11-25T18:10:59.190901045Z');
INSERT INTO _waybill_progress VALUES('export:waybill/01a213e7-5bbf-7345-824d-81db450bb5d8','Log',2,1,2,0,0,0,0,0,0,0,54,45,NULL,'2026-11-25T18:10:59.192632734Z','2026-11-25T18:10:59.192632734Z');
CREATE TABLE _waybill_tombstone (
    entity TEXT NOT NULL,
    key TEXT NOT NULL,
    version BLOB NOT NULL,
    deleted_at TEXT NOT NULL,
    PRIMARY KEY (entity, key)
) WITHOUT ROWID;
INSERT INTO _waybill_tombstone VALUES('item','4',X'c0811500020201a213e75ba27055b0120ff3cf4c116577617962696c6c00000101010401e137439031ef9a5a','2026-11-25T18:10:59.190901045Z');
CREATE TABLE _waybill_parked (
    id INTEGER PRIMARY KEY,
    entity TEXT NOT NULL,
    key TEXT NOT NULL,
    version BLOB NOT NULL,
    missing_entity TEXT NOT NULL,
    missing_key TEXT NOT NULL,
    row TEXT NOT NULL,
    file TEXT NOT NULL,
    file_row INTEGER NOT NULL,
    parked_at TEXT NOT NULL,
    UNIQUE (entity, key)
);
INSERT INTO _waybill_parked VALUES(1,'item','3',X'c0810b00020201a213e75ba27055b0120ff3cf4c116577617962696c6c000001010103008d87e1251e055c09','category','7','{"ItemID":3,"v":1,"Category":7}','export:waybill/01a213e7-5ba5-7528-a802-5eecdf7a7027',3,'2026-11-25T18:10:59.190901045Z');
CREATE TABLE _waybill_bad_row (
    file TEXT NOT NULL,
    row INTEGER NOT NULL,
    byte_offset INTEGER,
    reason TEXT NOT NULL,
    problem TEXT NOT NULL,
    bytes BLOB NOT NULL,
    found_at TEXT NOT NULL,
    PRIMARY KEY (file, row)
);
INSERT INTO _waybill_bad_row VALUES('export:waybill/01a213e7-5ba5-7528-a802-5eecdf7a7027',5,132,'bad-version','version field "v" is "x", no integer',X'7b224974656d4944223a352c2276223a2278227d','2026-11-25T18:10:59.190901045Z');
CREATE TABLE _waybill_table (
    name TEXT NOT NULL PRIMARY KEY COLLATE NOCASE,
    entity TEXT UNIQUE,
    blob_type TEXT UNIQUE,
    rule TEXT NOT NULL,
    publisher TEXT
);
INSERT INTO _waybill_table VALUES('category','category',NULL,'key (ID text), version (position)',NULL);
INSERT INTO _waybill_table VALUES('item','item',NULL,'key (ItemID integer), version (v number)',NULL);
INSERT INTO _waybill_table VALUES('Log',NULL,'Log','rows are added',NULL);
CREATE TABLE _waybill_column (
    table_name TEXT NOT NULL COLLATE NOCASE,
    field TEXT NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    PRIMARY KEY (table_name, field)
) WITHOUT ROWID;
INSERT INTO _waybill_column VALUES('item','Category','Category','integer');
INSERT INTO _waybill_column VALUES('item','Price','Price','decimal');
INSERT INTO _waybill_column VALUES('item','v','v','integer');
INSERT INTO _waybill_column VALUES('Log','kind','kind','text');
INSERT INTO _waybill_column VALUES('Log','n','n','integer');
CREATE TABLE _waybill_schema (name TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO _waybill_schema VALUES('sink',1);
CREATE TABLE IF NOT EXISTS "category" ("ID" TEXT NOT NULL, _waybill_version BLOB NOT NULL, _rescued TEXT, PRIMARY KEY ("ID"));
CREATE TABLE IF NOT EXISTS "item" ("ItemID" INTEGER NOT NULL, "Price" TEXT, "v" INTEGER, _waybill_version BLOB NOT NULL, _rescued TEXT, "Category" INTEGER, PRIMARY KEY ("ItemID"));
INSERT INTO item VALUES(1,'19.90',1,X'c0810b00020201a213e75ba27055b0120ff3cf4c116577617962696c6c00000101010100eeb4f30f148cf7da',NULL,NULL);
INSERT INTO item VALUES(2,'5.00',1,X'c0810b00020201a213e75ba27055b0120ff3cf4c116577617962696c6c00000101010200588f08aebdc2f3c9',NULL,NULL);
CREATE TABLE IF NOT EXISTS "Log" (_waybill_file TEXT NOT NULL, _waybill_row INTEGER NOT NULL, _rescued TEXT, "kind" TEXT, "n" INTEGER, PRIMARY KEY (_waybill_file, _waybill_row));
INSERT INTO Log VALUES('export:waybill/01a213e7-5bbf-7345-824d-81db450bb5d8',1,NULL,'error',1);
INSERT INTO Log VALUES('export:waybill/01a213e7-5bbf-7345-824d-81db450bb5d8',2,NULL,'info',2);
CREATE INDEX _waybill_parked_missing ON _waybill_parked (missing_entity, missing_key);
COMMIT;
