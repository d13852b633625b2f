//! The columns of a table: which field goes where, and which new fields become columns.

use std::collections::{HashMap, HashSet};

use waybill_contracts::{ColumnType, SchemaMode};
use waybill_formats::Field;

use super::value::{infer, infer_both, takes_decimal};

/// A table takes no more columns than this by itself; SQLite allows 2,000, PostgreSQL 1,600 (of which not all have room in one row:
/// what has none is rescued with it).
pub(crate) const COLUMNS_MAX: usize = 1_500;

/// A column that holds a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShapeColumn {
    /// The field's name.
    pub(crate) field: String,
    /// What fits it.
    pub(crate) kind: ColumnType,
    /// Its type came from the first values, so others may widen it.
    pub(crate) is_inferred: bool,
}

impl ShapeColumn {
    /// A column whose type stays.
    pub(crate) fn fixed(field: &str, kind: ColumnType) -> Self {
        Self { field: field.to_owned(), kind, is_inferred: false }
    }

    fn is_narrow(&self) -> bool {
        self.is_inferred && self.kind == ColumnType::Integer
    }
}

/// The columns of one table, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shape {
    /// Fields of the key, which has columns of its own.
    pub(crate) key: Vec<String>,
    /// The others, in the order in which statements name them.
    pub(crate) columns: Vec<ShapeColumn>,
    /// Columns of a table made by somebody else to which no field has come yet, and what fits them.
    pub(crate) free: HashMap<String, ColumnType>,
    /// Every column's name as the database compares it: without regard to case. Also of those that hold no field, and of dropped
    /// ones where the database counts them.
    pub(crate) taken: HashSet<String>,
}

/// What becomes of a new field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Grown {
    /// A column is added.
    Added(ShapeColumn),
    /// It goes to a column that is there and was not used so far.
    Adopted(ShapeColumn),
    /// Its column becomes one of decimals.
    Widened(ShapeColumn),
}

impl Shape {
    /// Whether all of `other`'s columns are there.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.columns.iter().all(|column| self.columns.contains(column))
    }

    /// Whether rows that were read for one are read for the other.
    pub(crate) fn reads_as(&self, other: &Self) -> bool {
        self.columns == other.columns
    }

    /// Fields of columns that a decimal widens.
    pub(crate) fn narrow(&self, mode: SchemaMode) -> impl Iterator<Item = &str> {
        let columns = self.columns.iter().filter(move |column| mode == SchemaMode::Evolve && column.is_narrow());
        columns.map(|column| column.field.as_str())
    }

    /// The new fields that get a column now, and the columns that get another type; all others stay what they are: rescued.
    pub(crate) fn grow(&self, fields: &NewFields, mode: SchemaMode, sql_name: impl Fn(&str) -> String) -> Vec<Grown> {
        let mut taken = self.taken.clone();
        let mut grown = Vec::new();
        for (field, kind) in fields.inferred() {
            let column = |kind, is_inferred| ShapeColumn { field: field.to_owned(), kind, is_inferred };
            if let Some(known) = self.columns.iter().find(|column| column.field == field) {
                if known.is_narrow() && kind == ColumnType::Decimal && mode == SchemaMode::Evolve {
                    grown.push(Grown::Widened(column(kind, true)));
                }
                continue;
            }
            if self.key.iter().any(|key| key == field) || is_reserved(field) || is_of_the_database(field) {
                continue;
            }
            let name = sql_name(field);
            if let Some(kind) = self.free.get(&name) {
                grown.push(Grown::Adopted(column(*kind, false)));
            } else if mode == SchemaMode::Evolve && taken.len() < COLUMNS_MAX && taken.insert(folded(&name)) {
                grown.push(Grown::Added(column(kind, true)));
            }
        }
        grown
    }
}

/// Names that the sink keeps for itself in every table.
pub(crate) fn is_reserved(field: &str) -> bool {
    let name = folded(field);
    name.is_empty() || name == "_rescued" || name.starts_with("_waybill")
}

/// Names of what databases keep of every row themselves, which no column that is added later can have: SQLite's rowid
/// ("ROWIDs and the INTEGER PRIMARY KEY") and PostgreSQL's system columns.
fn is_of_the_database(field: &str) -> bool {
    const NAMES: [&str; 9] = ["rowid", "oid", "_rowid_", "tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];
    NAMES.contains(&folded(field).as_str())
}

/// As SQLite compares names.
pub(crate) fn folded(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Fields of a batch that have no column yet, and the type that holds all of their values; and those whose column does not
/// hold them, see [`NewFields::see_in_narrow`].
#[derive(Debug, Default)]
pub(crate) struct NewFields {
    order: Vec<(String, Option<ColumnType>)>,
    places: HashMap<String, usize>,
}

impl NewFields {
    /// Takes note of a value.
    pub(crate) fn see(&mut self, field: &str, value: &Field<'_>) {
        self.note(field, infer(value));
    }

    /// Takes note of a value of a [narrow](Shape::narrow) column, if it takes a wider one.
    pub(crate) fn see_in_narrow(&mut self, field: &str, value: &Field<'_>) {
        if takes_decimal(value) {
            self.note(field, Some(ColumnType::Decimal));
        }
    }

    fn note(&mut self, field: &str, kind: Option<ColumnType>) {
        if let Some(place) = self.places.get(field) {
            let (_, seen) = &mut self.order[*place];
            *seen = match (*seen, kind) {
                (Some(one), Some(other)) => Some(infer_both(one, other)),
                (one, other) => one.or(other),
            };
        } else if self.order.len() < COLUMNS_MAX {
            self.places.insert(field.to_owned(), self.order.len());
            self.order.push((field.to_owned(), kind));
        }
    }

    fn inferred(&self) -> impl Iterator<Item = (&str, ColumnType)> {
        self.order.iter().filter_map(|(field, kind)| Some((field.as_str(), (*kind)?)))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn seen(fields: &[(&str, Field<'_>)]) -> NewFields {
        let mut new = NewFields::default();
        fields.iter().for_each(|(name, value)| new.see(name, value));
        new
    }

    fn grown(shape: &Shape, fields: &[(&str, Field<'_>)]) -> Vec<(String, ColumnType)> {
        let grown = shape.grow(&seen(fields), SchemaMode::Evolve, str::to_owned).into_iter();
        let added = grown.map(|grown| match grown {
            Grown::Added(column) => (column.field, column.kind),
            other => panic!("{other:?} is no addition"),
        });
        added.collect()
    }

    #[test]
    fn a_new_column_holds_every_value_that_its_first_batch_had() {
        let fields = [
            ("a", Field::Number("1")),
            ("a", Field::Null),
            ("a", Field::Number("1.5")),
            ("b", Field::Bool(true)),
            ("b", Field::Number("1")),
            ("c", Field::Null),
            ("d", Field::Nested(b"[]".into())),
            ("e", Field::Number("9223372036854775808")),
            ("f", Field::Null),
            ("f", Field::Text(Cow::Borrowed("x"))),
        ];
        let expected = [
            ("a", ColumnType::Decimal),
            ("b", ColumnType::Text),
            ("d", ColumnType::Json),
            ("e", ColumnType::Decimal),
            ("f", ColumnType::Text),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
        assert_eq!(grown(&Shape::default(), &fields), expected, "c has no value yet, so no type either");
    }

    #[test]
    fn names_that_cannot_be_columns_are_left_to_be_rescued() {
        let shape = Shape { taken: HashSet::from(["name".to_owned()]), ..Shape::default() };
        let value = || Field::Number("1");
        let fields = [
            ("Name", value()),
            ("_Rescued", value()),
            ("_waybill_version", value()),
            ("", value()),
            ("Size", value()),
            ("SIZE", value()),
        ];
        assert_eq!(grown(&shape, &fields), [("Size".to_owned(), ColumnType::Integer)]);
        assert!(shape.grow(&seen(&fields), SchemaMode::Freeze, str::to_owned).is_empty());
    }

    #[test]
    fn a_column_of_the_user_is_used_once_a_field_has_its_name() {
        let shape = Shape {
            free: HashMap::from([("Note".to_owned(), ColumnType::Text)]),
            taken: HashSet::from(["note".to_owned()]),
            ..Shape::default()
        };
        let column = ShapeColumn::fixed("Note", ColumnType::Text);
        let grown = shape.grow(&seen(&[("Note", Field::Number("1"))]), SchemaMode::Freeze, str::to_owned);
        assert_eq!(grown, [Grown::Adopted(column)]);
        let other_case = [("NOTE", Field::Number("1"))];
        assert!(shape.grow(&seen(&other_case), SchemaMode::Evolve, str::to_owned).is_empty(), "not its name exactly");
    }

    #[test]
    fn an_integer_column_is_widened_by_a_decimal_unless_its_type_was_declared() {
        let column = |is_inferred| ShapeColumn { field: "n".to_owned(), kind: ColumnType::Integer, is_inferred };
        let shape = |is_inferred| Shape { columns: vec![column(is_inferred)], ..Shape::default() };
        let text = |text| Field::Text(Cow::Borrowed(text));
        let wide = ShapeColumn { kind: ColumnType::Decimal, ..column(true) };
        for (value, is_wide) in [
            (Field::Number("12.50"), true),
            (Field::Number("9223372036854775808"), true),
            (text("12.50"), true),
            (Field::Number("-9223372036854775808"), false),
            (Field::Number("1e3"), false),
            (text(""), false),
            (text("many"), false),
            (Field::Null, false),
            (Field::Bool(true), false),
            (Field::Nested(b"[1.5]".into()), false),
        ] {
            let mut new = NewFields::default();
            new.see_in_narrow("n", &value);
            let grown = |shape: &Shape, mode| shape.grow(&new, mode, str::to_owned);
            let expected = if is_wide { vec![Grown::Widened(wide.clone())] } else { Vec::new() };
            assert_eq!(grown(&shape(true), SchemaMode::Evolve), expected, "{value:?}");
            assert_eq!(grown(&shape(true), SchemaMode::Freeze), []);
            assert_eq!(grown(&shape(false), SchemaMode::Evolve), []);
        }
        assert_eq!(shape(true).narrow(SchemaMode::Evolve).collect::<Vec<_>>(), ["n"]);
        assert_eq!(shape(true).narrow(SchemaMode::Freeze).count() + shape(false).narrow(SchemaMode::Evolve).count(), 0);
    }
}
