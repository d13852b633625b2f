//! `cargo xtask test`: sets up what the tests need, then runs everything that must pass before a change lands.

mod bench;
mod debian;
mod fuzz;
mod leaks;
mod live;
mod node;
mod postgres;
mod python;
mod steps;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  test         everything that must pass: format, lints, tests, documentation, examples, dependencies
  test NAME…   only the tests whose names contain NAME (after the same set-up)
  soak [DATA]  for long: the properties over thousands of cases, ten minutes of torture (WAYBILL_SOAK_SECONDS, WAYBILL_SOAK_SEED)
               and as long without TenantService, storage or database, a transaction that is open for three minutes
               (WAYBILL_SOAK_OPEN_SECONDS) and a topic that is full for an hour (WAYBILL_SOAK_FULL_SECONDS);
               with DATA, the folder of larger data sets, those too
  fuzz [SECONDS] [TARGET…]
               all fuzz targets, or those named, for so many seconds each (default 600); fails on a finding
  test-live    the pipeline against a real namespace, storage account and TenantService; without them it says what to set
  bench [NAME…] [--quick] [--list]
               Waybill measured beside what a user would use instead: the rows of docs/benchmarks.md, or those named
  setup        only the set-up: a Python environment and Node packages in .cache/

The set-up needs Rust, Python 3 with venv and headers, Node.js 20 with npm, a C compiler, OpenSSL's headers,
PostgreSQL's programs, busybox, PHP and a JDK (which read our files), and the package registries. What is missing is named; Debian packages are installed when root runs it.

To run some tests with cargo itself after `cargo xtask setup`:
  export WAYBILL_TEST_PYTHON=$PWD/.cache/python/bin/python WAYBILL_TEST_NODE=$PWD/.cache/node";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => steps::everything(),
        ["test", ref names @ ..] => steps::some_tests(names),
        ["soak", ref folder @ ..] if folder.len() <= 1 => steps::soak(folder.first().copied()),
        ["fuzz", ref arguments @ ..] => fuzz::fuzz(arguments),
        ["test-live"] => live::test(),
        ["bench", ref arguments @ ..] => bench::bench(arguments),
        ["setup"] => steps::set_up().map(|_| ()),
        ["help" | "--help" | "-h"] | [] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        ref unknown => {
            eprintln!("unknown: {}\n\n{HELP}", unknown.join(" "));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
