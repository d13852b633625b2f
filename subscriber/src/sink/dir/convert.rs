//! A finished file of JSON Lines, in the format that is wanted.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use waybill_contracts::{Format, Reason};
use waybill_formats::{Compression, DecodeOptions, Limits, Row, RowDecoder, RowWriter, Source, Step, WriterOptions};

use crate::sink::lines::Lines;

/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// Bytes written at once.
const READY: usize = 64 << 10;

/// Columns of a CSV file, and bytes of their names, at most: as many columns as readers take by default.
const COLUMNS_MAX: usize = 4_096;
const NAMES_BYTES_MAX: usize = 1 << 20;

/// Writes the rows of `lines` to the new file `to`, synced; those that the format cannot carry are handed over as bad lines, some
/// at a time.
pub(super) fn convert(
    lines: &File,
    to: &Path,
    format: Format,
    mut unfit: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let options = match WriterOptions::of(format) {
        Some(options) => options,
        None => WriterOptions::Csv { columns: columns(lines)? },
    };
    let mut writer = RowWriter::new(options, Compression::None);
    let mut file = File::create(to)?;
    let mut bad = Lines::default();
    each_row(lines, |row| {
        if let Err(error) = writer.copy(row) {
            let problem = format!("{}: {}", format.content_type(), error.problem());
            bad.add_bad((row.number(), row.offset()), Reason::UnsupportedFormat, &problem, row.raw());
            if bad.bad.len() >= READY {
                unfit(&bad.bad)?;
                bad.bad.clear();
            }
        }
        match writer.take(READY) {
            Some(ready) => file.write_all(&ready),
            None => Ok(()),
        }
    })?;
    if !bad.bad.is_empty() {
        unfit(&bad.bad)?;
    }
    file.write_all(&writer.finish().rest)?;
    file.sync_all()
}

/// Names of the fields, in the order in which they first appear, as far as there is room for columns: rows with others do not fit.
fn columns(lines: &File) -> io::Result<Vec<String>> {
    let (mut names, mut seen, mut bytes) = (Vec::new(), HashSet::new(), 0);
    each_row(lines, |row| {
        row.for_each(&mut |name, _| {
            let has_room = names.len() < COLUMNS_MAX && bytes + name.len() <= NAMES_BYTES_MAX;
            if has_room && !seen.contains(name.as_ref()) {
                bytes += name.len();
                seen.insert(name.to_string());
                names.push(name.into_owned());
            }
        });
        Ok(())
    })?;
    Ok(names)
}

fn each_row(mut lines: &File, mut row: impl FnMut(&Row<'_>) -> io::Result<()>) -> io::Result<()> {
    lines.seek(SeekFrom::Start(0))?;
    // They came through the limits of the configuration once.
    let limits = Limits { row_bytes_max: usize::MAX, plain_bytes_max: u64::MAX, ..Limits::default() };
    let mut decoder = RowDecoder::new(DecodeOptions { limits, ..DecodeOptions::new(Source::JsonLines) });
    let mut piece = vec![0; PIECE];
    loop {
        match decoder.next().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Step::NeedInput => match lines.read(&mut piece)? {
                0 => decoder.end(),
                length => decoder.feed(piece.get(..length).unwrap_or_default().to_vec().into()),
            },
            Step::Batch(batch) => batch.rows().try_for_each(|found| row(&found))?,
            Step::Done(_) => return Ok(()),
        }
    }
}
