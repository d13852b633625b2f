//! `complete`: up to which number of each publisher's sequence every file came and took effect.

use std::collections::BTreeMap;

use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, cut, instant, json, line, many, table},
    settings::subscriber::Settings,
};
use waybill_contracts::is_of_types;
use waybill_subscriber::inbox::{Inbox, SequenceNamed, SequenceSeen};

pub(crate) async fn complete(
    common: &Common,
    settings: &Settings,
    types: Option<Vec<String>>,
    up_to: Option<u64>,
) -> anyhow::Result<Outcome> {
    let inbox = settings.existing_inbox().await?;
    let types = types.or_else(|| settings.types().map(<[String]>::to_vec));
    let is_wanted = |blob_type: &str| types.as_ref().is_none_or(|types| is_of_types(blob_type, types));
    let (mut sequences, mut named) = (inbox.sequences().await?, inbox.named().await?);
    sequences.retain(|of| is_wanted(&of.blob_type));
    // Of the others a file came.
    named.retain(|of| is_wanted(&of.blob_type) && !sequences.iter().any(|seen| is_same(seen, of)));
    let is_complete = match up_to {
        None => sequences.iter().all(SequenceSeen::is_complete),
        Some(number) => is_complete_to(number, &sequences, &named),
    };
    if common.format == Format::Json {
        json(&sequences)?;
    } else {
        say(&sequences, &named)?;
        if let Some(number) = up_to {
            let not = if is_complete { "" } else { "not " };
            line(format_args!("{not}everything up to {} is there and in effect", count(number)))?;
        }
    }
    Ok(if is_complete { Outcome::Done } else { Outcome::Quarantined })
}

fn is_same(seen: &SequenceSeen, named: &SequenceNamed) -> bool {
    (&seen.publisher, &seen.epoch, &seen.blob_type) == (&named.publisher, &named.epoch, &named.blob_type)
}

/// Whether the latest epoch of each publisher's type is. One of which nothing came is not.
fn is_complete_to(number: u64, sequences: &[SequenceSeen], named_alone: &[SequenceNamed]) -> bool {
    let mut latest: BTreeMap<(&str, &str), (&str, bool)> = BTreeMap::new();
    let seen = sequences.iter().map(|of| (&of.blob_type, &of.publisher, &of.epoch, of.is_complete_to(number)));
    let alone = named_alone.iter().map(|of| (&of.blob_type, &of.publisher, &of.epoch, false));
    for (blob_type, publisher, epoch, is_complete) in seen.chain(alone) {
        let of = latest.entry((blob_type, publisher)).or_insert((epoch, is_complete));
        if *epoch.as_str() > *of.0 {
            *of = (epoch, is_complete);
        }
    }
    !latest.is_empty() && latest.values().all(|(_, is_complete)| *is_complete)
}

fn say(sequences: &[SequenceSeen], named_alone: &[SequenceNamed]) -> anyhow::Result<()> {
    for of in named_alone {
        line(format_args!(
            "{}: manifests of {} name {}, and none came: from before the subscription or lost",
            cut(&of.blob_type, 40),
            cut(&of.publisher, 30),
            many(of.up_to, "number")
        ))?;
    }
    if sequences.is_empty() && !named_alone.is_empty() {
        return Ok(());
    }
    if sequences.is_empty() {
        return line(format_args!("no file has a number in a publisher's sequence, so nobody can say what is missing"));
    }
    table(
        &["TYPE", "PUBLISHER", "EPOCH", "FROM", "APPLIED TO", "LAST", "NAMED TO", "MISSING"],
        sequences.iter().map(|of| {
            vec![
                cut(&of.blob_type, 40),
                cut(&of.publisher, 30),
                cut(&of.epoch, 36),
                count(of.first),
                of.applied_to.map_or_else(|| "-".to_owned(), count),
                count(of.last),
                of.named_to.map_or_else(|| "-".to_owned(), count),
                count(of.missing),
            ]
        }),
    )?;
    for of in sequences {
        let blob_type = cut(&of.blob_type, 40);
        if of.first > 1 {
            let before = many(of.first - 1, "file");
            line(format_args!(
                "{blob_type}: {before} before the first that came, from before the subscription or lost"
            ))?;
        }
        let gaps = of.gaps.iter().map(|gap| {
            let since = instant(gap.since);
            let numbers =
                if gap.from == gap.to { count(gap.from) } else { format!("{} to {}", count(gap.from), count(gap.to)) };
            format!("{numbers} since {since}")
        });
        let named = gaps.collect::<Vec<_>>().join(", ");
        if of.missing > 0 {
            let named_all = of.gaps.iter().map(|gap| gap.to - gap.from + 1).sum::<u64>() == of.missing;
            let more = if named_all { "" } else { " and more" };
            line(format_args!(
                "{blob_type}: never announced: {named}{more}. `reconcile` finds files whose messages are lost"
            ))?;
        }
        if let Some(open) = &of.open {
            line(format_args!(
                "{blob_type}: {} is {}: waybill-subscriber show {}",
                count(open.sequence),
                open.state,
                open.id
            ))?;
        }
    }
    Ok(())
}
