//! Which files become which, checked once against what rows mean.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use waybill_contracts::{BlobType, Entities, Entity, Format, MANIFEST_TYPE, OnMissing};
use waybill_formats::{
    Compression, Field, RowFilter, RowWriter, WriterOptions,
    filter::{FilterColumns, FilterError},
};
use waybill_subscriber::{
    OnBadRow, SubscriberBuilder,
    apply::{EntityPlans, PlanError, filter_columns},
};

use crate::rule::{DELETED, Rule};

/// What is made of the files of some blobTypes.
#[derive(Debug, Clone)]
pub struct Job {
    to: String,
    from: Vec<String>,
    filter: Option<String>,
    fields: Option<Vec<String>>,
    format: Format,
    keep: Option<Duration>,
}

/// Why something cannot be republished as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the republishing as {to:?}: {problem}")]
pub struct JobError {
    /// The output's type.
    pub to: String,
    /// What is wrong.
    pub problem: String,
    /// It is wrong in the job's filter, so many characters after its begin.
    pub filter_at: Option<usize>,
}

/// All jobs, compiled. Each blobType is the input of one of them.
#[derive(Debug)]
pub struct Jobs {
    by_type: BTreeMap<String, Arc<Task>>,
    entities: Entities,
}

/// What is made of a file of one type.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) to: String,
    pub(crate) rule: Rule,
    pub(crate) format: Format,
    /// Of CSV.
    pub(crate) columns: Option<Vec<String>>,
    /// For how long the output may be fetched.
    pub(crate) keep: Option<Duration>,
}

impl Job {
    /// Files of the types `from` become files of the type `to`: all rows and fields, as JSON Lines, for ever.
    pub fn new(to: impl Into<String>, from: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let from = from.into_iter().map(Into::into).collect();
        Self { to: to.into(), from, filter: None, fields: None, format: Format::JsonLines, keep: None }
    }

    /// Only rows that match, in CEL, typed by the entity's columns (default: the entity's `where`).
    #[must_use]
    pub fn filter(mut self, predicate: impl Into<String>) -> Self {
        self.filter = Some(predicate.into());
        self
    }

    /// Only these fields of a row; key, version and references are among them.
    #[must_use]
    pub fn fields(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.fields = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// What the output is written in (default: JSON Lines). CSV has the columns of [`Job::fields`].
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// For how long the output may be fetched (default: for ever); then its blob can be pruned.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = Some(keep);
        self
    }

    fn error(&self, problem: impl Into<String>) -> JobError {
        JobError { to: self.to.clone(), problem: problem.into(), filter_at: None }
    }

    fn filter_error(&self, error: FilterError) -> JobError {
        JobError { to: self.to.clone(), problem: error.problem, filter_at: Some(error.at) }
    }

    fn check(&self) -> Result<(), JobError> {
        if let Err(error) = BlobType::new(self.to.as_str()) {
            return Err(self.error(error.to_string()));
        }
        if self.from.is_empty() {
            return Err(self.error("nothing says from which blobTypes; name them in `from`"));
        }
        for name in self.from.iter().chain([&self.to]) {
            if name == MANIFEST_TYPE {
                return Err(self.error(format!("{MANIFEST_TYPE} is the publisher's own type")));
            }
        }
        if self.from.iter().any(|name| name.contains('*')) {
            return Err(self.error("a star stands for nothing in `from`; name each blobType"));
        }
        self.check_names(self.fields.iter().flatten())?;
        let Some(fields) = &self.fields else {
            return match self.format {
                Format::Csv => Err(self.error("CSV needs its columns; name them in `fields`")),
                _ => Ok(()),
            };
        };
        let distinct: BTreeSet<&String> = fields.iter().collect();
        if fields.is_empty() || distinct.len() < fields.len() || fields.iter().any(String::is_empty) {
            return Err(self.error("`fields` are names, one at least, each its own"));
        }
        if fields.iter().any(|name| name == DELETED) {
            return Err(
                self.error(format!("{DELETED} tells deletions and is there by itself; take it out of `fields`"))
            );
        }
        Ok(())
    }

    /// Whether the output's format can have fields of these names: one that it cannot have would quarantine every file.
    fn check_names<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> Result<(), JobError> {
        let Some(options @ (WriterOptions::Xml { .. } | WriterOptions::XmlLines { .. })) =
            WriterOptions::of(self.format)
        else {
            return Ok(());
        };
        let mut writer = RowWriter::new(options, Compression::None);
        for name in names {
            // Nothing is done with what is written: the writer knows best what it can write.
            let field = (name.as_str(), Field::Text("x".into()));
            writer.row(&[field]).map_err(|error| self.error(error.problem()))?;
        }
        Ok(())
    }

    /// The rule for rows of one of its types.
    fn rule(&self, blob_type: &str, entities: &Entities, plans: &EntityPlans) -> Result<Rule, JobError> {
        let projection = self.fields.as_deref();
        let (Some(entity), Some(plan)) = (entities.for_type(blob_type), plans.for_type(blob_type)) else {
            let filter = self.filter.as_ref().map(|text| RowFilter::compile(text, &FilterColumns::default()));
            let filter = filter.transpose().map_err(|error| self.filter_error(error))?;
            return Ok(Rule::of_type(filter, projection));
        };
        let Some(version) = &entity.version else {
            return Err(self.error(format!(
                "rows of entity {:?} have no `version`, so that their place in the publisher's sequence says which is newer; the files \
                 of {:?} have other places. Declare a `version`",
                entity.name, self.to
            )));
        };
        if let Some(lacking) = entity.types.iter().find(|name| !self.from.contains(name)) {
            return Err(self.error(format!(
                "`from` lacks {lacking:?}, a type of entity {:?} as {blob_type:?} is: what it brings, deletions perhaps, would never \
                 get there; add it",
                entity.name
            )));
        }
        let of_version = std::iter::once(&version.field);
        self.check_names(entity.key.iter().chain(of_version.clone()))?;
        if let Some(fields) = projection {
            let references = entity.references.iter().flat_map(|reference| &reference.fields);
            let key = entity.key.iter().map(|name| (name, "of the key"));
            let needed = key
                .chain(of_version.clone().map(|name| (name, "the version")))
                .chain(references.map(|name| (name, "of a reference")));
            for (name, what) in needed {
                if !fields.contains(name) {
                    let entity = &entity.name;
                    let problem = format!(
                        "`fields` leaves out {name:?}, which is {what} of entity {entity:?}: without it rows cannot be used; add it"
                    );
                    return Err(self.error(problem));
                }
            }
        }
        let identity = entity.key.iter().chain(of_version).cloned();
        Ok(Rule::of_entity(Arc::clone(plan), identity, self.filter_of(entity)?, projection))
    }

    fn filter_of(&self, entity: &Entity) -> Result<Option<RowFilter>, JobError> {
        let text = match (&self.filter, &entity.filter) {
            (Some(_), Some(_)) => {
                let name = &entity.name;
                return Err(self.error(format!(
                    "it has a filter, and entity {name:?} has a `where` as well; leave one of them out"
                )));
            }
            (Some(text), None) => text.as_str(),
            (None, Some(predicate)) => predicate.text(),
            (None, None) => return Ok(None),
        };
        RowFilter::compile(text, &filter_columns(entity)).map(Some).map_err(|error| self.filter_error(error))
    }
}

impl Jobs {
    /// Compiles all of them.
    ///
    /// # Errors
    /// The first that cannot be done: a blobType that cannot be published, is the input of two jobs, or both output and
    /// input; a filter that is wrong; a projection that leaves out a key, version or reference; an entity without a
    /// declared version, or of more types than the job takes; CSV without columns; a field's name that XML cannot have.
    pub fn compile(jobs: &[Job], entities: &Entities) -> Result<Self, JobError> {
        let of_entities = |error: PlanError| JobError {
            to: jobs.first().map(|job| job.to.clone()).unwrap_or_default(),
            problem: error.to_string(),
            filter_at: None,
        };
        let plans = EntityPlans::compile(entities).map_err(of_entities)?;
        let mut by_type = BTreeMap::new();
        let mut outputs = BTreeSet::new();
        for job in jobs {
            job.check()?;
            if !outputs.insert(job.to.as_str()) {
                return Err(job.error("is there twice; name all its types in one `from`"));
            }
            if let Some(other) = jobs.iter().find(|other| other.from.contains(&job.to)) {
                let other = &other.to;
                return Err(job.error(format!(
                    "its files would be republished again, as {other:?}: take {:?} out of that `from`",
                    job.to
                )));
            }
            for blob_type in &job.from {
                if let Some(Task { to, .. }) = by_type.insert(blob_type.clone(), job.task(blob_type, entities, &plans)?)
                {
                    let problem = format!("{blob_type:?} becomes {to:?} already; a file becomes one other");
                    return Err(job.error(problem));
                }
            }
        }
        let by_type = by_type.into_iter().map(|(name, task)| (name, Arc::new(task))).collect();
        Ok(Self { by_type, entities: for_reading(entities) })
    }

    /// What a subscriber has to be told that gives files to these jobs: their types, what rows mean, and that malformed rows are
    /// to be seen.
    #[must_use]
    pub fn prepare(&self, builder: SubscriberBuilder) -> SubscriberBuilder {
        builder.entities(self.entities.clone()).types(self.types()).on_bad_row(OnBadRow::Quarantine)
    }

    /// The blobTypes that are republished.
    pub fn types(&self) -> impl Iterator<Item = String> {
        self.by_type.keys().cloned()
    }

    /// What files of this type become.
    #[must_use]
    pub fn becomes(&self, blob_type: &str) -> Option<&str> {
        self.by_type.get(blob_type).map(|task| task.to.as_str())
    }

    pub(crate) fn task(&self, blob_type: &str) -> Option<&Arc<Task>> {
        self.by_type.get(blob_type)
    }
}

impl Job {
    fn task(&self, blob_type: &str, entities: &Entities, plans: &EntityPlans) -> Result<Task, JobError> {
        let columns = self.fields.clone().filter(|_| self.format == Format::Csv).map(|mut columns| {
            columns.push(DELETED.to_owned());
            columns
        });
        let rule = self.rule(blob_type, entities, plans)?;
        Ok(Task { to: self.to.clone(), rule, format: self.format, columns, keep: self.keep })
    }
}

/// Nothing waits for a parent here: that is for the tables which the rows are for. And the jobs filter.
fn for_reading(entities: &Entities) -> Entities {
    let mut entities = entities.clone();
    for entity in entities.0.values_mut() {
        entity.filter = None;
        entity.references.iter_mut().for_each(|reference| reference.on_missing = OnMissing::Apply);
    }
    entities
}
