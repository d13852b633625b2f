//! What the configuration's types mean for the files that were announced: names that no file has, and files that an earlier
//! choice of types put aside.

use std::collections::{BTreeMap, BTreeSet};

use waybill_cli::{
    output::{in_one_line, line},
    settings::subscriber::Settings,
};
use waybill_contracts::{Entities, Metadata, is_of_types};
use waybill_subscriber::inbox::{Inbox, InboxError, ListFilter, OTHER_TYPE, Pages, State, TypeTotals};

/// Rows of the inbox that are looked at together.
const PAGE: u32 = 500;

/// Parts of the configuration that name blobTypes of which no file has come. None where no file has come at all: then there is
/// nothing to compare with.
pub(super) fn unseen(settings: &Settings, entities: &Entities, announced: &[TypeTotals]) -> Vec<String> {
    if announced.is_empty() {
        return Vec::new();
    }
    let is_seen = |name: &str| announced.iter().any(|of| of.blob_type == name);
    let of_entities = entities.0.values().filter(|entity| {
        !entity.types.iter().any(|name| is_seen(name)) && entity.types.iter().any(|name| settings.wants(name))
    });
    let of_entities = of_entities.map(|entity| format!("entity {:?} ({})", entity.name, entity.types.join(", ")));
    let of_filters = settings.filters().keys().filter(|name| !is_seen(name) && settings.wants(name));
    let of_types = settings.types().into_iter().flatten().filter(|pattern| {
        let pattern = std::slice::from_ref(*pattern);
        !announced.iter().any(|of| is_of_types(&of.blob_type, pattern))
    });
    of_entities
        .chain(of_filters.map(|name| format!("the filter of {name:?}")))
        .chain(of_types.map(|pattern| format!("{pattern:?} of `types`")))
        .collect()
}

/// The same in a sentence; `None` where every name has been met.
pub(super) fn say_unseen(unseen: &[String], announced: &[TypeTotals]) -> Option<String> {
    const NAMED_MAX: usize = 8;
    if unseen.is_empty() {
        return None;
    }
    let some = |names: Vec<&str>| {
        let more = names.len().saturating_sub(NAMED_MAX);
        let shown = names.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    };
    Some(format!(
        "no file so far has a blobType that is named by {}; case counts, and what came is of the types {}",
        some(unseen.iter().map(String::as_str).collect()),
        some(announced.iter().map(|of| of.blob_type.as_str()).collect())
    ))
}

/// Says that a name which was asked for is that of no entity and no type so far, and which there are.
pub(super) fn say_unknown(name: &str, entities: &Entities, announced: &[TypeTotals]) -> anyhow::Result<()> {
    let types = entities.0.values().flat_map(|entity| &entity.types).chain(announced.iter().map(|of| &of.blob_type));
    let known: BTreeSet<&str> = entities.0.keys().chain(types).map(String::as_str).collect();
    if known.contains(name) {
        return Ok(());
    }
    let known: Vec<String> = known.into_iter().map(in_one_line).collect();
    let known = if known.is_empty() { "none; give --entities".to_owned() } else { known.join(", ") };
    line(format_args!("{name:?} is no entity and no type that has come; case counts, and known are: {known}"))
}

/// Says that a pattern which was asked for stands for no type that is configured or has come; `None` where it stands for one.
pub(super) fn unknown(
    settings: &Settings,
    entities: &Entities,
    announced: &[TypeTotals],
    pattern: &str,
) -> Option<String> {
    let of_entities = entities.0.values().flat_map(|entity| &entity.types);
    let configured = of_entities.chain(settings.filters().keys()).chain(settings.types().into_iter().flatten());
    let known: BTreeSet<&String> = configured.chain(announced.iter().map(|of| &of.blob_type)).collect();
    let asked = [pattern.to_owned()];
    if known.iter().any(|known| is_of_types(known, &asked)) {
        return None;
    }
    let known: Vec<String> = known.into_iter().map(|known| in_one_line(known)).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Some(format!("{pattern:?} stands for no type that is configured or has come; case counts, and known are: {known}"))
}

/// The configured types, where a pattern that was asked for stands for none of them.
pub(super) fn left_out<'s>(settings: &'s Settings, announced: &[TypeTotals], pattern: &str) -> Option<&'s [String]> {
    let (types, pattern) = (settings.types()?, [pattern.to_owned()]);
    let stands_for_one = types.iter().any(|name| is_of_types(name, &pattern))
        || settings.wants(&pattern[0])
        || announced.iter().any(|of| settings.wants(&of.blob_type) && is_of_types(&of.blob_type, &pattern));
    (!stands_for_one).then_some(types)
}

/// Skipped files of a type that is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PutAside {
    pub(super) files: u64,
    /// As announced.
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// Those that an earlier choice of types put aside, and no person.
    pub(super) by_type: u64,
}

/// By type, for those that have any.
pub(super) async fn put_aside(
    inbox: &impl Inbox,
    settings: &Settings,
    announced: &[TypeTotals],
) -> Result<BTreeMap<String, PutAside>, InboxError> {
    let mut all = BTreeMap::new();
    for of in announced.iter().filter(|of| of.skipped > 0 && settings.wants(&of.blob_type)) {
        let mut sum = PutAside::default();
        let mut pages = Pages::new(skipped(Some(of.blob_type.clone())));
        while let Some(rows) = pages.next(inbox).await? {
            for row in rows.iter().filter(|row| row.file.is_some()) {
                let extras = Metadata::parse(row.body.as_bytes()).ok().and_then(|message| message.extras().ok());
                sum.files += 1;
                sum.rows += extras.as_ref().and_then(|extras| extras.rows).unwrap_or_default();
                sum.bytes += extras.and_then(|extras| extras.bytes).unwrap_or_default();
                sum.by_type += u64::from(row.problem.as_deref() == Some(OTHER_TYPE));
            }
        }
        all.insert(of.blob_type.clone(), sum);
    }
    Ok(all)
}

/// Files that are skipped, a page at a time.
pub(super) fn skipped(blob_type: Option<String>) -> ListFilter {
    ListFilter { state: Some(State::Skipped), blob_type, most: PAGE, ..ListFilter::default() }
}
