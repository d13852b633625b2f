//! The bad days of `examples/faults`: each script can be installed, each of its steps fires, and in the end every row is
//! there once, or what must not be applied is in quarantine.

use std::{
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future, stream};
use tokio::time::Instant;
use waybill_azure::{blob::ContainerOptions, bus::BusOptions, http::HttpOptions};
use waybill_contracts::Entities;
use waybill_local::{
    Local,
    fault::{Step, When},
};
use waybill_publisher::Publisher;
use waybill_subscriber::{Subscriber, inbox::SqliteInbox};

use crate::harness::{Publishing, Subscribing, World, assert_each_number_once, assert_nothing_was_dead_lettered, here};

const ROWS: u64 = 20;
/// Published before anything is looked at: as many as any script counts to.
const FILES: u64 = 8;
/// At most, while a step has not fired.
const FILES_MAX: u64 = 40;
/// Scripts that are run side by side.
const AT_ONCE: usize = 6;

/// Days on which files cannot be applied, by nature: how many of them.
fn quarantined(script: &str) -> u64 {
    u64::from(matches!(script, "corrupt-file" | "truncated-file" | "replaced-blob"))
}

fn scripts() -> Vec<PathBuf> {
    let folder = here().parent().expect("the workspace").join("examples/faults");
    let files = std::fs::read_dir(&folder).expect("the folder of scripts").map(|entry| entry.expect("an entry").path());
    let mut scripts: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|suffix| suffix == "toml")).collect();
    scripts.sort();
    scripts
}

/// The two sides of these tests have SAS tokens; the tests of `waybill-local` live through a day of access tokens.
fn is_about_access_tokens(script: &Path) -> bool {
    let steps = Step::from_toml(&std::fs::read_to_string(script).expect("a script")).expect("a sound script");
    steps.iter().any(|step| matches!(step.when, When::Token { .. }))
}

fn name_of(script: &Path) -> String {
    script.file_stem().expect("a name").to_string_lossy().into_owned()
}

/// Time-outs of seconds, where a service would have a minute: a day of outages is to pass within a test.
fn bus() -> BusOptions {
    BusOptions { call_timeout: Duration::from_secs(3), idle_timeout: Duration::from_secs(2), ..BusOptions::default() }
}

fn http() -> HttpOptions {
    HttpOptions { read_timeout: Duration::from_secs(2), ..HttpOptions::default() }
}

/// Several requests a file, so that there is a middle.
fn blob() -> ContainerOptions {
    ContainerOptions { range_bytes: 512, request_timeout: Duration::from_secs(3) }
}

async fn pass(script: PathBuf) {
    let name = name_of(&script);
    let steps = Step::from_toml(&std::fs::read_to_string(&script).expect("a script")).expect("a sound script");
    let step_count = steps.len();
    let is_timed = |step: &Step| matches!(step.when, When::After(_));
    let timed: Vec<usize> = (0..).zip(&steps).filter(|(_, step)| is_timed(step)).map(|(number, _)| number).collect();
    let world = World::of(Local::builder()).await;
    let publisher = Publisher::builder(world.tokens(), world.path("publisher")).bus_options(bus()).http_options(http());
    let publisher = publisher.container_options(blob()).build().await.expect("a publisher");
    world.local.faults().install(steps).expect("a script for a default `local`");
    let publishing = Publishing::start(publisher);
    let options = Subscriber::<SqliteInbox>::builder().bus(bus()).http(http()).blob(blob());
    let subscribing = world.subscriber(options, &Entities::default()).await;

    let mut files = 0;
    while files < FILES {
        publish(&publishing, &mut files).await;
    }
    publishing.sent().await;
    worked(&subscribing, files).await;
    if !timed.is_empty() {
        // Its time comes however fast the files were; then there is something to be done again.
        let mut fired = world.local.faults().fired();
        while not_fired(&world, step_count).iter().any(|step| timed.contains(step)) {
            fired.changed().await.expect("the faults live as long as `local`");
        }
        publish(&publishing, &mut files).await;
        publishing.sent().await;
        worked(&subscribing, files).await;
    }
    while !not_fired(&world, step_count).is_empty() {
        assert!(files < FILES_MAX, "{name}: steps {:?} never fired", not_fired(&world, step_count));
        publish(&publishing, &mut files).await;
        publishing.sent().await;
        worked(&subscribing, files).await;
    }
    publishing.end().await;
    world.all_settled().await;
    let counts = subscribing.counts().await;
    subscribing.end().await;

    let bad = quarantined(&name);
    assert_eq!((counts.done, counts.quarantined, counts.saved), (files - bad, bad, 0), "{name}: {counts:?}");
    if bad == 0 {
        assert_each_number_once(&world, files * ROWS);
    } else {
        let seen = world.query("SELECT count(*) - count(DISTINCT n), count(DISTINCT n) FROM \"Number\"");
        let (twice, rows) = seen[0].split_once('|').expect("two numbers");
        let rows: u64 = rows.parse().expect("a number");
        assert!(twice == "0" && ((files - bad) * ROWS..=files * ROWS).contains(&rows), "{name}: {seen:?}");
    }
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}

async fn publish(publishing: &Publishing, files: &mut u64) {
    publishing.numbers("Number", *files * ROWS..(*files + 1) * ROWS).await;
    *files += 1;
}

async fn worked(subscribing: &Subscribing, files: u64) {
    subscribing.until("every file worked", |counts| counts.done + counts.quarantined >= files).await;
}

/// The steps, by number, that have not fired.
fn not_fired(world: &World, steps: usize) -> Vec<usize> {
    let fired: BTreeSet<usize> = world.local.faults().log_lines().iter().map(|line| line.step).collect();
    (0..steps).filter(|step| !fired.contains(step)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_day_of_the_examples_comes_and_ends_with_each_row_there_once() {
    let mut waiting = scripts();
    assert!(waiting.len() >= 30, "the scripts are there: {waiting:?}");
    let only = std::env::var("WAYBILL_TEST_SCRIPT").ok();
    waiting.retain(|script| !is_about_access_tokens(script));
    waiting.retain(|script| only.as_ref().is_none_or(|only| name_of(script) == *only));
    let days = stream::iter(waiting).map(|script| async {
        let (name, began) = (name_of(&script), Instant::now());
        // A panic is told with its script, and the other days are lived through.
        let ended = AssertUnwindSafe(pass(script)).catch_unwind().await;
        eprintln!("{name}: {:.1} s", began.elapsed().as_secs_f32());
        ended.err().map(|_| name)
    });
    let failed: Vec<String> = days.buffer_unordered(AT_ONCE).filter_map(future::ready).collect().await;
    assert!(failed.is_empty(), "these days ended badly: {failed:?}");
}

#[test]
fn every_script_says_what_happens_what_a_good_one_shows_and_how_to_run_it() {
    for script in scripts() {
        let text = std::fs::read_to_string(&script).expect("a script");
        let name = name_of(&script);
        for part in ["# What happens: ", "# A good one: ", "# Run it: "] {
            assert!(text.contains(part), "{name} lacks {part:?}");
        }
        assert!(text.contains(&format!("examples/faults/{name}.toml")), "{name} names itself");
        assert!(
            Step::from_toml(&text).expect("sound").iter().all(|step| step.name.is_some()),
            "{name} names its steps"
        );
    }
}
