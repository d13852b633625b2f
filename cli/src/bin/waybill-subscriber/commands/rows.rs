//! A file's rows as JSON Lines, chosen and cut to size.

use std::io::{self, Write};

use anyhow::{Context, anyhow};
use clap::{CommandFactory, error::ErrorKind};
use waybill_cli::{args::Common, exit::Outcome, settings::subscriber::Settings};
use waybill_contracts::{Entity, Reason};
use waybill_formats::{
    Compression, FieldPath, Limits, Row, RowBatch, RowFilter, RowWriter, WriterOptions,
    filter::{FilterColumns, FilterFields},
};
use waybill_subscriber::{apply::filter_columns, inbox::Inbox, look::FileRows};

use super::media;
use crate::{Cli, Fields, RowsOf};

pub(crate) async fn rows(common: &Common, settings: &Settings, of: &RowsOf) -> anyhow::Result<Outcome> {
    let entities = settings.read_entities()?;
    let entity_of = |blob_type: Option<&str>| blob_type.and_then(|blob_type| entities.for_type(blob_type));
    let (mut file, entity) = match (of.id, &of.file) {
        (_, Some(path)) => {
            let entity = entity_of(of.blob_type.as_deref());
            let given = media::given(of.content_type.as_deref(), of.content_encoding.as_deref())?;
            let media = given.map_or_else(|| media::by_name(path), Ok)?;
            (FileRows::of_file(path, media, entity, &Limits::default()).await?, entity)
        }
        (Some(id), None) => {
            let subscriber = settings.looker(common.local.as_deref()).await?;
            let row = subscriber.inbox().get(id).await?;
            let entity = entity_of(row.and_then(|row| row.blob_type).as_deref());
            (subscriber.rows(id).await?, entity)
        }
        (None, None) => return Err(anyhow!("no file is named")),
    };
    let filter = of.predicate.as_deref().map(|predicate| compile(predicate, entity));
    let mut printer = Printer {
        name: file.name().to_owned(),
        filter,
        fields: of.fields.as_ref().map(|Fields(fields)| fields.as_slice()),
        left: of.limit.unwrap_or(u64::MAX),
        is_counting: of.count,
        writer: RowWriter::new(WriterOptions::JsonLines, Compression::None),
        bad: 0,
    };
    while printer.left > 0
        && let Some(batch) = file.next().await?
    {
        printer.print(&batch)?;
    }
    if of.count {
        writeln!(io::stdout(), "{}", of.limit.unwrap_or(u64::MAX) - printer.left)?;
    }
    Ok(if printer.bad > 0 { Outcome::Quarantined } else { Outcome::Done })
}

/// A wrong predicate is a wrong use of the command.
fn compile(predicate: &str, entity: Option<&Entity>) -> RowFilter {
    let columns = entity.map_or_else(FilterColumns::default, filter_columns);
    RowFilter::compile(predicate, &columns).unwrap_or_else(|error| {
        Cli::command().error(ErrorKind::ValueValidation, format!("--where {predicate:?}: {error}")).exit()
    })
}

/// Good rows to standard output, the others to standard error with their place.
struct Printer<'o> {
    name: String,
    filter: Option<RowFilter>,
    fields: Option<&'o [FieldPath]>,
    /// Rows that may still be printed.
    left: u64,
    /// Only how many they are is printed.
    is_counting: bool,
    writer: RowWriter,
    bad: u64,
}

impl Printer<'_> {
    fn print(&mut self, batch: &RowBatch) -> anyhow::Result<()> {
        let mut room = FilterFields::default();
        let mut bad = batch.bad().iter().peekable();
        for row in batch.rows() {
            while let Some(before) = bad.next_if(|bad| bad.row < row.number()) {
                self.say(before.row, before.offset, Reason::MalformedRow, &before.problem)?;
            }
            match self.filter.as_ref().map_or(Ok(true), |filter| filter.matches(&row, &mut room)) {
                Ok(true) => self.write(&row)?,
                Ok(false) => {}
                Err(fault) => self.say(row.number(), row.offset(), Reason::FilterError, &fault.to_string())?,
            }
            if self.left == 0 {
                break;
            }
        }
        if self.left > 0 {
            for bad in bad {
                self.say(bad.row, bad.offset, Reason::MalformedRow, &bad.problem)?;
            }
        }
        if let Some(lines) = self.writer.take(1) {
            io::stdout().write_all(&lines)?;
        }
        Ok(())
    }

    fn write(&mut self, row: &Row<'_>) -> anyhow::Result<()> {
        self.left -= 1;
        if self.is_counting {
            return Ok(());
        }
        let written = match self.fields {
            Some(fields) => self.writer.select(row, fields),
            None => self.writer.copy(row),
        };
        written.with_context(|| format!("{}: row {} cannot be written as JSON", self.name, row.number()))
    }

    fn say(&mut self, row: u64, offset: u64, reason: Reason, problem: &str) -> io::Result<()> {
        self.bad += 1;
        writeln!(io::stderr(), "{}: row {row}, byte {offset}: {reason}: {problem}", self.name)
    }
}
