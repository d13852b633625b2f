//! Rows that are only looked at.

use waybill_contracts::{Entities, Media};
use waybill_formats::Limits;

use super::world::{Running, World, builder, packed, rows, rows_in};
use crate::{
    inbox::{Inbox, State},
    look::{FileRows, LookError},
    tests::sink::MemorySink,
};

/// Good rows as JSON, numbers of the bad ones.
async fn all(mut file: FileRows) -> Result<(Vec<String>, Vec<u64>), LookError> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    while let Some(batch) = file.next().await? {
        good.extend(batch.rows().map(|row| row.to_json().into_owned()));
        bad.extend(batch.bad().iter().map(|bad| bad.row));
    }
    assert_eq!(file.stats().unwrap().rows, (good.len() + bad.len()) as u64);
    assert!(file.next().await?.is_none(), "the end stays the end");
    Ok((good, bad))
}

#[tokio::test]
async fn rows_of_a_file_are_read_again_whatever_became_of_it() {
    let world = World::new().await;
    world.publish("b", "{\"id\":1}\nbroken\n{\"id\":2.50}\n", "").await;
    world.send(&["no waybill".to_owned(), world.waybill("T", "gone", r#""expiresAt":"2020-01-01T00:00:00Z""#)]).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, MemorySink::default());
    let done = rows_in(&inbox, State::Done, 1).await.remove("c-b").unwrap();
    let no_waybill = rows_in(&inbox, State::Quarantined, 1).await.into_values().next().unwrap();
    let gone = rows_in(&inbox, State::Expired, 1).await.remove("c-gone").unwrap();
    running.stop().await;

    let before = inbox.get(done.id).await.unwrap().unwrap();
    for _ in 0..2 {
        let (good, bad) = all(subscriber.rows(done.id).await.unwrap()).await.unwrap();
        assert_eq!((good, bad), (vec!["{\"id\":1}".to_owned(), "{\"id\":2.50}".to_owned()], vec![2]));
    }
    let after = inbox.get(done.id).await.unwrap().unwrap();
    assert_eq!((after.changed_at, after.attempts), (before.changed_at, before.attempts), "nothing is noted");

    let unknown = subscriber.rows(99).await.unwrap_err();
    assert_eq!(unknown.to_string(), "the inbox has no row 99; `waybill-subscriber list` shows their numbers");
    assert!(matches!(subscriber.rows(no_waybill.id).await.unwrap_err(), LookError::NoFile { .. }));
    assert!(matches!(subscriber.rows(gone.id).await.unwrap_err(), LookError::Fetch(_)));
}

#[tokio::test]
async fn a_local_file_is_read_packed_or_not_and_its_end_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    let media = |text: &str| Media::parse(text).unwrap();
    let open = async |text: &str| FileRows::of_file(&path, media(text), None, &Limits::default()).await;
    for bytes in [rows(30_000).into_bytes(), packed(30_000)] {
        std::fs::write(&path, bytes).unwrap();
        let (good, bad) = all(open("application/jsonl").await.unwrap()).await.unwrap();
        assert_eq!((good.len(), good[29_999].as_str(), bad.len()), (30_000, "{\"id\":30000}", 0));
    }
    let cut = packed(30_000);
    std::fs::write(&path, &cut[..cut.len() - 9]).unwrap();
    assert!(matches!(all(open("application/jsonl").await.unwrap()).await, Err(LookError::Rows(_))));

    std::fs::write(&path, b"1;Stra\xdfe\n").unwrap();
    let refused = open("text/csv; header=absent; delimiter=semicolon; charset=latin1").await.unwrap_err();
    assert!(matches!(refused, LookError::Rows(_)), "{refused:?}");
    let toml = "[entity.a]\nkey = [\"id\"]\ncolumns = { id = \"integer\", street = \"text\" }";
    let entities = Entities::parse(toml, "e").unwrap();
    let media = media("text/csv; header=absent; delimiter=semicolon; charset=latin1");
    let file = FileRows::of_file(&path, media, entities.for_type("a"), &Limits::default()).await.unwrap();
    assert_eq!(all(file).await.unwrap().0, ["{\"id\":\"1\",\"street\":\"Straße\"}"]);

    std::fs::remove_file(&path).unwrap();
    assert!(matches!(open("text/csv").await, Err(LookError::Io { .. })));
}
