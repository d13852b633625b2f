//! The steps, in the order in which they fail fastest.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{debian, fuzz, leaks, node, postgres::Postgres, python};

/// Where tests find what was set up: the names are known to `tests/`.
pub(crate) struct SetUp {
    python: PathBuf,
    node: PathBuf,
    /// Runs as long as this lives.
    postgres: Postgres,
}

/// Asked of cargo as it runs this, not as it built it: several checkouts may share one target folder.
pub(crate) fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo xtask sets it");
    Path::new(&own).parent().expect("xtask lies in the workspace").to_owned()
}

/// Each runs with no arguments, and fails when it does not come to the end that it tells of.
const EXAMPLES: [&str; 12] = [
    "quickstart",
    "embed",
    "own_code",
    "at_night",
    "some_types",
    "replicas",
    "own_sink",
    "own_tokens",
    "own_service",
    "folder",
    "republish",
    "nightly",
];

/// Those of them that show the same in PostgreSQL.
const IN_POSTGRESQL: [&str; 2] = ["own_service", "replicas"];

/// What the tests need beside Rust, into the ignored folder `.cache/`.
pub(crate) fn set_up() -> Result<SetUp> {
    let cache = root().join(".cache");
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    if Command::new("cc").arg("--version").output().is_err() {
        bail!("no C compiler: SQLite and aws-lc are built from C; install gcc (Debian: apt-get install gcc libc6-dev)");
    }
    debian::to_read_our_files()?;
    Ok(SetUp {
        python: python::environment(&root().join("tests/python/requirements.txt"), &cache)?,
        node: node::packages(&root().join("tests/node"), &cache)?,
        postgres: Postgres::start()?,
    })
}

pub(crate) fn everything() -> Result<()> {
    let started = Instant::now();
    step("format", cargo(["fmt", "--all", "--", "--check"]))?;
    let set_up = set_up()?;
    step("lints", cargo(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    // The pipeline tests start these and kill them.
    step("binaries and examples", cargo(["build", "--workspace", "--bins", "--examples"]))?;
    let left = leaks::Left::new()?;
    // All that fails is told at once: a run takes long.
    let mut tests = with(&set_up, cargo(["test", "--workspace", "--no-fail-fast"]));
    tests.env("TMPDIR", left.folder());
    step("tests", tests)?;
    left.assert_no_token(&set_up.postgres, leaks::FILES_MIN)?;
    step("fuzz targets", fuzz::check())?;
    let mut documentation = cargo(["doc", "--workspace", "--no-deps", "--quiet"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", documentation)?;
    for example in EXAMPLES {
        step(&format!("example {example}"), cargo(["run", "--quiet", "--example", example]))?;
    }
    for example in IN_POSTGRESQL {
        let mut run = cargo(["run", "--quiet", "--example", example]);
        run.env("DATABASE", format!("{}?sslmode=disable", set_up.postgres.url));
        step(&format!("example {example}, in PostgreSQL"), run)?;
    }
    // That every row can be measured; nobody looks at the figures.
    let few = ["run", "--quiet", "--bin", "waybill-bench", "--", "--quick", "--rows", "3200", "--rounds", "1"];
    let cache = root().join("target/bench-smoke");
    let mut bench = with(&set_up, cargo(few));
    bench.arg("--cache").arg(&cache).stdout(Stdio::null());
    bench.env("WAYBILL_BENCH_POSTGRES", &set_up.postgres.url).env("WAYBILL_BENCH_NODE", &set_up.node);
    step("bench, on a few rows", bench)?;
    dependencies()?;
    println!("\nall steps passed in {:.0?}", started.elapsed());
    Ok(())
}

pub(crate) fn some_tests(names: &[&str]) -> Result<()> {
    let set_up = set_up()?;
    // With the tests: without them, features differ, and everything below would be built a second time.
    step("binaries", cargo(["build", "--workspace", "--bins", "--tests"]))?;
    let left = leaks::Left::new()?;
    let mut tests = with(&set_up, cargo(["test", "--workspace", "--"]));
    tests.args(names).env("TMPDIR", left.folder());
    step("tests", tests)?;
    left.assert_no_token(&set_up.postgres, 0)
}

/// The properties many times over, and what takes too long for every change.
pub(crate) fn soak(data: Option<&str>) -> Result<()> {
    let set_up = set_up()?;
    let properties = ["test", "--package", "waybill-subscriber", "--lib", "--", "order::", "beginning::"];
    let mut properties = with(&set_up, cargo(properties));
    properties.env("WAYBILL_SOAK", std::env::var("WAYBILL_SOAK").unwrap_or_else(|_| "50".to_owned()));
    step("properties of order", properties)?;
    let mut kills = with(&set_up, cargo(["test", "--package", "waybill-publisher", "--lib", "--", "log_crash::"]));
    kills.env("WAYBILL_SOAK_KILLS", std::env::var("WAYBILL_SOAK_KILLS").unwrap_or_else(|_| "200".to_owned()));
    step("a publisher killed 200 times", kills)?;
    step("binaries", cargo(["build", "--workspace", "--bins"]))?;
    let torture = ["test", "--package", "waybill-tests", "--", "--nocapture", "torture::", "outages::"];
    let mut torture = with(&set_up, cargo(torture));
    torture.env("WAYBILL_SOAK_SECONDS", std::env::var("WAYBILL_SOAK_SECONDS").unwrap_or_else(|_| "600".to_owned()));
    step("torture, and outages", torture)?;
    let mut changes = with(&set_up, cargo(["test", "--package", "waybill-tests", "--", "--nocapture", "changes::"]));
    for (name, seconds) in [("WAYBILL_SOAK_OPEN_SECONDS", "180"), ("WAYBILL_SOAK_FULL_SECONDS", "3600")] {
        changes.env(name, std::env::var(name).unwrap_or_else(|_| seconds.to_owned()));
    }
    step("late commits, and a full topic", changes)?;
    let Some(data) = data else {
        println!("\n── data sets: NOT RUN, name their folder: cargo xtask soak FOLDER");
        return Ok(());
    };
    let data = std::path::absolute(data).with_context(|| format!("{data} is no path"))?;
    let mut sets = with(&set_up, cargo(["test", "--package", "waybill-tests", "--", "--ignored", "data_sets::soak_"]));
    sets.env("WAYBILL_SOAK_DATA", data);
    step("data sets", sets)
}

/// Licences, bans and sources of all dependencies, where `cargo deny` is there. Its advisory database needs a network
/// that reaches it, so advisories are looked at where one does.
fn dependencies() -> Result<()> {
    let there = Command::new("cargo").args(["deny", "--version"]).output().is_ok_and(|output| output.status.success());
    if !there {
        println!("\n── dependencies: NOT CHECKED, cargo-deny is not installed (cargo install cargo-deny)");
        return Ok(());
    }
    step("dependencies", cargo(["deny", "--workspace", "check", "licenses", "bans", "sources"]))?;
    let advisories = cargo(["deny", "--workspace", "check", "advisories"]).output();
    match advisories {
        Ok(output) if output.status.success() => println!("── advisories: none"),
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("error[vulnerability]") => {
            bail!("advisories:\n{}", String::from_utf8_lossy(&output.stderr))
        }
        _ => println!("── advisories: NOT CHECKED, their database cannot be reached from here"),
    }
    Ok(())
}

pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

fn with(set_up: &SetUp, mut command: Command) -> Command {
    command
        .env("WAYBILL_TEST_PYTHON", &set_up.python)
        .env("WAYBILL_TEST_NODE", &set_up.node)
        .env("WAYBILL_TEST_POSTGRES", &set_up.postgres.url);
    command
}

pub(crate) fn step(name: &str, mut command: Command) -> Result<()> {
    println!("\n── {name}");
    let started = Instant::now();
    let status = command.status().with_context(|| format!("{name}: cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    println!("── {name}: {:.1?}", started.elapsed());
    Ok(())
}
