//! `kill -9` at each step. Each test starts itself once more as another process, which stops at the step and is killed there.

use std::{io::Read, path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use waybill_contracts::{ExportId, ReadyFile};
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step as Fault, What},
};
use waybill_publisher::outbox::State as ExportState;
use waybill_subscriber::inbox::State;

use super::world::{PATIENCE, Place, Running, World, job, republisher};
use crate::{RepublisherOptions, transfer::Step};

/// Tells the other process at which step it stops, where Azure is, and where its inbox and outbox are.
const STEP: &str = "WAYBILL_TEST_STEP";
const READY: &str = "WAYBILL_TEST_READY";
const FOLDER: &str = "WAYBILL_TEST_FOLDER";
/// The name of its schemas, where they are in PostgreSQL.
const SCHEMAS: &str = "WAYBILL_TEST_SCHEMAS";
/// What it says there.
const REACHED: &str = "the step is reached";
/// Of three batches.
const ROWS: u64 = 25_000;

fn rows() -> String {
    (0..ROWS).map(|id| format!("{{\"id\":{id},\"v\":1,\"price\":{},\"secret\":1}}\n", id % 20)).collect()
}

fn republished() -> Vec<String> {
    let became = |id| match id % 20 {
        price @ 11.. => format!("{{\"id\":{id},\"v\":1,\"price\":{price}}}"),
        _ => format!("{{\"id\":{id},\"v\":1,\"_deleted\":true}}"),
    };
    (0..ROWS).map(became).collect()
}

/// A world in which a process was killed at `step` of republishing a file; at none, while its commit is not answered. In that
/// process it does not return.
async fn killed_at<T>(step: Option<Step>, test: &T) -> World {
    killed_in(Place::Files, step, test).await
}

async fn killed_in<T>(place: Place, step: Option<Step>, test: &T) -> World {
    if std::env::var_os(STEP).is_some() {
        republish_until_killed().await;
    }
    let schemas = match &place {
        Place::Files => String::new(),
        Place::Schemas(name) => name.clone(),
    };
    let world = World::at(place).await;
    world.publish("Item", "nightly", &rows()).await;
    if step.is_none() {
        let commit = BlobRequests::of(BlobOperation::PutBlockList).named("Public/");
        world.local.faults().install([Fault::new(commit, What::DropAnswer { reset: false })]).unwrap();
    }
    let ready = world.path("ready.json");
    world.local.write_ready_file(&ready).unwrap();
    let name = std::any::type_name_of_val(test).split_once("::").expect("a path in this crate").1;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(STEP, format!("{step:?}"))
        .env(READY, ready)
        .env(FOLDER, world.path(""))
        .env(SCHEMAS, schemas)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reached = async {
        if step.is_none() {
            world.local.faults().wait_for(1).await;
            return true;
        }
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(REACHED) {
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, reached).await.expect("in time"), "the process ended before {step:?}");
    child.kill().await.unwrap();
    world
}

/// On a runtime with one thread, so that nothing goes on while it stands at its step.
async fn republish_until_killed() {
    let ready = std::fs::read(std::env::var_os(READY).unwrap()).unwrap();
    let ready: ReadyFile = serde_json::from_slice(&ready).unwrap();
    let folder = std::env::var_os(FOLDER).unwrap();
    let schemas = std::env::var(SCHEMAS).unwrap();
    let place = if schemas.is_empty() { Place::Files } else { Place::Schemas(schemas) };
    let republisher = republisher(&ready, Path::new(&folder), &place, &[job()], RepublisherOptions::default())
        .await
        .hooked(stand_at_the_step);
    republisher.run(CancellationToken::new()).await;
}

fn stand_at_the_step(step: Step) {
    if std::env::var(STEP).is_ok_and(|wanted| wanted == format!("{:?}", Some(step))) {
        println!("{REACHED}");
        // It is killed here. Should the parent die first, the pipe ends.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(1);
    }
}

/// The next start brings the one output, or finds it; a further one adds nothing.
async fn one_output_in_effect(world: World) {
    for start in 0..2 {
        let running = Running::start(world.republisher(&[job()]).await);
        assert_eq!(running.ended("c-nightly").await.state, State::Done, "start {start}");
        running.sent().await;
        let messages = world.messages("Public");
        let Some(message) = messages.first() else { panic!("start {start}: no message") };
        // One that the broker accepted when nobody could note it any more is sent again: the same message, of the same export.
        for again in &messages {
            assert_eq!((&again.id, &again.metadata.uri), (&message.id, &message.metadata.uri), "start {start}");
        }
        assert_eq!(message.extras.causation_id.as_deref(), Some("nightly"));
        assert!(world.rows(message).await == republished(), "start {start}: other rows");
        assert_eq!(world.blobs("Public").await, 1, "start {start}");
        let exports = running.exports().await;
        let sent: Vec<_> = exports.iter().filter(|export| export.state == ExportState::Sent).collect();
        let [sent] = &sent[..] else { panic!("start {start}: {exports:?}") };
        assert_eq!((sent.export_id.as_str(), sent.sequence), (message.id.as_str(), message.extras.sequence));
        running.stop().await;
    }
    world.end().await;
}

#[tokio::test]
async fn a_crash_with_a_file_in_hand_gives_one_output() {
    let test = a_crash_with_a_file_in_hand_gives_one_output;
    one_output_in_effect(killed_at(Some(Step::Leased), &test).await).await;
}

#[tokio::test]
async fn a_crash_after_the_export_began_gives_one_output() {
    let test = a_crash_after_the_export_began_gives_one_output;
    one_output_in_effect(killed_at(Some(Step::Begun), &test).await).await;
}

#[tokio::test]
async fn a_crash_between_two_batches_gives_one_output() {
    let test = a_crash_between_two_batches_gives_one_output;
    one_output_in_effect(killed_at(Some(Step::Written), &test).await).await;
}

#[tokio::test]
async fn a_crash_before_the_export_is_finished_gives_one_output() {
    let test = a_crash_before_the_export_is_finished_gives_one_output;
    one_output_in_effect(killed_at(Some(Step::AllWritten), &test).await).await;
}

#[tokio::test]
async fn a_crash_after_the_commit_and_before_its_answer_gives_one_output() {
    let test = a_crash_after_the_commit_and_before_its_answer_gives_one_output;
    one_output_in_effect(killed_at(None, &test).await).await;
}

#[tokio::test]
async fn a_crash_between_a_durable_export_and_the_end_of_its_file_gives_one_output() {
    let test = a_crash_between_a_durable_export_and_the_end_of_its_file_gives_one_output;
    one_output_in_effect(killed_at(Some(Step::Exported), &test).await).await;
}

#[tokio::test]
async fn a_crash_before_the_message_of_a_done_file_is_sent_gives_one_output() {
    let test = a_crash_before_the_message_of_a_done_file_is_sent_gives_one_output;
    one_output_in_effect(killed_at(Some(Step::Done), &test).await).await;
}

/// As several republishers share them.
#[tokio::test]
async fn a_crash_at_any_step_with_inbox_and_outbox_in_postgresql_gives_one_output() {
    let test = a_crash_at_any_step_with_inbox_and_outbox_in_postgresql_gives_one_output;
    let steps = [Step::Leased, Step::Begun, Step::Written, Step::AllWritten, Step::Exported, Step::Done];
    for step in steps.into_iter().map(Some).chain([None]) {
        let name = format!("republish {}", ExportId::random().as_str());
        one_output_in_effect(killed_in(Place::Schemas(name), step, &test).await).await;
    }
}
