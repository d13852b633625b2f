//! `kill -9` at each step. Each test starts itself once more as another process, which stops at the step and is killed there.

use std::{io::Read, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use waybill_contracts::ReadyFile;
use waybill_formats::Compression;

use super::world::{PATIENCE, Running, World, all_rows, export, numbers, row_of, tokens, until};
use crate::{Publisher, PublisherBuilder, context::Step, outbox::State};

/// Tells the other process at which step it stops, where Azure is, and where its outbox is.
const STEP: &str = "WAYBILL_TEST_STEP";
const READY: &str = "WAYBILL_TEST_READY";
const OUTBOX: &str = "WAYBILL_TEST_OUTBOX";
/// What it says there.
const REACHED: &str = "the step is reached";
/// Of several segments.
const ROWS: u64 = 90_000;

/// A world in which `first` was exported and sent, and a process was killed at `step` of exporting `nightly`. In that
/// process it does not return.
async fn killed_at<T>(step: Step, test: &T) -> World {
    if is_the_one_to_be_killed() {
        export_until_killed().await;
    }
    let world = World::new().await;
    let running = world.running().await;
    export(&running.publisher, "first", 10).await.unwrap();
    running.end().await;
    kill_at(step, &world, test).await;
    world
}

/// Whether this process was started to be killed.
pub(super) fn is_the_one_to_be_killed() -> bool {
    std::env::var_os(STEP).is_some()
}

/// Starts the test once more, in this world, and kills that process at `step`.
pub(super) async fn kill_at<T>(step: Step, world: &World, test: &T) {
    let ready = world.path("ready.json");
    world.local.write_ready_file(&ready).unwrap();
    let name = std::any::type_name_of_val(test).split_once("::").expect("a path in this crate").1;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(STEP, format!("{step:?}"))
        .env(READY, ready)
        .env(OUTBOX, world.outbox())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reached = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(REACHED) {
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, reached).await.expect("in time"), "the process ended before {step:?}");
    child.kill().await.unwrap();
}

/// The publisher of the process that is killed, which stands still at its step.
pub(super) async fn publisher_to_be_killed(change: impl FnOnce(PublisherBuilder) -> PublisherBuilder) -> Publisher {
    let ready = std::fs::read(std::env::var_os(READY).unwrap()).unwrap();
    let ready: ReadyFile = serde_json::from_slice(&ready).unwrap();
    let outbox = std::env::var_os(OUTBOX).unwrap();
    let builder = Publisher::builder(tokens(&ready), Path::new(&outbox)).name("shop");
    change(builder).build_with_hook(stand_at_the_step).await.unwrap()
}

/// On a runtime with one thread, so that nothing goes on while it stands at its step.
async fn export_until_killed() {
    let publisher = publisher_to_be_killed(|builder| {
        // A block for each segment, so that the file's first one comes last.
        let block_bytes = (16 * 1024).try_into().unwrap();
        builder.compression(Compression::Gzip(1)).blocks(block_bytes, 2.try_into().unwrap())
    })
    .await;
    let work = async {
        export(&publisher, "nightly", ROWS).await.unwrap();
        publisher.flush(PATIENCE).await.unwrap();
        panic!("the step was never reached");
    };
    tokio::join!(publisher.run(CancellationToken::new()), work);
}

fn stand_at_the_step(step: Step) {
    if std::env::var(STEP).is_ok_and(|wanted| wanted == format!("{step:?}")) {
        println!("{REACHED}");
        // It is killed here. Should the parent die first, the pipe ends.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(1);
    }
}

async fn settled(running: &Running) {
    until("the interrupted export settled", async || running.publisher.status().await.unwrap().counts.planned == 0)
        .await;
    running.sent().await;
}

/// The export was not made: it is void, and there is no message; made again, it has this number.
async fn is_void_and_made_again(world: World, void_number: Option<u64>, number: u64) {
    let running = world.running().await;
    settled(&running).await;
    let row = row_of(&running.publisher, "nightly").await;
    assert_eq!((row.state, row.sequence), (State::Void, void_number), "{row:?}");
    assert!(row.reason.as_deref().is_some_and(|reason| reason.contains("interrupted")), "{row:?}");
    assert_eq!((world.messages().len(), world.commits()), (1, 1), "`first` only");

    let again = export(&running.publisher, "nightly", ROWS).await.unwrap();
    assert_eq!((again.repeated, again.sequence), (false, number));
    let after = export(&running.publisher, "after", 1).await.unwrap();
    assert_eq!(after.sequence, number + 1);
    running.sent().await;
    assert_eq!(world.plain(&again.uri).await, numbers("nightly", ROWS).into_bytes());
    assert_eq!(world.assert_promises(&running.publisher, 0).await.len(), 3);
    assert_eq!(world.messages().len(), 3, "each once");
    running.end().await;
    world.end().await;
}

/// The export was made: its message comes, exporting it again is answered with what is there.
async fn is_there(world: World, messages: std::ops::RangeInclusive<usize>) {
    let running = world.running().await;
    settled(&running).await;
    let row = row_of(&running.publisher, "nightly").await;
    assert_eq!((row.state, row.sequence), (State::Sent, Some(2)), "{row:?}");
    let again = export(&running.publisher, "nightly", ROWS).await.unwrap();
    assert_eq!((again.repeated, again.sequence), (true, 2));
    let after = export(&running.publisher, "after", 1).await.unwrap();
    assert_eq!(after.sequence, 3);
    running.sent().await;
    assert_eq!(world.plain(&again.uri).await, numbers("nightly", ROWS).into_bytes());
    assert_eq!(world.assert_promises(&running.publisher, 0).await.len(), 3);
    let of_it = world.messages().iter().filter(|message| message.id == "nightly").count();
    assert!(messages.contains(&of_it), "{of_it} messages");
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_crash_after_the_plan_leaves_no_message_and_the_export_can_be_made_again() {
    let test = a_crash_after_the_plan_leaves_no_message_and_the_export_can_be_made_again;
    is_void_and_made_again(killed_at(Step::Planned, &test).await, None, 2).await;
}

#[tokio::test]
async fn a_crash_between_two_blocks_leaves_no_message_and_the_export_can_be_made_again() {
    let test = a_crash_between_two_blocks_leaves_no_message_and_the_export_can_be_made_again;
    is_void_and_made_again(killed_at(Step::BlockStaged, &test).await, None, 2).await;
}

#[tokio::test]
async fn a_crash_after_the_blocks_are_staged_leaves_no_message_and_the_export_can_be_made_again() {
    let test = a_crash_after_the_blocks_are_staged_leaves_no_message_and_the_export_can_be_made_again;
    is_void_and_made_again(killed_at(Step::Staged, &test).await, None, 2).await;
}

#[tokio::test]
async fn a_crash_after_the_number_is_fixed_voids_the_number_and_the_export_takes_the_next() {
    let test = a_crash_after_the_number_is_fixed_voids_the_number_and_the_export_takes_the_next;
    is_void_and_made_again(killed_at(Step::Numbered, &test).await, Some(2), 3).await;
}

#[tokio::test]
async fn a_crash_after_the_blob_is_committed_is_adopted_and_its_message_sent() {
    let test = a_crash_after_the_blob_is_committed_is_adopted_and_its_message_sent;
    is_there(killed_at(Step::Committed, &test).await, 1..=1).await;
}

#[tokio::test]
async fn a_crash_after_the_outbox_knows_of_the_blob_sends_the_message_at_the_next_start() {
    let test = a_crash_after_the_outbox_knows_of_the_blob_sends_the_message_at_the_next_start;
    is_there(killed_at(Step::Uploaded, &test).await, 1..=1).await;
}

#[tokio::test]
async fn a_crash_after_the_broker_accepted_sends_the_same_message_again() {
    let test = a_crash_after_the_broker_accepted_sends_the_same_message_again;
    is_there(killed_at(Step::Accepted, &test).await, 2..=2).await;
}

#[tokio::test]
async fn a_crash_after_the_message_is_marked_sends_nothing_again() {
    let test = a_crash_after_the_message_is_marked_sends_nothing_again;
    is_there(killed_at(Step::Sent, &test).await, 1..=1).await;
}

/// Exporting again, with nothing else running, takes over what the process left: unnumbered, or committed.
#[tokio::test]
async fn the_same_export_id_takes_over_what_a_crash_left_before_any_recovery() {
    let test = the_same_export_id_takes_over_what_a_crash_left_before_any_recovery;
    for (step, repeated) in [(Step::Staged, false), (Step::Committed, true)] {
        let world = killed_at(step, &test).await;
        let publisher = world.publisher().await;
        let taken = export(&publisher, "nightly", ROWS).await.unwrap();
        assert_eq!((taken.repeated, taken.sequence), (repeated, 2), "{step:?}");
        assert_eq!(all_rows(&publisher).await.len(), 2, "{step:?}: no further row");
        let running = Running::start(publisher);
        running.sent().await;
        assert_eq!(world.assert_promises(&running.publisher, 0).await.len(), 2);
        running.end().await;
        world.end().await;
    }
}

/// A process that stands still is not one that crashed: its plan is its own.
#[tokio::test]
async fn a_plan_of_a_living_process_is_left_to_it() {
    let world = World::new().await;
    let other = world.publisher().await;
    let writer = other.export("Number").unwrap().id("mine").unwrap().start().await.unwrap();
    let running = world.running().await;
    export(&running.publisher, "theirs", 5).await.unwrap();
    running.sent().await;
    // The recovery looks at its start, and whenever something was left: that look is over when this export is settled.
    drop(running.publisher.export("Number").unwrap().id("left").unwrap().start().await.unwrap());
    until("a look of the recovery", async || row_of(&running.publisher, "left").await.state == State::Void).await;
    assert_eq!(row_of(&running.publisher, "mine").await.state, State::Planned);
    let exported = timeout(Duration::from_secs(30), writer.finish()).await.unwrap().unwrap();
    assert_eq!(exported.sequence, 2);
    running.sent().await;
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}
