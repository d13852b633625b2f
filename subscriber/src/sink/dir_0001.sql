-- How far a file has come: rows in effect, and the length of its files up to there.
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
