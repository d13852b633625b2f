// The least that an upsert into SQLite can cost: rows of a tab-separated file in the order of their keys, one prepared
// statement, one transaction, WAL, synchronous=FULL; the last writer wins by version.
//   upsert DATABASE ROWS.tsv
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS 14
static sqlite3 *db;
static void sql(const char *s) {
  char *e = 0;
  if (sqlite3_exec(db, s, 0, 0, &e)) { fprintf(stderr, "%s: %s\n", s, e); exit(1); }
}

int main(int argc, char **argv) {
  if (argc != 3 || sqlite3_open(argv[1], &db)) return 2;
  sql("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-65536;");
  const char *upsert =
      "INSERT INTO item VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET change=excluded.change,"
      "sku=excluded.sku,name=excluded.name,gtin=excluded.gtin,price=excluded.price,currency=excluded.currency,"
      "unit=excluded.unit,vat=excluded.vat,stock=excluded.stock,categories=excluded.categories,"
      "attributes=excluded.attributes,updatedAt=excluded.updatedAt,version=excluded.version "
      "WHERE item.version<excluded.version";
  sqlite3_stmt *statement;
  if (sqlite3_prepare_v2(db, upsert, -1, &statement, 0)) return fprintf(stderr, "%s\n", sqlite3_errmsg(db)), 1;
  FILE *file = fopen(argv[2], "rb");
  if (!file) return perror(argv[2]), 1;
  sql("BEGIN IMMEDIATE");
  char *line = 0;
  size_t room = 0;
  ssize_t length;
  while ((length = getline(&line, &room, file)) > 0) {
    char *at = line;
    line[length - 1] = '\t';
    for (int column = 1; column <= COLUMNS; column++) {
      char *end = strchr(at, '\t');
      if (column == 1 || column == 10 || column == 14) sqlite3_bind_int64(statement, column, strtoll(at, 0, 10));
      else sqlite3_bind_text(statement, column, at, (int)(end - at), SQLITE_STATIC);
      at = end + 1;
    }
    if (sqlite3_step(statement) != SQLITE_DONE) return fprintf(stderr, "%s\n", sqlite3_errmsg(db)), 1;
    sqlite3_reset(statement);
  }
  sql("COMMIT");
  sqlite3_finalize(statement);
  sqlite3_close(db);
}
