//! What every [`Outbox`] must do, as one suite: run it against each backend.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "a failed assertion is the answer")]

use std::{future::Future, time::Duration};

use time::OffsetDateTime;
use waybill_contracts::{BlobPath, BlobType, ExportId, MANIFEST_TYPE, Snapshot};

use super::{Attempt, FileFacts, ListFilter, ManifestRange, Outbox, OutboxError, Plan, Planned, State};

/// A server takes so long to notice that a session is gone.
const A_MOMENT: Duration = Duration::from_millis(5);

/// What holds once another process brought the outbox to a schema that this program does not know, as `upgrade` does.
pub async fn refuses_what_is_newer(outbox: &impl Outbox, upgrade: impl Future<Output = ()>) {
    upload(outbox, "sent-before", "T").await;
    let attempt = begin(outbox, "begun-before", "T").await;
    let due = outbox.due(10).await.unwrap();
    assert_eq!(due.len(), 1);
    upgrade.await;
    assert!(matches!(outbox.due(10).await, Err(OutboxError::Newer { .. })));
    outbox.sent(&[due[0].row]).await.unwrap();
    assert!(matches!(outbox.due(10).await, Err(OutboxError::Newer { .. })), "also with nothing due");
    assert!(matches!(outbox.number(&attempt, facts()).await, Err(OutboxError::Newer { .. })));
}

/// Whether it can be written is tried by writing, and nothing of that stays.
pub async fn takes_back_what_it_tries(outbox: &impl Outbox, trial: impl Future<Output = Result<(), OutboxError>>) {
    upload(outbox, "x", "T").await;
    outbox.pause("U", "a wrong price list").await.unwrap();
    let seen = async || {
        let (rows, paused) = (outbox.list(&ListFilter::default()).await.unwrap(), outbox.paused().await.unwrap());
        format!("{:?} {rows:?} {paused:?}", outbox.counts().await.unwrap())
    };
    let before = seen().await;
    trial.await.unwrap();
    assert_eq!(seen().await, before);
}

/// A plan for `id` of `blob_type`.
#[must_use]
pub fn plan(id: &str, blob_type: &str) -> Plan {
    Plan {
        export_id: ExportId::new(id).expect("the suite's own id"),
        publisher: "suite".to_owned(),
        blob_type: BlobType::new(blob_type).expect("the suite's own type"),
        correlation_id: format!("c-{id}"),
        causation_id: None,
        traceparent: None,
        blob: BlobPath::new(format!("{blob_type}/{id}.jsonl.gz")).expect("the suite's own path"),
        content_type: "application/x-jsonlines".to_owned(),
        content_encoding: Some("gzip".to_owned()),
        properties: None,
        schema: None,
        expires_at: None,
    }
}

/// What is known of a staged file.
#[must_use]
pub fn facts() -> FileFacts {
    FileFacts {
        uri: "https://a.example/c/blob".to_owned(),
        rows: Some(3),
        bytes: 40,
        plain_bytes: 60,
        plain_sha256: "aa".repeat(32),
        sha256: Some("bb".repeat(32)),
        snapshot: None,
    }
}

/// Runs the suite. `open` opens the store of a name: the same one each time, a new one for a new name.
pub async fn exercise<O, M, F>(open: M)
where
    O: Outbox + Clone,
    M: Fn(&'static str) -> F,
    F: Future<Output = O>,
{
    an_export_goes_from_planned_to_sent(&open("life").await).await;
    numbers_of_a_type_have_no_gap(&open("numbers").await).await;
    an_id_that_was_exported_is_exported_once(&open("once").await).await;
    an_id_belongs_to_one_type(&open("type").await).await;
    an_unnumbered_plan_is_taken_over_with_its_blob(&open("take-over").await).await;
    a_numbered_plan_is_settled_first(&open("settle").await).await;
    an_overtaken_try_changes_nothing(&open("overtaken").await).await;
    a_void_number_stays_taken_and_tells_its_successor(&open("void").await).await;
    what_waits_is_not_due_before_its_time(&open("due").await).await;
    a_message_that_a_person_orders_again_gets_a_new_id(&open("again").await).await;
    what_cannot_be_sent_again_is_refused(&open("not-again").await).await;
    a_paused_type_waits_and_holds_up_no_other(&open("paused").await).await;
    a_void_export_whose_message_was_on_its_way_is_sent(&open("on-its-way").await).await;
    manifests_name_every_number_once(&open("manifests").await).await;
    a_long_backlog_is_named_by_several_manifests(&open("long").await).await;
    what_is_over_goes_once_a_manifest_that_is_sent_names_it(&open("over").await).await;
    what_is_not_over_is_not_forgotten(&open("not-over").await).await;
    parts_of_a_full_export_are_one_file_each(&open("parts").await).await;
    numbers_begin_anew_with_an_epoch(&open).await;
    lists_come_newest_first_and_in_pages(&open("list").await).await;
    one_relay_at_a_time(&open).await;
    abandoned_plans_are_given_out_once(&open).await;
    callers_at_once_get_numbers_of_their_own(&open("at-once").await).await;
    for name in [
        "life",
        "numbers",
        "once",
        "type",
        "take-over",
        "settle",
        "overtaken",
        "void",
        "due",
        "again",
        "not-again",
        "paused",
        "on-its-way",
        "manifests",
        "long",
        "over",
        "not-over",
        "parts",
        "list",
        "at-once",
        "epoch",
        "abandon",
    ] {
        its_counts_are_those_of_its_rows(&open(name).await, name).await;
    }
}

/// Whatever happened to them.
async fn its_counts_are_those_of_its_rows(outbox: &impl Outbox, name: &str) {
    let counts = outbox.counts().await.unwrap();
    let rows = outbox.list(&ListFilter { most: 10_000, ..ListFilter::default() }).await.unwrap();
    for (state, counted) in [
        (State::Planned, counts.planned),
        (State::Uploaded, counts.uploaded),
        (State::Sent, counts.sent),
        (State::Void, counts.void),
    ] {
        assert_eq!(rows.iter().filter(|row| row.state == state).count() as u64, counted, "{name}: {state}");
    }
    let terms = rows.iter().filter(|row| row.state == State::Uploaded).filter_map(|row| row.expires_at);
    assert_eq!(counts.waiting_until, terms.min(), "{name}");
}

/// Plans an export that is new to the outbox.
pub async fn begin(outbox: &impl Outbox, id: &str, blob_type: &str) -> Attempt {
    match outbox.plan(plan(id, blob_type)).await.unwrap() {
        Planned::Begin(attempt, _) => attempt,
        other => panic!("{other:?}"),
    }
}

/// Plans, numbers and uploads an export; its row.
pub async fn upload(outbox: &impl Outbox, id: &str, blob_type: &str) -> i64 {
    let attempt = begin(outbox, id, blob_type).await;
    outbox.number(&attempt, facts()).await.unwrap();
    outbox.uploaded(&attempt).await.unwrap().row
}

fn overtaken<T: std::fmt::Debug>(result: Result<T, OutboxError>) -> bool {
    matches!(result, Err(OutboxError::Overtaken { .. }))
}

async fn an_export_goes_from_planned_to_sent(outbox: &impl Outbox) {
    let properties = r#"{"a":1.50,"a":2}"#;
    let full = Plan {
        properties: Some(serde_json::from_str(properties).unwrap()),
        schema: Some("orders-3".to_owned()),
        causation_id: Some("cause".to_owned()),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        expires_at: Some(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000)),
        ..plan("x", "T")
    };
    let Planned::Begin(attempt, blob) = outbox.plan(full.clone()).await.unwrap() else { panic!("it is new") };
    assert_eq!(blob, full.blob);
    let planned = outbox.get(attempt.row).await.unwrap().unwrap();
    assert_eq!((planned.state, planned.sequence, planned.uploaded_at), (State::Planned, None, None));
    assert_eq!(planned.epoch, outbox.epoch());
    assert_eq!(planned.properties.unwrap().get(), properties, "as written");
    assert!(outbox.due(10).await.unwrap().is_empty());

    assert_eq!(outbox.number(&attempt, facts()).await.unwrap(), 1);
    assert_eq!(outbox.number(&attempt, facts()).await.unwrap(), 1, "asked again");
    assert!(outbox.due(10).await.unwrap().is_empty(), "a number is no promise yet");

    let uploaded = outbox.uploaded(&attempt).await.unwrap();
    assert_eq!((uploaded.state, uploaded.sequence), (State::Uploaded, Some(1)));
    assert_eq!(outbox.uploaded(&attempt).await.unwrap().state, State::Uploaded, "said again");
    let due = outbox.due(10).await.unwrap();
    assert_eq!(due.len(), 1);
    let row = &due[0];
    assert_eq!(row.message_id.as_deref(), Some("x"));
    assert_eq!((row.uri.as_deref(), row.rows), (Some(facts().uri.as_str()), Some(3)));
    assert_eq!((row.bytes, row.plain_bytes), (Some(40), Some(60)));
    assert_eq!((row.plain_sha256.clone(), row.sha256.clone()), (Some(facts().plain_sha256), facts().sha256));
    assert_eq!((&row.correlation_id, &row.causation_id), (&full.correlation_id, &full.causation_id));
    assert_eq!((&row.traceparent, &row.schema, row.expires_at), (&full.traceparent, &full.schema, full.expires_at));

    outbox.sent(&[row.row]).await.unwrap();
    outbox.sent(&[row.row]).await.unwrap();
    assert!(outbox.due(10).await.unwrap().is_empty());
    assert!(overtaken(outbox.void(&attempt, "too late").await), "nothing leaves sent");
    let sent = outbox.get(row.row).await.unwrap().unwrap();
    assert!(sent.sent_at.is_some() && sent.state == State::Sent);
    let states: Vec<State> = outbox.history(row.row).await.unwrap().into_iter().map(|entry| entry.state).collect();
    assert_eq!(states, [State::Planned, State::Planned, State::Uploaded, State::Sent]);
    let counts = outbox.counts().await.unwrap();
    assert_eq!((counts.sent, counts.uploaded, counts.planned, counts.waiting_since), (1, 0, 0, None));
}

async fn numbers_of_a_type_have_no_gap(outbox: &impl Outbox) {
    for (id, blob_type, number) in [("a", "T", 1), ("b", "U", 1), ("c", "T", 2), ("d", "T", 3), ("e", "U", 2)] {
        // A plan that comes to nothing takes no number.
        begin(outbox, &format!("{id}-interrupted"), blob_type).await;
        let attempt = begin(outbox, id, blob_type).await;
        assert_eq!(outbox.number(&attempt, facts()).await.unwrap(), number, "{id}");
    }
}

async fn parts_of_a_full_export_are_one_file_each(outbox: &impl Outbox) {
    let blob_type = BlobType::new("T").unwrap();
    let last = async || outbox.last_number("suite", &blob_type).await.unwrap();
    let parts = async |id: &'static str| outbox.parts("suite", &blob_type, id).await.unwrap();
    let part =
        |part| FileFacts { snapshot: Some(Snapshot { id: "full".to_owned(), part, of: 2, as_of: 1 }), ..facts() };
    assert_eq!(last().await, 0);
    upload(outbox, "change", "T").await;
    upload(outbox, "another", "U").await;
    assert_eq!(last().await, 1);

    let [one, two, again] = [begin(outbox, "one", "T"), begin(outbox, "two", "T"), begin(outbox, "again", "T")];
    let (one, two, again) = (one.await, two.await, again.await);
    assert!(parts("full").await.is_empty(), "nothing is fixed yet");
    // In any order.
    assert_eq!(outbox.number(&two, part(2)).await.unwrap(), 2);
    assert!(overtaken(outbox.number(&again, part(2)).await), "somebody else makes it too");
    assert_eq!(outbox.number(&one, part(1)).await.unwrap(), 3);
    assert_eq!(outbox.number(&one, part(1)).await.unwrap(), 3, "asked again");
    outbox.uploaded(&one).await.unwrap();
    outbox.void(&two, "no room").await.unwrap();
    assert!(overtaken(outbox.number(&again, part(2)).await), "void as it is, its number is told as this part's");
    let known = parts("full").await;
    let shown: Vec<_> = known.iter().map(|row| (row.export_id.as_str(), row.state)).collect();
    assert_eq!(shown, [("one", State::Uploaded), ("two", State::Void)]);
    assert_eq!(known[0].snapshot, part(1).snapshot);
    assert!(outbox.get(again.row).await.unwrap().unwrap().snapshot.is_none());
    assert!(parts("fuller").await.is_empty() && outbox.parts("another", &blob_type, "full").await.unwrap().is_empty());

    let listed = async |most| {
        let made = outbox.full_exports("suite", &blob_type, most).await.unwrap();
        made.into_iter().map(|of| (of.is_whole(), of.snapshot, of.there, of.sent, of.last)).collect::<Vec<_>>()
    };
    let half = (false, "full".to_owned(), 1, 0, 3);
    assert_eq!(listed(10).await, std::slice::from_ref(&half));
    let alone = begin(outbox, "alone", "T").await;
    let snapshot = Some(Snapshot { id: "next".to_owned(), part: 1, of: 1, as_of: 3 });
    outbox.number(&alone, FileFacts { snapshot, ..facts() }).await.unwrap();
    outbox.uploaded(&alone).await.unwrap();
    outbox.sent(&[alone.row]).await.unwrap();
    let whole = (true, "next".to_owned(), 1, 1, 4);
    assert_eq!(listed(10).await, [whole.clone(), half], "the latest first");
    assert_eq!(listed(1).await, [whole]);
    assert!(outbox.full_exports("another", &blob_type, 10).await.unwrap().is_empty());
}

async fn an_id_that_was_exported_is_exported_once(outbox: &impl Outbox) {
    let row = upload(outbox, "x", "T").await;
    for _ in 0..2 {
        let Planned::Exported(known) = outbox.plan(plan("x", "T")).await.unwrap() else { panic!("it is known") };
        assert_eq!((known.row, known.sequence), (row, Some(1)));
        outbox.sent(&[row]).await.unwrap();
    }
    assert_eq!(outbox.list(&ListFilter::default()).await.unwrap().len(), 1);
}

async fn an_id_belongs_to_one_type(outbox: &impl Outbox) {
    upload(outbox, "x", "T").await;
    let refused = outbox.plan(plan("x", "U")).await;
    assert!(matches!(refused, Err(OutboxError::IdInUse { blob_type, .. }) if blob_type == "T"));
}

async fn an_unnumbered_plan_is_taken_over_with_its_blob(outbox: &impl Outbox) {
    let first = begin(outbox, "x", "T").await;
    let again = Plan {
        blob: BlobPath::new("T/another.jsonl.gz").unwrap(),
        correlation_id: "said later".to_owned(),
        ..plan("x", "T")
    };
    let Planned::Begin(second, blob) = outbox.plan(again.clone()).await.unwrap() else { panic!("not numbered") };
    assert_eq!((second.row, &blob), (first.row, &plan("x", "T").blob));
    assert_eq!(outbox.get(first.row).await.unwrap().unwrap().correlation_id, "said later");
    let other_format = Plan { content_type: "text/csv".to_owned(), ..again };
    let Planned::Begin(_, blob) = outbox.plan(other_format.clone()).await.unwrap() else { panic!("not numbered") };
    assert_eq!(blob, other_format.blob, "a name that ends otherwise");
}

async fn a_numbered_plan_is_settled_first(outbox: &impl Outbox) {
    let first = begin(outbox, "x", "T").await;
    outbox.number(&first, facts()).await.unwrap();
    let Planned::Settle(attempt, row) = outbox.plan(plan("x", "T")).await.unwrap() else { panic!("it is numbered") };
    assert_eq!((row.row, row.sequence, row.attempt()), (first.row, Some(1), attempt.clone()));
    assert_eq!(row.plain_sha256, Some(facts().plain_sha256));
    assert!(overtaken(outbox.uploaded(&first).await));
    outbox.uploaded(&attempt).await.unwrap();
}

async fn an_overtaken_try_changes_nothing(outbox: &impl Outbox) {
    let first = begin(outbox, "x", "T").await;
    let Planned::Begin(second, _) = outbox.plan(plan("x", "T")).await.unwrap() else { panic!("not numbered") };
    assert!(overtaken(outbox.number(&first, facts()).await));
    assert!(overtaken(outbox.uploaded(&first).await));
    assert!(overtaken(outbox.void(&first, "mine").await));
    assert_eq!(outbox.get(first.row).await.unwrap().unwrap().state, State::Planned);
    outbox.number(&second, facts()).await.unwrap();
    outbox.uploaded(&second).await.unwrap();
}

async fn a_void_number_stays_taken_and_tells_its_successor(outbox: &impl Outbox) {
    let first = begin(outbox, "x", "T").await;
    assert_eq!(outbox.number(&first, facts()).await.unwrap(), 1);
    outbox.void(&first, "somebody else's blob").await.unwrap();
    assert!(overtaken(outbox.uploaded(&first).await));
    let Planned::Begin(second, blob) = outbox.plan(plan("x", "T")).await.unwrap() else { panic!("the first is void") };
    assert_ne!(second.row, first.row);
    assert_eq!(blob, plan("x", "T").blob);
    assert_eq!(outbox.number(&second, facts()).await.unwrap(), 2);
    outbox.uploaded(&second).await.unwrap();
    let void = outbox.get(first.row).await.unwrap().unwrap();
    assert_eq!((void.state, void.sequence, void.replaced_by), (State::Void, Some(1), Some(second.row)));
    assert_eq!(void.reason.as_deref(), Some("somebody else's blob"));
    assert_eq!(outbox.counts().await.unwrap().void, 1);
}

async fn what_waits_is_not_due_before_its_time(outbox: &impl Outbox) {
    let (a, b, c) = (upload(outbox, "a", "T").await, upload(outbox, "b", "T").await, upload(outbox, "c", "T").await);
    let far = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(8_000_000_000);
    outbox.not_sent(&[a], "too large", Some(far)).await.unwrap();
    outbox.not_sent(&[b], "no connection", None).await.unwrap();
    let due: Vec<i64> = outbox.due(10).await.unwrap().iter().map(|row| row.row).collect();
    assert_eq!(due, [b, c]);
    assert_eq!(outbox.due(1).await.unwrap().len(), 1);
    let row = outbox.get(a).await.unwrap().unwrap();
    assert_eq!((row.tries, row.last_error.as_deref(), row.due_at), (1, Some("too large"), Some(far)));
    let row_b = outbox.get(b).await.unwrap().unwrap();
    assert_eq!(
        (row_b.tries, row_b.last_error.as_deref()),
        (0, Some("no connection")),
        "an outage is no try of its own"
    );
    let counts = outbox.counts().await.unwrap();
    assert_eq!((counts.uploaded, counts.waiting_since), (3, row.uploaded_at));
}

async fn numbers_begin_anew_with_an_epoch<O: Outbox + Clone, F: Future<Output = O>>(open: &impl Fn(&'static str) -> F) {
    let before = open("epoch").await;
    let first = upload(&before, "first", "T").await;
    let numbered = begin(&before, "numbered", "T").await;
    assert_eq!(before.number(&numbered, facts()).await.unwrap(), 2);
    let planned = begin(&before, "planned", "T").await;
    let epoch = before.begin_epoch().await.unwrap();
    assert!(epoch.as_str() > before.epoch(), "epochs sort by the time when they began");
    assert!(matches!(before.number(&planned, facts()).await, Err(OutboxError::OtherEpoch)));
    assert_eq!(before.number(&numbered, facts()).await.unwrap(), 2, "what is numbered stays");
    before.uploaded(&numbered).await.unwrap();

    let after = open("epoch").await;
    assert_eq!(after.epoch(), epoch);
    let again = match after.plan(plan("planned", "T")).await.unwrap() {
        Planned::Begin(again, _) => again,
        other => panic!("{other:?}"),
    };
    assert_eq!(after.number(&again, facts()).await.unwrap(), 1);
    let rows = [first, numbered.row, again.row];
    let mut epochs = Vec::new();
    for row in rows {
        epochs.push(after.get(row).await.unwrap().unwrap().epoch);
    }
    assert_eq!(epochs, [before.epoch(), before.epoch(), &epoch]);
    assert_eq!(after.due(10).await.unwrap().len(), 2, "what was uploaded is sent");
}

async fn a_message_that_a_person_orders_again_gets_a_new_id(outbox: &impl Outbox) {
    let row = upload(outbox, "x", "T").await;
    outbox.not_sent(&[row], "too large", Some(OffsetDateTime::now_utc() + Duration::from_secs(3600))).await.unwrap();
    assert!(outbox.due(10).await.unwrap().is_empty());
    let again = outbox.resend(row, "now, please").await.unwrap();
    assert_eq!(
        (again.message_id.as_deref(), again.tries),
        (Some("x"), 0),
        "the broker has not accepted it: the same id"
    );
    assert_eq!(outbox.due(10).await.unwrap().len(), 1);
    for id in ["x.1", "x.2"] {
        outbox.sent(&[row]).await.unwrap();
        assert!(outbox.due(10).await.unwrap().is_empty());
        let again = outbox.resend(row, "a subscriber lost it").await.unwrap();
        assert_eq!((again.message_id.as_deref(), again.export_id.as_str()), (Some(id), "x"));
        assert_eq!((again.state, again.sequence), (State::Uploaded, Some(1)), "the same file, the same number");
        assert_eq!(outbox.due(10).await.unwrap()[0].message_id.as_deref(), Some(id));
    }
    let history = outbox.history(row).await.unwrap();
    assert_eq!(history.last().unwrap().note.as_deref(), Some("to be sent again: a subscriber lost it"));
    // Subscribers have it: were it void, its id could be given to another file, which they would take for this one.
    let attempt = outbox.get(row).await.unwrap().unwrap().attempt();
    outbox.void(&attempt, "not again after all").await.unwrap();
    let known = outbox.get(row).await.unwrap().unwrap();
    assert_eq!((known.state, known.reason), (State::Sent, None));
    assert!(outbox.due(10).await.unwrap().is_empty());
    assert!(matches!(outbox.plan(plan("x", "T")).await.unwrap(), Planned::Exported(_)));
    assert_eq!(outbox.history(row).await.unwrap().last().unwrap().note.as_deref(), Some("not again after all"));
}

async fn what_cannot_be_sent_again_is_refused(outbox: &impl Outbox) {
    let refused = async |row, why: &str| {
        let error = outbox.resend(row, "please").await.unwrap_err();
        assert!(matches!(&error, OutboxError::Refused { problem, .. } if problem.contains(why)), "{error}");
    };
    refused(77, "none of this outbox").await;
    let planned = begin(outbox, "planned", "T").await;
    refused(planned.row, "not uploaded yet").await;
    outbox.void(&planned, "nobody wants it").await.unwrap();
    refused(planned.row, "is void (nobody wants it)").await;
    let over = Plan { expires_at: Some(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1)), ..plan("over", "T") };
    let Planned::Begin(attempt, _) = outbox.plan(over).await.unwrap() else { panic!("it is new") };
    outbox.number(&attempt, facts()).await.unwrap();
    let row = outbox.uploaded(&attempt).await.unwrap().row;
    refused(row, "term is over").await;
}

async fn a_paused_type_waits_and_holds_up_no_other(outbox: &impl Outbox) {
    let due = async || {
        let due = outbox.due(10).await.unwrap();
        due.iter().map(|row| row.export_id.as_str().to_owned()).collect::<Vec<_>>()
    };
    let before = upload(outbox, "before", "T").await;
    outbox.pause("T", "a wrong price list").await.unwrap();
    outbox.pause("T", "two wrong price lists").await.unwrap();
    upload(outbox, "meanwhile", "T").await;
    upload(outbox, "other", "U").await;
    assert_eq!(due().await, ["other"]);
    outbox.not_sent(&[before], "refused", Some(OffsetDateTime::UNIX_EPOCH)).await.unwrap();
    outbox.resend(before, "it stays held back").await.unwrap();
    assert_eq!(due().await, ["other"]);
    let row = outbox.get(before).await.unwrap().unwrap();
    assert_eq!((row.state, row.due_at), (State::Uploaded, None));
    let paused = outbox.paused().await.unwrap();
    assert_eq!(paused.len(), 1);
    assert_eq!((paused[0].blob_type.as_str(), paused[0].why.as_str()), ("T", "two wrong price lists"));
    assert!(outbox.resume("T").await.unwrap());
    assert!(!outbox.resume("T").await.unwrap(), "it was not paused");
    assert!(outbox.paused().await.unwrap().is_empty());
    let mut all = due().await;
    all.sort();
    assert_eq!(all, ["before", "meanwhile", "other"]);
}

async fn a_void_export_whose_message_was_on_its_way_is_sent(outbox: &impl Outbox) {
    let row = upload(outbox, "x", "T").await;
    let attempt = outbox.get(row).await.unwrap().unwrap().attempt();
    outbox.void(&attempt, "a person says so").await.unwrap();
    assert!(outbox.due(10).await.unwrap().is_empty());
    outbox.sent(&[row]).await.unwrap();
    let row = outbox.get(row).await.unwrap().unwrap();
    assert_eq!((row.state, row.reason), (State::Sent, None), "the broker has it: that is what counts");
}

/// Uploads an export whose term is over, and has it sent; its row.
async fn send_over(outbox: &impl Outbox, id: &str, blob_type: &str) -> i64 {
    let over = Plan { expires_at: Some(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1)), ..plan(id, blob_type) };
    let Planned::Begin(attempt, _) = outbox.plan(over).await.unwrap() else { panic!("it is new") };
    outbox.number(&attempt, facts()).await.unwrap();
    let row = outbox.uploaded(&attempt).await.unwrap().row;
    outbox.sent(&[row]).await.unwrap();
    row
}

async fn planned(outbox: &impl Outbox, most: u32) -> Vec<(ManifestRange, String)> {
    let ranges = outbox.plan_manifests(most).await.unwrap();
    let shown = |range: &ManifestRange| format!("{} {} to {}", range.blob_type, range.first, range.last);
    ranges.into_iter().map(|range| (range.clone(), shown(&range))).collect()
}

async fn manifests_name_every_number_once(outbox: &impl Outbox) {
    let names = |ranges: &[(ManifestRange, String)]| ranges.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>();
    let before = outbox.manifested_at().await.unwrap();
    assert!(planned(outbox, 10).await.is_empty(), "there is nothing");
    assert!(outbox.manifested_at().await.unwrap() > before);
    let (a, b) = (upload(outbox, "a", "T").await, upload(outbox, "b", "T").await);
    assert!(planned(outbox, 10).await.is_empty(), "nothing is sent");
    outbox.sent(&[a]).await.unwrap();
    let first = planned(outbox, 10).await;
    assert_eq!(names(&first), ["T 1 to 1"]);
    assert_eq!((first[0].0.publisher.as_str(), first[0].0.epoch.as_str()), ("suite", outbox.epoch()));
    let voided = begin(outbox, "c", "T").await;
    outbox.number(&voided, facts()).await.unwrap();
    outbox.void(&voided, "somebody else's blob").await.unwrap();
    assert_eq!(planned(outbox, 10).await, first, "it is not made yet; behind b, which is not sent, nothing is settled");
    let named_to = async |publisher: &'static str| {
        let named = outbox.named_to(publisher, outbox.epoch()).await.unwrap();
        named.into_iter().map(|named| (named.blob_type, named.up_to, named.unsent)).collect::<Vec<_>>()
    };
    assert_eq!(named_to("suite").await, [("T".to_owned(), 0, 1)], "fixed is not told");
    let manifest = upload(outbox, first[0].0.export_id.as_str(), MANIFEST_TYPE).await;
    assert!(planned(outbox, 10).await.is_empty(), "it is made");
    assert_eq!(named_to("suite").await, [("T".to_owned(), 0, 1)], "nor is made");
    outbox.sent(&[manifest]).await.unwrap();
    assert_eq!(named_to("suite").await, [("T".to_owned(), 1, 0)]);
    assert!(named_to("another").await.is_empty());
    assert!(outbox.named_to("suite", "another epoch").await.unwrap().is_empty());
    assert!(planned(outbox, 10).await.is_empty(), "a manifest alone is no reason for another");

    outbox.sent(&[b]).await.unwrap();
    let second = planned(outbox, 10).await;
    assert_eq!(names(&second), ["T 2 to 3", "Waybill.Manifest 1 to 1"]);
    assert_eq!(named_to("suite").await, [("T".to_owned(), 1, 1), (MANIFEST_TYPE.to_owned(), 0, 1)]);
    let rows = outbox.named(&second[0].0, 0, 10).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.sequence, row.state, row.reason.as_deref())).collect();
    assert_eq!(told, [(Some(2), State::Sent, None), (Some(3), State::Void, Some("somebody else's blob"))]);
    assert_eq!(outbox.named(&second[0].0, 3, 10).await.unwrap().len(), 1, "the next page");
    assert_eq!(outbox.named(&second[0].0, 0, 1).await.unwrap()[0].row, b);

    // A manifest that comes to nothing is made again, under its id.
    let attempt = begin(outbox, second[0].0.export_id.as_str(), MANIFEST_TYPE).await;
    outbox.void(&attempt, "interrupted").await.unwrap();
    assert_eq!(planned(outbox, 10).await, second);
}

async fn a_long_backlog_is_named_by_several_manifests(outbox: &impl Outbox) {
    for id in ["a", "b", "c", "d", "e"] {
        let row = upload(outbox, id, "T").await;
        outbox.sent(&[row]).await.unwrap();
    }
    let mut names = Vec::new();
    loop {
        let next = planned(outbox, 2).await;
        let Some((range, name)) = next.first() else { break };
        assert_eq!(next.len(), 1);
        names.push(name.clone());
        upload(outbox, range.export_id.as_str(), MANIFEST_TYPE).await;
    }
    assert_eq!(names, ["T 1 to 2", "T 3 to 4", "T 5 to 5"]);
}

async fn what_is_over_goes_once_a_manifest_that_is_sent_names_it(outbox: &impl Outbox) {
    let over = async |after: i64| -> Vec<(i64, bool)> {
        outbox.over(after, 10).await.unwrap().iter().map(|over| (over.row.row, over.is_named)).collect()
    };
    let (first, second) = (send_over(outbox, "a", "T").await, send_over(outbox, "b", "T").await);
    assert_eq!(over(0).await, [(first, false), (second, false)]);
    assert_eq!(over(first).await, [(second, false)]);
    let range = outbox.plan_manifests(10).await.unwrap().remove(0);
    assert_eq!(over(0).await, [(first, false), (second, false)], "it is not made");
    let manifest = send_over(outbox, range.export_id.as_str(), MANIFEST_TYPE).await;
    assert_eq!(over(0).await, [(first, true), (second, true)], "the manifest stays as long as what it names");

    let again = OffsetDateTime::from_unix_timestamp(9_000_000_000).unwrap();
    for tries in 1..=2 {
        outbox.not_deleted(second, "a lease \0", again).await.unwrap();
        let refused = outbox.get(second).await.unwrap().unwrap();
        assert_eq!((refused.state, refused.tries, refused.due_at), (State::Sent, tries, Some(again)));
        assert!(refused.last_error.is_some_and(|error| error.starts_with("a lease")));
    }
    assert_eq!(over(0).await, [(first, true), (second, true)], "it is over all the same");
    assert!(outbox.due(10).await.unwrap().is_empty(), "and no message is due");

    assert_eq!(outbox.forget(&[first]).await.unwrap(), 1);
    assert_eq!(outbox.forget(&[first]).await.unwrap(), 0, "it is gone");
    assert!(outbox.get(first).await.unwrap().is_none());
    assert!(outbox.history(first).await.unwrap().is_empty());
    assert_eq!(over(0).await, [(second, true)]);
    outbox.forget(&[second]).await.unwrap();
    assert_eq!(over(0).await, [(manifest, false)], "no manifest names it yet");

    let third = send_over(outbox, "a", "T").await;
    assert_eq!(outbox.get(third).await.unwrap().unwrap().sequence, Some(3), "numbers go on");
    let next = planned(outbox, 10).await;
    let names: Vec<&str> = next.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["T 3 to 3", "Waybill.Manifest 1 to 1"], "what was named is named once");
    let mut own = Vec::new();
    for (range, _) in &next {
        own.push(send_over(outbox, range.export_id.as_str(), MANIFEST_TYPE).await);
    }
    assert_eq!(over(0).await, [(manifest, true), (third, true)]);
    assert_eq!(outbox.forget(&[manifest, third]).await.unwrap(), 2);
    assert_eq!(over(0).await, [(own[0], false), (own[1], false)]);
    assert!(planned(outbox, 10).await.is_empty());
}

async fn what_is_not_over_is_not_forgotten(outbox: &impl Outbox) {
    let forever = upload(outbox, "forever", "T").await;
    outbox.sent(&[forever]).await.unwrap();
    let uploaded = Plan { expires_at: Some(OffsetDateTime::UNIX_EPOCH), ..plan("uploaded", "T") };
    let Planned::Begin(attempt, _) = outbox.plan(uploaded).await.unwrap() else { panic!("it is new") };
    outbox.number(&attempt, facts()).await.unwrap();
    let uploaded = outbox.uploaded(&attempt).await.unwrap().row;
    assert!(outbox.over(0, 10).await.unwrap().is_empty());
    assert_eq!(outbox.forget(&[forever, uploaded]).await.unwrap(), 0);

    // A void export that has no number is missed by nobody, also when another took its place.
    let voided = Plan { expires_at: Some(OffsetDateTime::UNIX_EPOCH), ..plan("voided", "T") };
    let Planned::Begin(attempt, _) = outbox.plan(voided).await.unwrap() else { panic!("it is new") };
    outbox.void(&attempt, "interrupted").await.unwrap();
    let again = send_over(outbox, "voided", "T").await;
    let over = outbox.over(0, 10).await.unwrap();
    let told: Vec<_> = over.iter().map(|over| (over.row.row, over.is_named)).collect();
    assert_eq!(told, [(attempt.row, true), (again, false)]);
    assert_eq!(outbox.forget(&[again]).await.unwrap(), 1);
    assert_eq!(outbox.get(attempt.row).await.unwrap().unwrap().replaced_by, None);
    assert_eq!(outbox.forget(&[attempt.row]).await.unwrap(), 1);
}

async fn lists_come_newest_first_and_in_pages(outbox: &impl Outbox) {
    for id in ["a", "b", "c"] {
        upload(outbox, id, "T").await;
        begin(outbox, &format!("{id}-other"), "U").await;
    }
    let list = async |filter: ListFilter| -> Vec<String> {
        let rows = outbox.list(&filter).await.unwrap();
        rows.iter().map(|row| row.export_id.as_str().to_owned()).collect()
    };
    let all = ListFilter::default;
    assert_eq!(list(all()).await, ["c-other", "c", "b-other", "b", "a-other", "a"]);
    assert_eq!(list(ListFilter { state: Some(State::Uploaded), ..all() }).await, ["c", "b", "a"]);
    assert_eq!(list(ListFilter { blob_type: Some("U".to_owned()), most: 2, ..all() }).await, ["c-other", "b-other"]);
    assert_eq!(list(ListFilter { export_id: Some("b".to_owned()), ..all() }).await, ["b"]);
    assert_eq!(list(ListFilter { correlation_id: Some("c-a".to_owned()), ..all() }).await, ["a"]);
    let first_page = outbox.list(&ListFilter { most: 4, ..all() }).await.unwrap();
    assert_eq!(list(ListFilter { before: Some(first_page[3].row), ..all() }).await, ["a-other", "a"]);
}

async fn one_relay_at_a_time<O: Outbox + Clone, F: Future<Output = O>>(open: &impl Fn(&'static str) -> F) {
    let (first, second) = (open("relay").await, open("relay").await);
    let lock = first.lock_relay().await.unwrap().expect("nobody has it");
    assert!(lock.due(10).await.unwrap().expect("it is ours").is_empty());
    upload(&second, "due", "T").await;
    assert_eq!(lock.due(10).await.unwrap().expect("it is ours").len(), 1, "what is due is read under it");
    assert!(second.lock_relay().await.unwrap().is_none());
    assert!(first.clone().lock_relay().await.unwrap().is_none());
    drop(lock);
    while second.lock_relay().await.unwrap().is_none() {
        tokio::time::sleep(A_MOMENT).await;
    }
}

async fn abandoned_plans_are_given_out_once<O: Outbox + Clone, F: Future<Output = O>>(
    open: &impl Fn(&'static str) -> F,
) {
    let (first, second, third) = (open("abandon").await, open("abandon").await, open("abandon").await);
    assert_eq!(first.epoch(), second.epoch());
    let bare = begin(&first, "bare", "T").await;
    let numbered = begin(&first, "numbered", "T").await;
    first.number(&numbered, facts()).await.unwrap();
    upload(&first, "uploaded", "T").await;
    begin(&second, "alive", "T").await;
    assert!(second.claim_abandoned().await.unwrap().is_empty(), "everybody is there");
    let clone = first.clone();
    drop(first);
    assert!(second.claim_abandoned().await.unwrap().is_empty(), "a clone is there");
    drop(clone);
    let claimed = loop {
        let claimed = second.claim_abandoned().await.unwrap();
        if !claimed.is_empty() {
            break claimed;
        }
        tokio::time::sleep(A_MOMENT).await;
    };
    let rows: Vec<i64> = claimed.iter().map(|row| row.row).collect();
    assert_eq!(rows, [bare.row, numbered.row]);
    assert!(third.claim_abandoned().await.unwrap().is_empty(), "given out once");
    assert!(overtaken(third.uploaded(&numbered).await));
    second.uploaded(&claimed[1].attempt()).await.unwrap();
    second.void(&claimed[0].attempt(), "interrupted").await.unwrap();
}

async fn callers_at_once_get_numbers_of_their_own<O: Outbox + Clone>(outbox: &O) {
    let one = async |n: usize| {
        let attempt = begin(outbox, &format!("x{n}"), "T").await;
        let number = outbox.number(&attempt, facts()).await.unwrap();
        outbox.uploaded(&attempt).await.unwrap();
        number
    };
    let mut numbers = futures::future::join_all((0..50).map(one)).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=50).collect::<Vec<u64>>());
    assert_eq!(outbox.due(100).await.unwrap().len(), 50);
}
