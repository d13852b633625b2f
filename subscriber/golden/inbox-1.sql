-- An inbox of schema 1, as the program of that time left it: a file done, a stream done, a file skipped.
PRAGMA application_id = 1463961934;
PRAGMA user_version = 1;
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE inbox (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    entity_path     TEXT    NOT NULL,
    broker_sequence INTEGER NOT NULL,
    enqueued_at     INTEGER NOT NULL,
    message_id      TEXT,
    state           TEXT    NOT NULL
        CHECK (state IN ('saved', 'working', 'done', 'quarantined', 'skipped', 'duplicate', 'expired')),
    reason          TEXT,
    problem         TEXT,
    body            TEXT    NOT NULL,
    received_at     INTEGER NOT NULL,
    changed_at      INTEGER NOT NULL,
    file_key        TEXT,
    blob_type       TEXT,
    correlation_id  TEXT,
    publisher       TEXT,
    epoch           TEXT,
    sequence        INTEGER,
    expires_at      INTEGER,
    due_at          INTEGER,
    attempts        INTEGER NOT NULL DEFAULT 0,
    worker          TEXT,
    leased_at       INTEGER,
    rows            INTEGER NOT NULL DEFAULT 0,
    bad_rows        INTEGER NOT NULL DEFAULT 0,
    stored_bytes    INTEGER,
    plain_bytes     INTEGER,
    -- The blob whose rows took effect, or may have.
    blob_etag       TEXT,
    blob_length     INTEGER,
    duplicate_of    INTEGER REFERENCES inbox (id),
    UNIQUE (entity_path, broker_sequence, enqueued_at)
);
INSERT INTO inbox VALUES(1,'exports/subscriptions/acme',1,1795630259117000000,'01a213e7-5ba5-7528-a802-5eecdf7a7027','done',NULL,NULL,'{"blobType":"ItemChanges","correlationId":"27c88a17-2139-400b-8db1-c8510ad0d713","contentType":"application/x-jsonlines","contentEncoding":"gzip","uri":"http://127.0.0.1:44617/devstoreaccount1/batchtoprocess/ItemChanges/2026-11-25/27c88a17-2139-400b-8db1-c8510ad0d713-fd023efe-76dd-4db9-b194-b1f852ba6b4e.jsonl.gz","properties":{"waybill":{"exportId":"01a213e7-5ba5-7528-a802-5eecdf7a7027","publisher":"waybill","epoch":"01a213e7-5ba2-7055-b012-0ff3cf4c1165","sequence":1,"rows":5,"bytes":106,"plainBytes":153,"plainSha256":"d73207794d34571743c8bdc8902cf3bc8913c972e4cf5e0f4cabfdcef382b0d7","sha256":"8b8f41c059bc2899d39d7f5415fabbfbf36117f6741e0e373575a48d4caafbac"}}}',1795630259185523345,1795630259191907486,'export:waybill/01a213e7-5ba5-7528-a802-5eecdf7a7027','ItemChanges','27c88a17-2139-400b-8db1-c8510ad0d713','waybill','01a213e7-5ba2-7055-b012-0ff3cf4c1165',1,NULL,NULL,1,NULL,NULL,5,0,106,153,NULL,NULL,NULL);
INSERT INTO inbox VALUES(2,'exports/subscriptions/acme',2,1795630259144000000,'01a213e7-5bbf-7345-824d-81db450bb5d8','done',NULL,NULL,'{"blobType":"Log","correlationId":"fcf71214-b815-4fc5-823b-d520b98cf064","contentType":"application/x-jsonlines","contentEncoding":"gzip","uri":"http://127.0.0.1:44617/devstoreaccount1/batchtoprocess/Log/2026-11-25/fcf71214-b815-4fc5-823b-d520b98cf064-2b8fee0f-7b5f-415c-b9da-b62af3665b72.jsonl.gz","properties":{"waybill":{"exportId":"01a213e7-5bbf-7345-824d-81db450bb5d8","publisher":"waybill","epoch":"01a213e7-5ba2-7055-b012-0ff3cf4c1165","sequence":1,"rows":2,"bytes":54,"plainBytes":45,"plainSha256":"cd1663af040e2c7f36600cc0148ee9713a3c20dc2a048cac84eccc5c33189b4b","sha256":"0b7de399fd2dcedfdac1cdd5b6f1198b80fb00fb30fe6149b1f09a8a24f76bfc"}}}',1795630259185523345,1795630259193337972,'export:waybill/01a213e7-5bbf-7345-824d-81db450bb5d8','Log','fcf71214-b815-4fc5-823b-d520b98cf064','waybill','01a213e7-5ba2-7055-b012-0ff3cf4c1165',1,NULL,NULL,1,NULL,NULL,2,0,54,45,NULL,NULL,NULL);
INSERT INTO inbox VALUES(3,'exports/subscriptions/acme',3,1795630259162000000,'01a213e7-5bd3-7450-9b44-423c013dc755','skipped',NULL,'outside the configured types','{"blobType":"Other","correlationId":"cd57f570-d248-4802-92ba-57db6128e45f","contentType":"text/csv","contentEncoding":"gzip","uri":"http://127.0.0.1:44617/devstoreaccount1/batchtoprocess/Other/2026-11-25/cd57f570-d248-4802-92ba-57db6128e45f-2fbc106a-d9b5-4285-9f30-ebd6d5593ee5.csv.gz","properties":{"waybill":{"exportId":"01a213e7-5bd3-7450-9b44-423c013dc755","publisher":"waybill","epoch":"01a213e7-5ba2-7055-b012-0ff3cf4c1165","sequence":1,"rows":1,"bytes":28,"plainBytes":8,"plainSha256":"492d5ea496056f1a6a6592241032fab764c321596317930b4fa0e1e8bc3b7470","sha256":"c673ba99fc93b762b856629b7ef768490f575c48d44071b7b66411b128b4638e"}}}',1795630259185523345,1795630260263007759,'export:waybill/01a213e7-5bd3-7450-9b44-423c013dc755','Other','cd57f570-d248-4802-92ba-57db6128e45f','waybill','01a213e7-5ba2-7055-b012-0ff3cf4c1165',1,NULL,NULL,0,NULL,NULL,0,0,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE history (
    id       INTEGER PRIMARY KEY,
    inbox_id INTEGER NOT NULL REFERENCES inbox (id),
    at       INTEGER NOT NULL,
    state    TEXT    NOT NULL,
    reason   TEXT,
    problem  TEXT,
    worker   TEXT
);
INSERT INTO history VALUES(1,1,1795630259185523345,'saved',NULL,NULL,NULL);
INSERT INTO history VALUES(2,2,1795630259185523345,'saved',NULL,NULL,NULL);
INSERT INTO history VALUES(3,3,1795630259185523345,'saved',NULL,NULL,NULL);
INSERT INTO history VALUES(4,1,1795630259186132749,'working',NULL,NULL,'17051-bc65ec7ef4bd454c8f69145f31334f22');
INSERT INTO history VALUES(5,2,1795630259186132749,'working',NULL,NULL,'17051-bc65ec7ef4bd454c8f69145f31334f22');
INSERT INTO history VALUES(6,1,1795630259191907486,'done',NULL,NULL,'17051-bc65ec7ef4bd454c8f69145f31334f22');
INSERT INTO history VALUES(7,2,1795630259193337972,'done',NULL,NULL,'17051-bc65ec7ef4bd454c8f69145f31334f22');
INSERT INTO history VALUES(8,3,1795630260263007759,'skipped',NULL,'outside the configured types',NULL);
CREATE TABLE place (
    endpoint      TEXT NOT NULL,
    container     TEXT NOT NULL,
    first_seen_at INTEGER NOT NULL,
    PRIMARY KEY (endpoint, container)
) WITHOUT ROWID;
INSERT INTO place VALUES('http://127.0.0.1:44617/devstoreaccount1','batchtoprocess',1795630259179516410);
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('inbox',3);
CREATE UNIQUE INDEX inbox_file ON inbox (file_key) WHERE state <> 'duplicate' AND file_key IS NOT NULL;
CREATE INDEX inbox_due ON inbox (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX inbox_state ON inbox (state, id);
CREATE INDEX inbox_type ON inbox (blob_type, id);
CREATE INDEX inbox_correlation ON inbox (correlation_id);
CREATE INDEX history_of ON history (inbox_id, id);
COMMIT;
