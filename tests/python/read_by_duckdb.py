"""Writes the lines of a packed file as DuckDB reads them: the only column of a CSV file whose delimiter occurs nowhere."""

import sys

import duckdb

LINES = """
SELECT line FROM read_csv(?, compression = 'gzip', columns = {'line': 'VARCHAR'}, delim = '\x01', quote = '', escape = '',
                          new_line = '\\n', header = false, auto_detect = false)
"""

for (line,) in duckdb.execute(LINES, [sys.argv[1]]).fetchall():
    sys.stdout.buffer.write(line.encode() + b"\n")
