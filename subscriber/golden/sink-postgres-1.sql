-- The tables beside the rows, and the rows, of schema 1.
CREATE TABLE "Log" (
    _waybill_file text NOT NULL COLLATE pg_catalog."C",
    _waybill_row bigint NOT NULL,
    _rescued json,
    kind text,
    n bigint
);
CREATE TABLE _waybill_bad_row (
    file text NOT NULL COLLATE pg_catalog."C",
    "row" bigint NOT NULL,
    byte_offset bigint,
    reason text NOT NULL,
    problem text NOT NULL,
    bytes bytea NOT NULL,
    found_at timestamp with time zone NOT NULL
);
CREATE TABLE _waybill_column (
    table_name text NOT NULL COLLATE pg_catalog."C",
    field text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL,
    type text NOT NULL
);
CREATE TABLE _waybill_parked (
    id bigint NOT NULL,
    entity text NOT NULL COLLATE pg_catalog."C",
    key text NOT NULL COLLATE pg_catalog."C",
    version bytea NOT NULL,
    missing_entity text NOT NULL COLLATE pg_catalog."C",
    missing_key text NOT NULL COLLATE pg_catalog."C",
    "row" text NOT NULL,
    file text NOT NULL COLLATE pg_catalog."C",
    file_row bigint NOT NULL,
    parked_at timestamp with time zone NOT NULL
);
ALTER TABLE _waybill_parked ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME _waybill_parked_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE _waybill_progress (
    file text NOT NULL COLLATE pg_catalog."C",
    blob_type text NOT NULL,
    rows bigint NOT NULL,
    done boolean NOT NULL,
    inserted bigint DEFAULT 0 NOT NULL,
    updated bigint DEFAULT 0 NOT NULL,
    deleted bigint DEFAULT 0 NOT NULL,
    ignored bigint DEFAULT 0 NOT NULL,
    superseded bigint DEFAULT 0 NOT NULL,
    parked bigint DEFAULT 0 NOT NULL,
    released bigint DEFAULT 0 NOT NULL,
    bad bigint DEFAULT 0 NOT NULL,
    stored_bytes bigint,
    plain_bytes bigint,
    plain_sha256 text,
    began_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL
);
CREATE TABLE _waybill_schema (
    name text NOT NULL,
    version integer NOT NULL
);
CREATE TABLE _waybill_table (
    name text NOT NULL COLLATE pg_catalog."C",
    entity text COLLATE pg_catalog."C",
    blob_type text COLLATE pg_catalog."C",
    rule text NOT NULL,
    publisher text
);
CREATE TABLE _waybill_tombstone (
    entity text NOT NULL COLLATE pg_catalog."C",
    key text NOT NULL COLLATE pg_catalog."C",
    version bytea NOT NULL,
    deleted_at timestamp with time zone NOT NULL
);
CREATE TABLE category (
    "ID" text NOT NULL COLLATE pg_catalog."C",
    _waybill_version bytea NOT NULL,
    _rescued json
);
CREATE TABLE item (
    "ItemID" bigint NOT NULL,
    "Price" numeric,
    v bigint,
    _waybill_version bytea NOT NULL,
    _rescued json,
    "Category" bigint
);
INSERT INTO "Log" VALUES ('export:waybill/01a213e7-6696-776e-bcaa-c2f8d986cc74', 1, NULL, 'error', 1);
INSERT INTO "Log" VALUES ('export:waybill/01a213e7-6696-776e-bcaa-c2f8d986cc74', 2, NULL, 'info', 2);
INSERT INTO _waybill_bad_row VALUES ('export:waybill/01a213e7-6686-7291-918f-2f8632e0b602', 5, 132, 'bad-version', 'version field "v" is "x", no integer', '\x7b224974656d4944223a352c2276223a2278227d', '2026-11-25 18:11:01.974349+00');
INSERT INTO _waybill_column VALUES ('item', 'Price', 'Price', 'decimal');
INSERT INTO _waybill_column VALUES ('item', 'v', 'v', 'integer');
INSERT INTO _waybill_column VALUES ('item', 'Category', 'Category', 'integer');
INSERT INTO _waybill_column VALUES ('Log', 'kind', 'kind', 'text');
INSERT INTO _waybill_column VALUES ('Log', 'n', 'n', 'integer');
INSERT INTO _waybill_parked OVERRIDING SYSTEM VALUE VALUES (1, 'item', '3', '\xc0810b00020201a213e76683772a9224ca530afca5a677617962696c6c000001010103008d87e1251e055c09', 'category', '7', '{"ItemID":3,"v":1,"Category":7}', 'export:waybill/01a213e7-6686-7291-918f-2f8632e0b602', 3, '2026-11-25 18:11:01.974349+00');
INSERT INTO _waybill_progress VALUES ('export:waybill/01a213e7-6686-7291-918f-2f8632e0b602', 'ItemChanges', 5, true, 2, 0, 1, 0, 0, 1, 0, 1, 106, 153, NULL, '2026-11-25 18:11:01.974349+00', '2026-11-25 18:11:01.974349+00');
INSERT INTO _waybill_progress VALUES ('export:waybill/01a213e7-6696-776e-bcaa-c2f8d986cc74', 'Log', 2, true, 2, 0, 0, 0, 0, 0, 0, 0, 54, 45, NULL, '2026-11-25 18:11:01.976146+00', '2026-11-25 18:11:01.976146+00');
INSERT INTO _waybill_schema VALUES ('sink', 1);
INSERT INTO _waybill_table VALUES ('category', 'category', NULL, 'key (ID text), version (position)', NULL);
INSERT INTO _waybill_table VALUES ('item', 'item', NULL, 'key (ItemID integer), version (v number)', NULL);
INSERT INTO _waybill_table VALUES ('Log', NULL, 'Log', 'rows are added', NULL);
INSERT INTO _waybill_tombstone VALUES ('item', '4', '\xc0811500020201a213e76683772a9224ca530afca5a677617962696c6c00000101010401e137439031ef9a5a', '2026-11-25 18:11:01.974349+00');
INSERT INTO item VALUES (1, 19.90, 1, '\xc0810b00020201a213e76683772a9224ca530afca5a677617962696c6c00000101010100eeb4f30f148cf7da', NULL, NULL);
INSERT INTO item VALUES (2, 5.00, 1, '\xc0810b00020201a213e76683772a9224ca530afca5a677617962696c6c00000101010200588f08aebdc2f3c9', NULL, NULL);
ALTER TABLE ONLY "Log"
    ADD CONSTRAINT "Log_pkey" PRIMARY KEY (_waybill_file, _waybill_row);
ALTER TABLE ONLY _waybill_bad_row
    ADD CONSTRAINT _waybill_bad_row_pkey PRIMARY KEY (file, "row");
ALTER TABLE ONLY _waybill_column
    ADD CONSTRAINT _waybill_column_pkey PRIMARY KEY (table_name, field);
ALTER TABLE ONLY _waybill_parked
    ADD CONSTRAINT _waybill_parked_entity_key_key UNIQUE (entity, key);
ALTER TABLE ONLY _waybill_parked
    ADD CONSTRAINT _waybill_parked_pkey PRIMARY KEY (id);
ALTER TABLE ONLY _waybill_progress
    ADD CONSTRAINT _waybill_progress_pkey PRIMARY KEY (file);
ALTER TABLE ONLY _waybill_schema
    ADD CONSTRAINT _waybill_schema_pkey PRIMARY KEY (name);
ALTER TABLE ONLY _waybill_table
    ADD CONSTRAINT _waybill_table_blob_type_key UNIQUE (blob_type);
ALTER TABLE ONLY _waybill_table
    ADD CONSTRAINT _waybill_table_entity_key UNIQUE (entity);
ALTER TABLE ONLY _waybill_table
    ADD CONSTRAINT _waybill_table_pkey PRIMARY KEY (name);
ALTER TABLE ONLY _waybill_tombstone
    ADD CONSTRAINT _waybill_tombstone_pkey PRIMARY KEY (entity, key);
ALTER TABLE ONLY category
    ADD CONSTRAINT category_pkey PRIMARY KEY ("ID");
ALTER TABLE ONLY item
    ADD CONSTRAINT item_pkey PRIMARY KEY ("ItemID");
CREATE INDEX _waybill_parked_missing ON _waybill_parked USING btree (missing_entity, missing_key, id);
