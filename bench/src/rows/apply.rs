//! Rows 8 and 9: a file of changes into a table that holds half of the ids already. Row 17: rows that waited for one parent.

use std::{fs, path::Path, process::Command, rc::Rc};

use anyhow::{Context as _, Result, ensure};

use super::{Row, Setting, absent};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    data::{Layout, Set},
    program::Program,
};

const OURS: &str = "waybill";
const REFERRING: &str = "waybill, with references";
const EXECUTEMANY: &str = "Python executemany";
const BY_HAND: &str = "zcat | \\copy + merge";
const PSYCOPG: &str = "psycopg executemany";
const UPSERT: &str = "C upsert, sorted";
const IMPORT: &str = "zcat | .import + merge";
const IN_SQLITE: &str = "waybill, SQLite";
const IN_POSTGRES: &str = "waybill, PostgreSQL";
/// What a reference costs in SQLite.
const LOOKED_FOR: &str = "each row's parent is looked for in its table, a statement of its own beside the upsert";
const CHANGED: &str =
    "change, sku, name, gtin, price, currency, unit, vat, stock, categories, attributes, updated_at, version";

/// The table before, and the changes.
fn sets(setting: &Setting) -> (Set, Set) {
    (setting.set("base", 500_000, 25_000, 8), setting.set("changes", 1_000_000, 50_000, 7))
}

/// What every column holds in the end, added up so that another value, row or order of keys is another sum.
fn sums(cents: impl Fn(&str) -> String) -> String {
    format!(
        "select count(*), sum(version % 1000003), sum(id % 1009 * version % 1000033), sum(stock * (id % 1009)), \
         sum(length(name) * (id % 997)), sum(length(sku || gtin || currency || unit || change) * (id % 883)), \
         sum({} * (id % 991)), sum({} * (id % 877)) from item",
        cents("price"),
        cents("vat")
    )
}

pub(crate) const POSTGRES: Row = Row {
    number: "8",
    name: "postgres",
    title: "A file of changes into PostgreSQL",
    meaning: "A million changes from a .jsonl.gz, 2 % of the ids twice, into a table of 500,000 rows, half of which they change: the last \
              version wins. We decode and check JSON, number the rows' versions, note tombstones and progress, and commit every 16 MiB of \
              them, so that a crash costs little. With references every row has a parent of its own in another table, and none is \
              missing. CPU and memory are the client's.",
    limit: "what the server takes for the rows alone: `psql` gets CSV of them, which the server parses itself, and merges it in one \
            statement. The server is durable, and shares the two cores.",
    targets: &[
        Target::at_most(OURS, 1.0, BY_HAND).if_missed(
            "the same within what rounds differ by, 0.71 to 1.10 times: the server's time, in which each commit of 16 MiB is safe on its own",
        ),
        Target::at_least(OURS, 3.0, PSYCOPG),
        Target::at_most(REFERRING, 1.2, OURS).if_missed(
            "the time is the server's, which looks for a million parents in a table of as many rows beside the upsert; where it goes \
             there is not profiled",
        ),
    ],
    make: postgres,
};

fn postgres(setting: &Setting) -> Result<Bench> {
    let (base, changes) = sets(setting);
    let (lines, rows) = (setting.data.gzip(changes, Layout::JsonLines)?, setting.data.gzip(changes, Layout::Csv)?);
    let mut missing = Vec::new();
    let (mut contenders, mut keep) = (Vec::new(), Vec::<Box<dyn std::any::Any>>::new());
    if let Some(server) = Server::of(setting) {
        let base_rows = setting.data.plain(base, Layout::Csv)?;
        let base_lines = setting.data.gzip(base, Layout::JsonLines)?;
        server.make("bench_ours_base")?;
        ours(setting, &server.database("bench_ours_base"), &base_lines).run()?;
        server.make("bench_referring_base")?;
        referring(setting, &server.database("bench_referring_base"), &base_lines, Some(changes.rows)).run()?;
        server.make("bench_peers_base")?;
        server.psql(
            "bench_peers_base",
            &[
                &format!("create unlogged table raw {TABLE}"),
                &format!(r"\copy raw from '{}' (format csv, header)", base_rows.display()),
                &format!("create table item {TABLE}"),
                "alter table item add primary key (id)",
                "insert into item select distinct on (id) * from raw order by id, version desc",
                "drop table raw",
                "vacuum analyze item",
            ],
        )?;
        let server = Rc::new(server);
        let fresh = |base: &'static str| {
            let server = Rc::clone(&server);
            move || {
                server.remove(RUN)?;
                server.psql("postgres", &[&format!("create database {RUN} template {base}"), "checkpoint"]).map(drop)
            }
        };
        let found = || {
            let sums = server.sums();
            move |_: &_| sums()
        };
        let run = server.database(RUN);
        contenders
            .push(Contender::new(OURS, ours(setting, &run, &lines)).before(fresh("bench_ours_base")).found_by(found()));
        contenders.push(
            Contender::new(REFERRING, referring(setting, &run, &lines, None))
                .before(fresh("bench_referring_base"))
                .found_by(found()),
        );
        let psql = Program::new("psql").args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", &run]);
        let by_hand = psql.args([
            "-c".to_owned(),
            format!("create unlogged table staging {TABLE}"),
            "-c".to_owned(),
            format!(r"\copy staging from program 'zcat {}' (format csv, header)", rows.display()),
            "-c".to_owned(),
            format!(
                "insert into item select distinct on (id) * from staging order by id, version desc \
                 on conflict (id) do update set ({CHANGED}) = ({}) where item.version < excluded.version",
                CHANGED.split(", ").map(|column| format!("excluded.{column}")).collect::<Vec<_>>().join(", ")
            ),
            "-c".to_owned(),
            "drop table staging".to_owned(),
        ]);
        contenders.push(Contender::new(BY_HAND, by_hand).before(fresh("bench_peers_base")).found_by(found()));
        match &setting.tools.python {
            Some(python) => {
                let program = Program::new(python).args([setting.tools.peer("apply.py")]).args(["postgres", &run]);
                contenders.push(
                    Contender::new(PSYCOPG, program.args([&lines]))
                        .before(fresh("bench_peers_base"))
                        .found_by(found())
                        .at_most_rounds(3),
                );
            }
            None => absent(&mut missing, PSYCOPG, "cargo xtask bench prepares a Python environment"),
        }
        keep.push(Box::new(Dropped(server)));
    } else {
        absent(&mut missing, "PostgreSQL", "apt-get install postgresql");
    }
    Ok(Bench { contenders, missing, keep })
}

/// The database in which a contender works.
pub(super) const RUN: &str = "bench_run";
const TABLE: &str = "(id bigint, change text, sku text, name text, gtin text, price numeric(12,2), currency text, unit text, \
                     vat numeric(5,2), stock int, categories text, attributes jsonb, updated_at timestamptz, version bigint)";

fn ours(setting: &Setting, sink: &str, file: &Path) -> Program {
    Program::new(setting.tools.ours("waybill-bench")).args(["work", "apply", "--sink", sink]).args([file])
}

/// Where every row has a parent, first so many of these.
fn referring(setting: &Setting, sink: &str, file: &Path, parents: Option<u64>) -> Program {
    let program = ours(setting, sink, file).arg("--referring");
    match parents {
        Some(parents) => program.args(["--parents".to_owned(), parents.to_string()]),
        None => program,
    }
}

/// A PostgreSQL server of which we have all rights.
pub(super) struct Server {
    /// `postgres://USER@HOST:PORT/postgres`.
    url: String,
}

impl Server {
    pub(super) fn of(setting: &Setting) -> Option<Self> {
        setting.tools.program("psql")?;
        setting.tools.postgres.clone().map(|url| Self { url })
    }

    pub(super) fn database(&self, name: &str) -> String {
        let (server, _) = self.url.rsplit_once('/').unwrap_or((&self.url, ""));
        format!("{server}/{name}")
    }

    /// Runs commands one after the other, and gives what the last one prints.
    pub(super) fn psql(&self, database: &str, commands: &[&str]) -> Result<String> {
        let mut psql = Command::new("psql");
        psql.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", &self.database(database)]);
        commands.iter().for_each(|command| {
            psql.args(["-c", command]);
        });
        let output = psql.output().context("psql cannot be started")?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.psql("postgres", &[&format!("drop database if exists {name} with (force)")]).map(drop)
    }

    pub(super) fn make(&self, name: &str) -> Result<()> {
        self.remove(name)?;
        self.psql("postgres", &[&format!("create database {name}")]).map(drop)
    }

    /// What a contender's table holds.
    pub(super) fn sums(self: &Rc<Self>) -> impl Fn() -> Result<String> + use<> {
        let server = Rc::clone(self);
        let sums = sums(|column| format!("({column} * 100)::bigint"));
        move || server.psql(RUN, &[&sums])
    }
}

/// Dropped, the databases are.
pub(super) struct Dropped(pub(super) Rc<Server>);

impl Drop for Dropped {
    fn drop(&mut self) {
        for name in [RUN, "bench_ours_base", "bench_referring_base", "bench_peers_base"] {
            if let Err(error) = self.0.remove(name) {
                eprintln!("   {name} stays: {error:#}");
            }
        }
    }
}

pub(crate) const SQLITE: Row = Row {
    number: "9",
    name: "sqlite",
    title: "A file of changes into SQLite",
    meaning: "The same changes into SQLite. We get .jsonl.gz in the file's order, sort it in a temporary file, and keep tombstones, order \
              and progress, in transactions of 4 MiB of rows. With references every row has a parent of its own in another table, and none \
              is missing.",
    limit: "a C program that gets them parsed, in the order of their keys, and does nothing but upsert them in one transaction.",
    targets: &[
        Target::at_most(OURS, 1.6, UPSERT).if_missed(
            "one thread writes, as SQLite wants it, and is busy nine tenths of the time: values are bound, versions compared, and every \
             4 MiB are committed and brought to their place",
        ),
        Target::at_least(OURS, 2.5, EXECUTEMANY),
        Target::no_more(OURS, 256.0, Figure::PeakMib),
        Target::at_most(REFERRING, 1.2, OURS).if_missed(LOOKED_FOR),
    ],
    make: sqlite,
};

fn sqlite(setting: &Setting) -> Result<Bench> {
    let (base, changes) = sets(setting);
    let (lines, rows) = (setting.data.gzip(changes, Layout::JsonLines)?, setting.data.gzip(changes, Layout::Csv)?);
    let base_lines = setting.data.gzip(base, Layout::JsonLines)?;
    let folder = tempfile::tempdir_in(setting.data.path(""))?;
    let [run, ours_base, referring_base, peers_base] =
        ["run", "ours", "referring", "peers"].map(|name| folder.path().join(format!("{name}.sqlite")));
    let mut missing = Vec::new();

    ours(setting, &sqlite_sink(&ours_base), &base_lines).run()?;
    referring(setting, &sqlite_sink(&referring_base), &base_lines, Some(changes.rows)).run()?;
    for base in [&ours_base, &referring_base] {
        // So that a copy of the file is a copy of all.
        sqlite3(base, "pragma wal_checkpoint(truncate)")?;
    }
    sqlite3(
        &peers_base,
        "pragma journal_mode=wal; create table item(id integer primary key, change, sku, name, gtin, price, currency, unit, vat, stock integer, categories, attributes, updatedAt, version integer)",
    )?;
    let fresh = |base: &Path| {
        let (base, run) = (base.to_owned(), run.clone());
        move || {
            remove_sqlite(&run)?;
            fs::copy(&base, &run)?;
            // What is still to be written to disk is nobody's work.
            fs::File::open(&run)?.sync_all()?;
            Ok(())
        }
    };
    let found = || {
        let sums = sqlite_sums(&run);
        move |_: &_| sums()
    };
    let mut contenders = vec![
        Contender::new(OURS, ours(setting, &sqlite_sink(&run), &lines)).before(fresh(&ours_base)).found_by(found()),
        Contender::new(REFERRING, referring(setting, &sqlite_sink(&run), &lines, None))
            .before(fresh(&referring_base))
            .found_by(found()),
    ];
    match setting.tools.built.iter().map(|folder| folder.join("upsert")).find(|path| path.exists()) {
        Some(program) => {
            let (base, sorted) =
                (setting.data.plain(base, Layout::SortedTabs)?, setting.data.plain(changes, Layout::SortedTabs)?);
            Program::new(&program).args([&peers_base, &base]).run()?;
            sqlite3(&peers_base, "pragma wal_checkpoint(truncate)")?;
            let program = Program::new(program).args([&run, &sorted]);
            contenders.push(Contender::new(UPSERT, program).before(fresh(&peers_base)).found_by(found()));
            let import = Program::new("sqlite3").args(["-bail", "-batch"]).args([&run]).args(import_and_merge(&rows));
            contenders.push(Contender::new(IMPORT, import).before(fresh(&peers_base)).found_by(found()));
        }
        None => absent(&mut missing, UPSERT, "apt-get install gcc libsqlite3-dev"),
    }
    match &setting.tools.python {
        Some(python) if contenders.len() > 2 => {
            let program = Program::new(python).args([setting.tools.peer("apply.py")]).args(["sqlite"]);
            contenders.push(
                Contender::new(EXECUTEMANY, program.args([&run, &lines]))
                    .before(fresh(&peers_base))
                    .found_by(found())
                    .at_most_rounds(3),
            );
        }
        _ => absent(&mut missing, EXECUTEMANY, "cargo xtask bench prepares a Python environment"),
    }
    Ok(Bench { contenders, missing, keep: vec![Box::new(folder)] })
}

pub(crate) const RELEASE: Row = Row {
    number: "17",
    name: "release",
    title: "Children of one parent, released",
    meaning: "100,000 rows (20,000 with `--quick`) wait for one row of another table. Timed is the file with that row, which brings all of \
              them into effect in its own transaction, to the commit.",
    limit: "what as many rows take that wait for nothing, a tenth of rows 8 and 9: they are written once more, and what waited is deleted.",
    targets: &[Target::no_more(IN_SQLITE, 2.0, Figure::Seconds), Target::no_more(IN_POSTGRES, 2.0, Figure::Seconds)],
    make: release,
};

fn release(setting: &Setting) -> Result<Bench> {
    let children = setting.rows.unwrap_or(if setting.quick { 20_000 } else { 100_000 }).to_string();
    let program = |sink: &str| {
        Program::new(setting.tools.ours("waybill-bench")).args(["work", "release", "--sink", sink, &children])
    };
    let folder = tempfile::tempdir_in(setting.data.path(""))?;
    let path = folder.path().join("release.sqlite");
    let (mut missing, mut keep) = (Vec::new(), Vec::<Box<dyn std::any::Any>>::new());
    let sink = sqlite_sink(&path);
    let fresh = move || remove_sqlite(&path);
    let mut contenders = vec![Contender::new(IN_SQLITE, program(&sink)).before(fresh)];
    match Server::of(setting) {
        Some(server) => {
            let server = Rc::new(server);
            let fresh = Rc::clone(&server);
            contenders
                .push(Contender::new(IN_POSTGRES, program(&server.database(RUN))).before(move || fresh.make(RUN)));
            keep.push(Box::new(Dropped(server)));
        }
        None => absent(&mut missing, "PostgreSQL", "apt-get install postgresql"),
    }
    keep.push(Box::new(folder));
    Ok(Bench { contenders, missing, keep })
}

/// Removes a database, if it is there.
fn remove_sqlite(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        match fs::remove_file(format!("{}{suffix}", path.display())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn sqlite_sink(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// What the table in a file holds.
pub(super) fn sqlite_sums(path: &Path) -> impl Fn() -> Result<String> + use<> {
    let path = path.to_owned();
    let sums = sums(|column| format!("cast(round(cast({column} as real) * 100) as integer)"));
    move || sqlite3(&path, &sums)
}

/// What a person types: the rows into a table beside, and from there in the order of their keys.
fn import_and_merge(rows: &Path) -> Vec<String> {
    let columns: Vec<String> =
        format!("id, {CHANGED}").replace("updated_at", "updatedAt").split(", ").map(str::to_owned).collect();
    let staging = format!("create temp table staging({})", columns.join(", "));
    let changed: Vec<String> = columns.iter().skip(1).map(|column| format!("{column} = excluded.{column}")).collect();
    let merge = format!(
        "insert into item select {} from staging order by cast(id as integer) \
         on conflict (id) do update set {} where item.version < excluded.version",
        columns.join(", "),
        changed.join(", ")
    );
    let import = format!(".import --csv --skip 1 --schema temp \"|zcat '{}'\" staging", rows.display());
    let quick = "pragma synchronous=full; pragma cache_size=-65536; pragma temp_store=memory".to_owned();
    vec![quick, staging, import, merge]
}

/// Runs a statement, and gives what it prints.
fn sqlite3(path: &Path, statement: &str) -> Result<String> {
    let output = Command::new("sqlite3").arg(path).arg(statement).output().context("sqlite3 cannot be started")?;
    ensure!(output.status.success(), "sqlite3: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
