//! One column of a sample: what all of its values could be.

use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;
use waybill_contracts::ColumnType;
use waybill_formats::{
    Field,
    scalar::{Instant, Number, parse_date},
};

/// What was seen of a column.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    /// Values that are not null.
    pub(super) values: usize,
    fits: Fits,
    /// Of each row a hash of the value's text; 0 for none. Empty for a column that can be neither key nor reference.
    pub(super) hashes: Vec<u64>,
}

/// Which types every value so far has.
#[derive(Debug, Clone, Copy)]
struct Fits {
    boolean: bool,
    integer: bool,
    decimal: bool,
    timestamp: bool,
    date: bool,
    uuid: bool,
    json: bool,
    /// A date and a time without an offset, of one length: as text it sorts as the time does.
    local_time: Option<usize>,
}

impl Column {
    /// One that begins with the row of this index.
    pub(super) fn new(name: &str, row: usize) -> Self {
        let fits = Fits {
            boolean: true,
            integer: true,
            decimal: true,
            timestamp: true,
            date: true,
            uuid: true,
            json: true,
            local_time: Some(0),
        };
        Self { name: name.to_owned(), values: 0, fits, hashes: vec![0; row] }
    }

    /// Takes note of a row's value. `text_only`: the format has no other values than text.
    pub(super) fn see(&mut self, value: &Field<'_>, text_only: bool) {
        let hash = match value {
            Field::Missing | Field::Null => 0,
            Field::Bool(value) => self.see_value(if *value { "true" } else { "false" }, |fits, _| fits.only_boolean()),
            Field::Number(text) => self.see_value(text, Fits::see_number),
            Field::Text(text) if text_only => self.see_value(text, Fits::see_text),
            // A text of JSON that looks like a number was meant as text.
            Field::Text(text) => self.see_value(text, |fits, text| {
                fits.see_text(text);
                (fits.boolean, fits.integer, fits.decimal) = (false, false, false);
            }),
            Field::Nested(raw) => self.see_value(&String::from_utf8_lossy(raw), |fits, _| fits.only_json()),
        };
        self.hashes.push(hash);
    }

    fn see_value(&mut self, text: &str, see: impl FnOnce(&mut Fits, &str)) -> u64 {
        self.values += 1;
        see(&mut self.fits, text);
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish().max(1)
    }

    /// Fills up to so many rows: the column was not in the last ones.
    pub(super) fn fill(&mut self, rows: usize) {
        self.hashes.resize(rows, 0);
    }

    /// The type; `None` when all that came was null.
    pub(super) fn kind(&self) -> Option<ColumnType> {
        let Fits { boolean, integer, decimal, timestamp, date, uuid, json, .. } = self.fits;
        let kinds = [
            (boolean, ColumnType::Boolean),
            (integer, ColumnType::Integer),
            (decimal, ColumnType::Decimal),
            (timestamp, ColumnType::Timestamp),
            (date, ColumnType::Date),
            (uuid, ColumnType::Uuid),
            (json, ColumnType::Json),
            (true, ColumnType::Text),
        ];
        let kind = kinds.into_iter().find_map(|(fits, kind)| fits.then_some(kind));
        kind.filter(|_| self.values > 0)
    }

    pub(super) fn is_local_time(&self) -> bool {
        self.fits.local_time.is_some_and(|length| length > 0)
    }

    /// Whether it may be a part of a key, or of a reference to one.
    pub(super) fn may_be_key(&self) -> bool {
        let kind = self.kind();
        matches!(
            kind,
            Some(ColumnType::Integer | ColumnType::Text | ColumnType::Uuid | ColumnType::Timestamp | ColumnType::Date)
        )
    }

    /// Different values, sorted.
    pub(super) fn distinct(&self) -> Vec<u64> {
        let mut values: Vec<u64> = self.hashes.iter().copied().filter(|hash| *hash != 0).collect();
        values.sort_unstable();
        values.dedup();
        values
    }
}

impl Fits {
    const NONE: Self = Self {
        boolean: false,
        integer: false,
        decimal: false,
        timestamp: false,
        date: false,
        uuid: false,
        json: false,
        local_time: None,
    };

    fn only_boolean(&mut self) {
        *self = Self { boolean: self.boolean, ..Self::NONE };
    }

    fn only_json(&mut self) {
        *self = Self { json: self.json, ..Self::NONE };
    }

    fn see_number(&mut self, text: &str) {
        *self = Self { integer: self.integer && text.parse::<i64>().is_ok(), decimal: self.decimal, ..Self::NONE };
    }

    fn see_text(&mut self, text: &str) {
        self.json = false;
        self.boolean &= matches!(text, "true" | "false");
        // 007 is a code, and would be 7 as a number.
        let digits = text.trim_start_matches('-');
        let is_code = digits.starts_with('0') && digits.len() > 1 && !digits.starts_with("0.");
        let is_plain = !is_code && !text.starts_with('+');
        self.integer &= is_plain && text.parse::<i64>().is_ok();
        self.decimal &= is_plain && !text.contains(['e', 'E']) && Number::parse(text).is_some();
        self.timestamp &= Instant::parse(text).is_some();
        self.date &= parse_date(text).is_some();
        self.uuid &= text.len() == 36 && Uuid::try_parse(text).is_ok();
        self.local_time = self.local_time.filter(|length| *length == 0 || *length == text.len());
        if self.local_time.is_some() {
            self.local_time = Instant::parse(&format!("{text}Z")).map(|_| text.len());
        }
    }
}
