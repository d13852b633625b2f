//! Rows 11 to 14: the bus, and all of it together.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Result, ensure};

use super::{Row, Setting, absent, apply};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    data::{Layout, Set},
    program::Program,
    servers::{Azurite, Local},
};

const TOPIC: &str = "exports";
const CONTAINER: &str = "batchtoprocess";
const OURS_TO_SQLITE: &str = "waybill → SQLite";
const OURS_TO_POSTGRES: &str = "waybill → PostgreSQL";
const REMOVING_TO_SQLITE: &str = "waybill, and unwanted rows take away older ones → SQLite";
const REMOVING_TO_POSTGRES: &str = "waybill, and unwanted rows take away older ones → PostgreSQL";
const PEER_TO_SQLITE: &str = "Python SDK → SQLite";
const PEER_TO_POSTGRES: &str = "Python SDK → PostgreSQL";
const FAST_PEER_TO_SQLITE: &str = "Python SDK, isal + orjson → SQLite";

pub(super) fn subscription(name: &str) -> String {
    format!("{TOPIC}/subscriptions/{name}")
}

const OURS: &str = "waybill";
const PEER: &str = "Python SDK";
const JAVASCRIPT: &str = "JavaScript SDK";

pub(crate) const RECEIVE: Row = Row {
    number: "11",
    name: "receive",
    title: "Messages from the bus to disk",
    meaning: "Messages of 1 KiB wait in a subscription of `waybill-local`; each is saved in SQLite and then completed. The peer saves what \
              one call brings, at most 100, with one commit. Time counts from the opening of the inbox to the last message that is \
              completed.",
    limit: "saving them (row 10), and what the broker takes to deliver and settle them: it shares the two cores.",
    targets: &[
        Target::at_least(OURS, 4.0, PEER).if_missed(
            "three quarters of the processor time are the inbox's, which is SQLite's own work for a row, its index entries and a line of \
             history (row 10); the peer keeps one table with one index",
        ),
        Target::no_less(OURS, 10_000.0, Figure::Said("messages/s")),
    ],
    make: receive,
};

fn receive(setting: &Setting) -> Result<Bench> {
    let messages = setting.rows.unwrap_or(if setting.quick { 10_000 } else { 100_000 });
    let local = Rc::new(Local::start(&setting.tools, &["ours", "peer"])?);
    let folder = tempfile::tempdir_in(setting.data.path(""))?;
    let bus = local.ready.service_bus_connection_string.clone();
    let blob = local.ready.blob_connection_string.clone();
    let database = folder.path().join("inbox.sqlite");
    let settled = |name: &'static str| {
        let local = Rc::clone(&local);
        move |sample: &crate::program::Sample| {
            let left = local.left(&subscription(name))?;
            Ok(format!("{}, {left} left", sample.result))
        }
    };
    let own = || Program::new(setting.tools.ours("waybill-bench")).arg("work");
    // One message for each of the two subscriptions.
    let send = own().args(["send", "--bus", &bus, "--blob", &blob, "--topic", TOPIC, &messages.to_string()]);
    let mut missing = Vec::new();
    let program = own().args(["receive", "--bus", &bus, "--blob", &blob, "--container", CONTAINER]);
    let program = program.args(["--entity", &subscription("ours"), &messages.to_string()]).args([&database]);
    let emptied = folder.path().to_owned();
    let mut contenders = vec![
        Contender::new(OURS, program)
            .before(move || {
                empty(&emptied)?;
                send.output().map(drop)
            })
            .found_by(settled("ours")),
    ];
    match &setting.tools.python {
        Some(python) => {
            let program = Program::new(python).args([setting.tools.peer("subscriber.py")]);
            let program = program.args(["receive", &bus, TOPIC, "peer"]).args([&database]).arg(messages.to_string());
            let emptied = folder.path().to_owned();
            contenders.push(
                Contender::new(PEER, program)
                    .before(move || empty(&emptied))
                    .found_by(settled("peer"))
                    .at_most_rounds(3),
            );
        }
        None => absent(&mut missing, PEER, "cargo xtask bench prepares a Python environment"),
    }
    Ok(Bench { contenders, missing, keep: vec![Box::new(local), Box::new(folder)] })
}

/// Why SQLite is no quicker.
const ONE_WRITER: &str = "one thread writes, as SQLite wants it, and is busy for more than four fifths of the time: a commit touches about as many pages as \
                          it has rows, which are written into the log and out of it";

pub(crate) const BLOBS: Row = Row {
    number: "12",
    name: "blobs",
    title: "End to end: 16 blobs from Azurite to a table",
    meaning: "Two million rows in 16 files: messages from `waybill-local`, files from Azurite; the rows whose currency is SEK go to an empty \
              table. Time counts from the first connection to the last file that is done and settled. The Python subscriber is one process, \
              as Microsoft's examples are: it saves the message, downloads, unpacks, parses, upserts with `executemany` or COPY and merge, \
              and completes. Rows of other currencies are forgotten by both (`on_unwanted = \"drop\"`), which comes to the right table \
              where a row's currency never changes. By default each takes away an older row of its key and leaves a tombstone with its \
              version: those lines are beside the targets.",
    limit: "reading the rows (row 3), and writing every seventh (rows 8 and 9). Azurite and the database share the two cores.",
    targets: &[
        Target::at_least(OURS_TO_POSTGRES, 4.0, PEER_TO_POSTGRES),
        Target::at_least(OURS_TO_SQLITE, 6.0, PEER_TO_SQLITE).if_missed(ONE_WRITER),
    ],
    make: blobs,
};

fn blobs(setting: &Setting) -> Result<Bench> {
    // Every id once: so leaving out a row of another currency is the same as taking away what stood there.
    let set = setting.set("apart", 2_000_000, 64_000, 11);
    let mut row = EndToEnd::new(setting, set, 16, "azurite")?;
    row.add_sqlite();
    row.add_fast_sqlite();
    row.add_postgres();
    Ok(row.bench())
}

pub(crate) const SMALL_FILES: Row = Row {
    number: "13",
    name: "small-files",
    title: "End to end: small files to a table",
    meaning: "500 files of 1,000 rows (50 with `--quick`), messages and files from `waybill-local`: what a file costs, and not a row. Rows that are \
              not wanted are as in row 12.",
    limit: "for each file a message saved and settled, a download, and a commit of the table and one of the inbox that wait for the disk.",
    targets: &[Target::at_least(OURS_TO_SQLITE, 4.0, PEER_TO_SQLITE).if_missed(ONE_WRITER)],
    make: small_files,
};

fn small_files(setting: &Setting) -> Result<Bench> {
    let set = setting.set("small", 500_000, 50_000, 12);
    let files = (set.rows / 1_000).max(1);
    let mut row = EndToEnd::new(setting, set, files, "local")?;
    row.add_sqlite();
    row.add_fast_sqlite();
    Ok(row.bench())
}

/// Files that are published for every round, to a subscription for each contender.
struct EndToEnd<'s> {
    setting: &'s Setting,
    local: Rc<Local>,
    bus: String,
    blob: String,
    files: u64,
    paths: Vec<PathBuf>,
    folder: tempfile::TempDir,
    /// Whether this round's files were published.
    published: Rc<Cell<u64>>,
    contenders: Vec<Contender>,
    missing: Vec<String>,
    keep: Vec<Box<dyn std::any::Any>>,
}

/// The subscriptions, in the order in which they are read.
const READERS: [&str; 7] =
    ["ours-lite", "remove-lite", "peer-lite", "fast-lite", "ours-post", "remove-post", "peer-post"];

impl<'s> EndToEnd<'s> {
    fn new(setting: &'s Setting, set: Set, files: u64, storage: &str) -> Result<Self> {
        let paths = setting.data.parts_apart(set, Layout::JsonLines, files)?;
        let local = Rc::new(Local::start(&setting.tools, &READERS)?);
        let bus = local.ready.service_bus_connection_string.clone();
        let (mut missing, mut keep) = (Vec::new(), Vec::<Box<dyn std::any::Any>>::new());
        let mut blob = local.ready.blob_connection_string.clone();
        if storage == "azurite" {
            match &setting.tools.node {
                Some(node) => {
                    let azurite = Azurite::start(node)?;
                    blob = azurite.connection_string.clone();
                    let make = Program::new("node").args([setting.tools.peer("container.cjs")]).args([node]);
                    make.args([blob.as_str(), CONTAINER]).output()?;
                    keep.push(Box::new(azurite));
                }
                None => absent(&mut missing, "Azurite, `waybill-local` stands for it", "npm"),
            }
        }
        let folder = tempfile::tempdir_in(setting.data.path(""))?;
        let published = Rc::new(Cell::new(0));
        Ok(Self { setting, local, bus, blob, files, paths, folder, published, contenders: Vec::new(), missing, keep })
    }

    fn own(&self) -> Program {
        Program::new(self.setting.tools.ours("waybill-bench")).arg("work")
    }

    /// Before each run; before the first of a round the files are published.
    fn before<F: Fn() -> Result<()>>(&self, reset: F) -> impl Fn() -> Result<()> + use<F> {
        let is_first = self.contenders.is_empty();
        let publish = self.own().args(["publish", "--bus", &self.bus, "--blob", &self.blob, "--topic", TOPIC]);
        let state = self.folder.path().join("outbox");
        let publish = publish.args(["--container", CONTAINER, "--state"]).args([&state]).args(&self.paths);
        let published = Rc::clone(&self.published);
        move || {
            if is_first {
                publish.output()?;
                published.set(published.get() + 1);
            }
            reset()
        }
    }

    fn add(
        &mut self,
        name: &'static str,
        reader: &'static str,
        program: Program,
        rounds_max: usize,
        reset: impl Fn() -> Result<()> + 'static,
        sums: impl Fn() -> Result<String> + 'static,
    ) {
        let local = Rc::clone(&self.local);
        let before = self.before(reset);
        let contender =
            Contender::new(name, program).before(before).at_most_rounds(rounds_max).found_by(move |sample| {
                let left = local.left(&subscription(reader))?;
                ensure!(left == 0, "{left} messages are left");
                Ok(format!("{}; {}", sample.result, sums()?))
            });
        self.contenders.push(contender);
    }

    fn ours(&self, reader: &str, sink: &str, on_unwanted: &str) -> Program {
        let program = self.own().args(["subscribe", "--bus", &self.bus, "--blob", &self.blob]);
        let program = program.args(["--container", CONTAINER, "--entity", &subscription(reader), "--sink", sink]);
        program
            .args(["--on-unwanted", on_unwanted])
            .arg(self.files.to_string())
            .args([self.folder.path().join("run/inbox.sqlite")])
    }

    fn peer(&mut self, name: &'static str, reader: &str, target: &str, database: &Path) -> Option<Program> {
        let Some(python) = &self.setting.tools.python else {
            absent(&mut self.missing, name, "cargo xtask bench prepares a Python environment");
            return None;
        };
        let program = Program::new(python).args([self.setting.tools.peer("subscriber.py")]);
        let program = program.args(["run", &self.bus, TOPIC, reader, &self.blob, target]);
        Some(program.args([database]).arg(self.files.to_string()))
    }

    fn sqlite(&self) -> (PathBuf, impl Fn() -> Result<()> + use<>, impl Fn() -> Result<String> + use<>) {
        let run = self.folder.path().join("run");
        let database = run.join("table.sqlite");
        let sums = apply::sqlite_sums(&database);
        (database, move || empty(&run), sums)
    }

    fn add_sqlite(&mut self) {
        let (database, reset, sums) = self.sqlite();
        let sink = format!("sqlite:{}", database.display());
        let program = self.ours("ours-lite", &sink, "drop");
        self.add(OURS_TO_SQLITE, "ours-lite", program, usize::MAX, reset, sums);
        let (_, reset, sums) = self.sqlite();
        let program = self.ours("remove-lite", &sink, "remove");
        self.add(REMOVING_TO_SQLITE, "remove-lite", program, usize::MAX, reset, sums);
        let (database, reset, sums) = self.sqlite();
        if let Some(program) = self.peer(PEER_TO_SQLITE, "peer-lite", "sqlite", &database) {
            self.add(PEER_TO_SQLITE, "peer-lite", program, 3, reset, sums);
        }
    }

    fn add_fast_sqlite(&mut self) {
        let (database, reset, sums) = self.sqlite();
        if let Some(program) = self.peer(FAST_PEER_TO_SQLITE, "fast-lite", "sqlite", &database) {
            self.add(FAST_PEER_TO_SQLITE, "fast-lite", program.arg("fast"), 3, reset, sums);
        }
    }

    fn add_postgres(&mut self) {
        let Some(server) = apply::Server::of(self.setting) else {
            absent(&mut self.missing, "PostgreSQL", "apt-get install postgresql");
            return;
        };
        let server = Rc::new(server);
        let address = server.database(apply::RUN);
        let (run, database) = (self.folder.path().join("run"), self.folder.path().join("run/unused"));
        let reset = || {
            let (server, run) = (Rc::clone(&server), run.clone());
            move || {
                empty(&run)?;
                server.make(apply::RUN)
            }
        };
        let program = self.ours("ours-post", &address, "drop");
        self.add(OURS_TO_POSTGRES, "ours-post", program, usize::MAX, reset(), server.sums());
        let program = self.ours("remove-post", &address, "remove");
        self.add(REMOVING_TO_POSTGRES, "remove-post", program, usize::MAX, reset(), server.sums());
        if let Some(program) = self.peer(PEER_TO_POSTGRES, "peer-post", &address, &database) {
            self.add(PEER_TO_POSTGRES, "peer-post", program, 3, reset(), server.sums());
        }
        self.keep.push(Box::new(apply::Dropped(server)));
    }

    fn bench(self) -> Bench {
        let Self { contenders, missing, mut keep, local, folder, .. } = self;
        keep.extend([Box::new(local) as Box<dyn std::any::Any>, Box::new(folder)]);
        Bench { contenders, missing, keep }
    }
}

pub(crate) const BUS: Row = Row {
    number: "14",
    name: "bus",
    title: "`waybill-local` under Microsoft's JavaScript SDK",
    meaning: "Messages of 1 KiB, sent in batches of 100, then received and completed. What counts is the processor time of `waybill-local` \
              for a message, both ways together.",
    limit: "the SDK's own processor time, which is ten times as much: a server that takes less is not noticed.",
    targets: &[Target::no_more(JAVASCRIPT, 15.0, Figure::Said("µs of the server's CPU a message"))],
    make: bus,
};

fn bus(setting: &Setting) -> Result<Bench> {
    let messages = setting.rows.unwrap_or(if setting.quick { 10_000 } else { 100_000 });
    let (mut contenders, mut missing, mut keep) = (Vec::new(), Vec::new(), Vec::<Box<dyn std::any::Any>>::new());
    match (&setting.tools.node, setting.tools.program("node")) {
        (Some(packages), Some(node)) => {
            let local = Local::start(&setting.tools, &["unused"])?;
            let beside = Program::new(setting.tools.ours("waybill-bench")).args(["work", "beside"]);
            let beside = beside.args(["--pid", &local.pid().to_string(), "--messages", &messages.to_string(), "--"]);
            let program = beside.args([node]).args([setting.tools.peer("bus.cjs")]).args([packages]);
            let program =
                program.args([local.ready.service_bus_connection_string.as_str(), "bench", &messages.to_string()]);
            contenders.push(Contender::new(JAVASCRIPT, program));
            keep.push(Box::new(local));
        }
        _ => absent(&mut missing, "Microsoft's JavaScript SDK", "npm; cargo xtask bench installs it"),
    }
    Ok(Bench { contenders, missing, keep })
}

/// Makes the folder anew.
pub(super) fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(fs::create_dir_all(folder)?)
}
