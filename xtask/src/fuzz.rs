//! The fuzz targets: that they compile, and what they find.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    debian,
    steps::{cargo, root, step},
};

/// For each target, unless somebody says how many.
const SECONDS: u64 = 600;
/// What runs them.
const CARGO_FUZZ: &str = "0.13.2";
/// An input that takes longer is a finding: none is larger than some kilobytes.
const SLOW_S: u64 = 30;

/// That all targets compile, with what their lock file names. Nothing is built: they are looked at with the same profile as the
/// workspace, so that what both need is not looked at twice.
pub(crate) fn check() -> Command {
    let mut check = cargo(["check", "--quiet", "--locked", "--bins", "--manifest-path", "fuzz/Cargo.toml"]);
    // Nothing is linked, so nobody has to build libFuzzer, which takes a compiler of C++.
    check.arg("--target-dir").arg(target()).env("CUSTOM_LIBFUZZER_PATH", target().join("none/libfuzzer.a"));
    check
}

/// `[SECONDS] [TARGET…]`.
pub(crate) fn fuzz(arguments: &[&str]) -> Result<()> {
    let (seconds, named) = match arguments.split_first() {
        Some((first, rest)) if first.bytes().all(|byte| byte.is_ascii_digit()) => {
            (first.parse().with_context(|| format!("{first} seconds"))?, rest)
        }
        _ => (SECONDS, arguments),
    };
    let all = targets()?;
    if let Some(unknown) = named.iter().find(|name| !all.iter().any(|target| target == *name)) {
        bail!("{unknown} is no fuzz target; there are {}", all.join(", "));
    }
    let wanted = all.iter().filter(|target| named.is_empty() || named.contains(&target.as_str()));
    debian::to_fuzz()?;
    let program = cargo_fuzz()?;
    step("seeds of the torture files", torture_seeds())?;
    let mut found = Vec::new();
    for target in wanted {
        if let Err(error) = run(&program, target, seconds) {
            eprintln!("── {error:#}");
            found.push(target.as_str());
        }
    }
    ensure!(
        found.is_empty(),
        "{} found something; the inputs are in fuzz/artifacts: see fuzz/README.md for how to run one again",
        found.join(", ")
    );
    Ok(())
}

/// The files that torture the readers in their tests are what the fuzzer begins with too, beside `fuzz/seeds`.
fn torture_seeds() -> Command {
    let name = "tests::torture::write_seeds_of_fuzz_targets";
    let mut write =
        cargo(["test", "--quiet", "--package", "waybill-formats", "--lib", "--", "--ignored", "--exact", name]);
    write.env("WAYBILL_FUZZ_SEEDS", root().join("fuzz/corpus"));
    write
}

fn run(program: &Path, target: &str, seconds: u64) -> Result<()> {
    let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
    std::fs::create_dir_all(root().join(&corpus)).with_context(|| format!("cannot make {corpus}"))?;
    // On stable Rust, so without sanitizers.
    let mut run = Command::new(program);
    run.args(["run", "--sanitizer", "none", target, &corpus, &seeds, "--"]);
    run.args([format!("-max_total_time={seconds}"), format!("-timeout={SLOW_S}"), "-print_final_stats=1".to_owned()]);
    run.current_dir(root()).env("CARGO_TARGET_DIR", target_of_fuzzing());
    step(&format!("fuzz {target}, {seconds} s"), run)
}

/// The names of all targets: each has a file, and seeds.
fn targets() -> Result<Vec<String>> {
    let manifest = root().join("fuzz/Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let of_targets = text.split("[[bin]]").skip(1);
    let names = of_targets.filter_map(|bin| Some(bin.split_once("name = \"")?.1.split_once('"')?.0.to_owned()));
    let names: Vec<String> = names.collect();
    for name in &names {
        let seeds = root().join("fuzz/seeds").join(name);
        ensure!(seeds.is_dir(), "the fuzz target {name} has no seeds; put some into {}", seeds.display());
    }
    Ok(names)
}

/// Installed once, into the ignored folder `.cache/`.
fn cargo_fuzz() -> Result<PathBuf> {
    let folder = root().join(".cache/cargo-fuzz");
    let program = folder.join("bin/cargo-fuzz");
    let told = Command::new(&program).arg("--version").output();
    if told.is_ok_and(|told| String::from_utf8_lossy(&told.stdout).trim().ends_with(CARGO_FUZZ)) {
        return Ok(program);
    }
    let mut install = cargo(["install", "--quiet", "--locked", "--force", "cargo-fuzz", "--version", CARGO_FUZZ]);
    install.arg("--root").arg(&folder).arg("--target-dir").arg(target());
    step("cargo-fuzz", install).context("is the package registry reachable?")?;
    Ok(program)
}

/// Where the workspace is built.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Instrumented builds are for nothing else.
fn target_of_fuzzing() -> PathBuf {
    target().join("fuzz")
}
