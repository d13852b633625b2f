-- How far a file has come: rows that were written.
CREATE TABLE progress (
    file TEXT NOT NULL PRIMARY KEY,
    rows INTEGER NOT NULL,
    done INTEGER NOT NULL
);
