-- To count the rows that could not be used.
CREATE INDEX inbox_bad ON inbox (bad_rows) WHERE bad_rows > 0;
