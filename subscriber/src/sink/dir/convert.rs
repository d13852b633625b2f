//! A finished file of JSON Lines, in the format that is wanted.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
};

use waybill_contracts::{Format, Reason};
use waybill_formats::{Compression, DecodeOptions, Limits, Row, RowDecoder, RowWriter, Source, Step, WriterOptions};

use crate::sink::lines::Lines;

/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// Bytes written at once.
const READY: usize = 64 << 10;

/// Writes the rows of `lines` to the new file `to`, synced; those that the format cannot carry are answered as bad lines.
pub(super) fn convert(lines: &Path, to: &Path, format: Format) -> io::Result<Vec<u8>> {
    let options = match WriterOptions::of(format) {
        Some(options) => options,
        None => WriterOptions::Csv { columns: columns(lines)? },
    };
    let mut writer = RowWriter::new(options, Compression::None);
    let mut file = File::create(to)?;
    let mut unfit = Lines::default();
    each_row(lines, |row| {
        if let Err(error) = writer.copy(row) {
            let problem = format!("{}: {}", format.content_type(), error.problem());
            unfit.add_bad((row.number(), row.offset()), Reason::UnsupportedFormat, &problem, row.raw());
        }
        match writer.take(READY) {
            Some(ready) => file.write_all(&ready),
            None => Ok(()),
        }
    })?;
    file.write_all(&writer.finish().rest)?;
    file.sync_all()?;
    Ok(unfit.bad)
}

/// Names of all fields, in the order in which they first appear.
fn columns(lines: &Path) -> io::Result<Vec<String>> {
    let (mut names, mut seen) = (Vec::new(), HashSet::new());
    each_row(lines, |row| {
        row.for_each(&mut |name, _| {
            if !seen.contains(name.as_ref()) {
                seen.insert(name.to_string());
                names.push(name.into_owned());
            }
        });
        Ok(())
    })?;
    Ok(names)
}

fn each_row(lines: &Path, mut row: impl FnMut(&Row<'_>) -> io::Result<()>) -> io::Result<()> {
    // They came through the limits of the configuration once.
    let limits = Limits { row_bytes_max: usize::MAX, plain_bytes_max: u64::MAX, ..Limits::default() };
    let mut decoder = RowDecoder::new(DecodeOptions { limits, ..DecodeOptions::new(Source::JsonLines) });
    let mut file = File::open(lines)?;
    let mut piece = vec![0; PIECE];
    loop {
        match decoder.next().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Step::NeedInput => match file.read(&mut piece)? {
                0 => decoder.end(),
                length => decoder.feed(piece.get(..length).unwrap_or_default().to_vec().into()),
            },
            Step::Batch(batch) => batch.rows().try_for_each(|found| row(&found))?,
            Step::Done(_) => return Ok(()),
        }
    }
}
