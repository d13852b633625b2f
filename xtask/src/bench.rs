//! `cargo xtask bench`: prepares what Waybill is measured beside, as far as it can be had, and starts the bench.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    debian, node,
    postgres::Postgres,
    python,
    steps::{cargo, root, step},
};

/// What is compared comes from these packages.
const PACKAGES: [(&str, &str); 6] = [
    ("igzip", "isal"),
    ("pigz", "pigz"),
    ("jq", "jq"),
    ("sqlite3", "sqlite3"),
    ("psql", "postgresql-client"),
    ("taskset", "util-linux"),
];
/// C programs in `bench/peers`, and what they are linked with.
const BUILT: [(&str, &[&str]); 2] = [("append", &[]), ("upsert", &["-lsqlite3"])];

/// Rows by their names, and flags of the bench.
pub(crate) fn bench(arguments: &[&str]) -> Result<()> {
    let cache = root().join(".cache");
    let peers = cache.join("bench");
    let built = peers.join("bin");
    std::fs::create_dir_all(&built).with_context(|| format!("cannot make {}", built.display()))?;
    // Built first: nothing is measured while a compiler runs.
    step(
        "binaries",
        cargo(["build", "--quiet", "--release", "--package", "waybill-cli", "--package", "waybill-bench"]),
    )?;
    let mut run = cargo(["run", "--quiet", "--release", "--package", "waybill-bench", "--"]);
    run.args(arguments);
    if arguments.iter().any(|argument| ["--list", "--kept", "--help"].contains(argument)) {
        return step("bench", run);
    }
    programs(&built);
    let mut missing = Vec::new();
    let mut had = |what: &str, found: Result<PathBuf>| match found {
        Ok(path) => Some(path),
        Err(error) => {
            missing.push(format!("{what}: {error:#}"));
            None
        }
    };
    let requirements = root().join("bench/peers/requirements.txt");
    let python = had("Python's packages", python::environment(&requirements, &peers));
    let node = had("Microsoft's JavaScript SDKs and Azurite", node::packages(&root().join("tests/node"), &cache));
    for (name, libraries) in BUILT {
        had(name, compiled(name, libraries, &built));
    }
    had("xan", xan(&peers, &built));
    let postgres = Postgres::start_durable();
    if let Err(error) = &postgres {
        missing.push(format!("PostgreSQL: {error:#}"));
    }
    for missing in missing {
        println!("── not here: {missing}");
    }
    for (name, value) in [
        ("WAYBILL_BENCH_PYTHON", python.unwrap_or_default()),
        ("WAYBILL_BENCH_NODE", node.unwrap_or_default()),
        ("WAYBILL_BENCH_POSTGRES", postgres.as_ref().map(|server| server.url.clone()).unwrap_or_default().into()),
        ("WAYBILL_BENCH_BUILT", built),
    ] {
        run.env(name, value);
    }
    step("bench", run)
}

/// Debian packages; what is not to be had is named by the bench.
fn programs(built: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain([built.to_owned()]).collect();
    let is_there = |program: &str| folders.iter().any(|folder| folder.join(program).is_file());
    let mut packages: Vec<&str> =
        PACKAGES.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if !Path::new("/usr/include/sqlite3.h").exists() {
        packages.push("libsqlite3-dev");
    }
    if packages.is_empty() {
        return;
    }
    if let Err(error) = debian::install(&packages, "the bench compares with programs that are not here") {
        println!("── not here: {error:#}");
    }
}

fn compiled(name: &str, libraries: &[&str], built: &Path) -> Result<PathBuf> {
    let source = root().join("bench/peers").join(name).with_extension("c");
    let program = built.join(name);
    let is_fresh = || Some(program.metadata().ok()?.modified().ok()? > source.metadata().ok()?.modified().ok()?);
    if is_fresh() != Some(true) {
        let mut compile = Command::new("cc");
        compile.args(["-O2", "-o"]).arg(&program).arg(&source).args(libraries);
        step(&format!("peer {name}"), compile)?;
    }
    Ok(program)
}

/// A CSV toolkit, built from its crate; that takes some minutes, once.
fn xan(peers: &Path, built: &Path) -> Result<PathBuf> {
    let program = built.join("xan");
    if !program.exists() {
        let mut install = cargo(["install", "--quiet", "--locked", "xan", "--root"]);
        install.arg(peers).env("CARGO_TARGET_DIR", peers.join("xan-build"));
        let installed = step("xan", install).context("is the package registry reachable?");
        drop(std::fs::remove_dir_all(peers.join("xan-build")));
        installed?;
    }
    Ok(program)
}
