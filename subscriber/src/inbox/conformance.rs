//! What every [`Inbox`] must do, as one suite: run it against each backend.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "a failed assertion is the answer")]

mod admitting;
mod leasing;
mod turns;
mod deciding;
mod telling;
mod numbers;
mod pruning;

use std::{future::Future, time::Duration};

use time::OffsetDateTime;
use waybill_contracts::{Metadata, Reason};

use super::{
    Announced, Arrival, BrokenMessage, End, FileDone, FileKey, Inbox, Leased, Pending, Wanted, Waybill, WorkerId,
};

/// A message that announces `file`, with the broker's number `sequence_number`.
#[must_use]
pub fn arrival(sequence_number: i64, file: &str, blob_type: &str) -> Arrival {
    let body = format!(
        r#"{{"blobType":"{blob_type}","correlationId":"c-{file}","uri":"https://a.example/c/{file}","contentType":"text/csv"}}"#
    );
    Arrival {
        entity_path: "exports/subscriptions/acme".to_owned(),
        sequence_number,
        enqueued_at: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        message_id: Some(format!("m-{sequence_number}")),
        announced: Announced::File(Box::new(Waybill {
            key: FileKey::of_uri(file),
            metadata: Metadata::parse(body.as_bytes()).expect("the suite's own message is sound"),
            body,
            sequence: None,
            expires_at: None,
        })),
    }
}

/// Runs the suite. `make` gives a fresh, empty inbox whose leases last `lease` each time.
pub async fn exercise<I, M, F>(make: M, lease: Duration)
where
    I: Inbox + Clone,
    M: Fn() -> F,
    F: Future<Output = I>,
{
    admitting::a_redelivery_adds_no_row(&make().await).await;
    admitting::a_second_message_for_a_file_is_a_duplicate(&make().await).await;
    admitting::a_burst_is_answered_in_its_order(&make().await).await;
    admitting::bursts_side_by_side_save_each_message_and_each_file_once(&make().await).await;
    admitting::any_text_is_kept_and_no_two_files_are_taken_for_one(&make().await).await;
    admitting::files_are_known_by_their_keys(&make().await).await;
    admitting::a_message_that_is_no_waybill_is_kept_with_its_reason(&make().await).await;
    leasing::a_leased_file_is_leased_to_nobody_else(&make().await).await;
    leasing::a_lapsed_lease_changes_nothing(&make().await, lease).await;
    leasing::a_lease_is_named_by_its_worker_and_its_time(&make().await).await;
    leasing::a_lease_is_trusted_from_before_it_was_asked_for(&make().await, lease).await;
    leasing::a_renewed_lease_does_not_lapse(&make().await, lease).await;
    leasing::a_noted_blob_is_told_to_the_next_worker(&make().await).await;
    leasing::a_file_put_off_is_not_leased_before_it_is_due(&make().await).await;
    leasing::a_file_that_is_tried_for_ever_keeps_the_begin_and_the_latest_of_its_history(&make().await).await;
    turns::files_that_never_failed_can_be_asked_for(&make().await).await;
    turns::what_is_due_longest_is_leased_first(&make().await).await;
    turns::a_type_with_many_files_holds_up_no_other(&make().await).await;
    turns::files_of_several_types_are_dealt_out_together(&make().await).await;
    turns::types_that_wait_for_later_tries_hide_no_work(&make().await).await;
    turns::types_that_nobody_wants_hide_no_work(&make().await).await;
    turns::files_whose_time_is_short_come_first_and_hold_up_no_other(&make().await).await;
    turns::urgent_files_that_are_not_wanted_or_not_due_are_not_taken(&make().await).await;
    turns::only_wanted_types_are_leased(&make().await).await;
    turns::rows_that_are_named_are_leased_and_no_others(&make().await).await;
    deciding::other_types_are_skipped_and_can_be_listed(&make().await).await;
    deciding::many_files_of_other_types_are_skipped_and_what_is_worked_is_left_alone(&make().await).await;
    telling::types_are_summed_up(&make().await).await;
    deciding::done_files_can_be_reopened(&make().await).await;
    deciding::what_files_waited_for_has_come(&make().await).await;
    deciding::a_person_has_files_tried_again_or_skipped(&make().await).await;
    deciding::a_place_is_known_once_it_was_remembered(&make().await).await;
    telling::lists_come_newest_first_and_in_pages(&make().await).await;
    telling::the_history_says_when_and_why(&make().await).await;
    telling::counts_are_right_after_everything(&make().await).await;
    telling::what_waits_is_told_by_type_and_state(&make().await).await;
    telling::a_file_whose_blob_may_soon_be_deleted_is_at_risk_until_it_is_done(&make().await).await;
    numbers::numbers_that_never_came_are_told_and_up_to_which_one_all_is_applied(&make().await).await;
    numbers::numbers_in_any_order_leave_the_same_gaps(&make().await).await;
    numbers::the_largest_number_is_one_like_the_others(&make().await).await;
    numbers::what_manifests_say_fills_gaps_and_shows_others(&make().await).await;
    numbers::manifests_are_no_files_of_a_sink(&make().await).await;
    pruning::nothing_is_pruned_that_is_not_over_or_not_old_enough(&make().await).await;
    pruning::what_was_lost_is_told_until_nobody_wants_it(&make().await).await;
    pruning::a_file_that_was_pruned_is_known_all_the_same(&make().await).await;
    pruning::much_is_pruned_in_small_parts(&make().await).await;
    telling::a_worker_is_known_by_what_it_told_last(&make().await).await;
    telling::of_very_many_workers_the_latest_are_known(&make().await).await;
    leasing::workers_side_by_side_never_share_a_file(&make().await).await;
}

/// A message that is no waybill.
fn broken(sequence_number: i64) -> Arrival {
    let announced = Announced::Broken(BrokenMessage {
        reason: Reason::NotJson,
        problem: "byte 0: expected an object".to_owned(),
        body: Vec::new(),
        blob_type: None,
        correlation_id: None,
    });
    Arrival { announced, ..arrival(sequence_number, "", "T") }
}

fn worker(name: &str) -> WorkerId {
    WorkerId(name.to_owned())
}

/// Ends the file that is meant, and gives back the others; again where leases lapsed meanwhile.
async fn end_one(inbox: &impl Inbox, is_it: impl Fn(&Leased) -> bool, end: End) {
    for _ in 0..100 {
        let mut ended = false;
        for file in inbox.lease(&worker("one"), 99, &Wanted::default()).await.unwrap() {
            let how = if is_it(&file) { end.clone() } else { End::Release };
            ended |= inbox.finish(&file.lease, how).await.unwrap() && is_it(&file);
        }
        if ended {
            return;
        }
    }
    panic!("no such file is to be had");
}

/// Ends all files that are due.
async fn end_all(inbox: &impl Inbox) {
    while inbox.pending(&Wanted::default()).await.unwrap() != Pending::default() {
        for file in inbox.lease(&worker("one"), 99, &Wanted::default()).await.unwrap() {
            inbox.finish(&file.lease, End::Done(FileDone::default())).await.unwrap();
        }
    }
}
