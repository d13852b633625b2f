-- The progress of a folder of schema 1.
PRAGMA application_id = 1463960649;
PRAGMA user_version = 1;
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE progress (
    file TEXT NOT NULL PRIMARY KEY,
    blob_type TEXT NOT NULL,
    rows INTEGER NOT NULL,
    done INTEGER NOT NULL,
    good_rows INTEGER NOT NULL,
    bad_rows INTEGER NOT NULL,
    good_bytes INTEGER NOT NULL,
    bad_bytes INTEGER NOT NULL
);
INSERT INTO progress VALUES('export:waybill/01a213e7-612a-7680-bd6d-3c4022016727','Log',2,1,2,0,45,0);
INSERT INTO progress VALUES('export:waybill/01a213e7-610e-7613-b158-75b7d2ec625d','ItemChanges',5,1,5,0,153,0);
COMMIT;
