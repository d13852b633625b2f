//! Values on their way to PostgreSQL and back: instants, and texts with a zero in them, which it does not take.

use std::{borrow::Cow, error::Error, time::Duration};

use bytes::{BufMut, BytesMut};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use waybill_store::tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::FileKey;

/// 2000-01-01 in microseconds since 1970: where PostgreSQL begins to count.
const EPOCH: i64 = 946_684_800_000_000;
/// Farther ahead than any clock of ours: a thousand years.
const AHEAD_MAX: Duration = Duration::from_secs(1_000 * 365 * 86_400);

/// An instant as PostgreSQL holds it, in whole microseconds. Service Bus tells milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct At(i64);

impl At {
    pub(super) fn of(instant: OffsetDateTime) -> Self {
        let micros = instant.unix_timestamp_nanos().div_euclid(1_000);
        Self(i64::try_from(micros).unwrap_or(i64::MAX).saturating_sub(EPOCH))
    }

    pub(super) fn instant(self) -> OffsetDateTime {
        let nanos = (i128::from(self.0) + i128::from(EPOCH)) * 1_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl ToSql for At {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for At {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    accepts!(TIMESTAMPTZ);
}

/// For `make_interval(secs => …)`.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.min(AHEAD_MAX).as_secs_f64()
}

/// A text that is only shown and looked for: zeros become U+FFFD.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// What a file is found by.
pub(super) fn hash(key: &FileKey) -> Vec<u8> {
    Sha256::digest(key.as_str().as_bytes()).to_vec()
}

/// A key that can be read back: U+FFFD stands twice, and for a zero before a 0.
pub(super) fn key(key: &FileKey) -> Cow<'_, str> {
    let key = key.as_str();
    if key.contains(['\0', '\u{fffd}']) {
        key.replace('\u{fffd}', "\u{fffd}\u{fffd}").replace('\0', "\u{fffd}0").into()
    } else {
        key.into()
    }
}

/// Reads back what [`key`] made.
pub(super) fn key_of(stored: String) -> FileKey {
    if !stored.contains('\u{fffd}') {
        return FileKey::from_stored(stored);
    }
    let mut key = String::with_capacity(stored.len());
    let mut characters = stored.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{fffd}' => key.push(if characters.next() == Some('0') { '\0' } else { '\u{fffd}' }),
            other => key.push(other),
        }
    }
    FileKey::from_stored(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_reads_back_and_has_no_zero(text in "(\0|\u{fffd}|0|[a-c])*") {
            let file = FileKey::from_stored(text);
            let stored = key(&file).into_owned();
            prop_assert!(!stored.contains('\0'));
            prop_assert_eq!(key_of(stored), file);
        }

        #[test]
        fn an_instant_reads_back(micros in -60_000_000_000_000_000_i64..250_000_000_000_000_000) {
            let instant = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).unwrap();
            prop_assert_eq!(At::of(instant).instant(), instant);
        }
    }
}
