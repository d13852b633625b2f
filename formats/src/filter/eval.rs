//! A predicate asked of one row.
//!
//! As CEL has it, `&&` and `||` are true or false whenever one side says so, whatever the other does; what is left of an
//! error is the row's. Otherwise than in CEL a comparison of text with a number is an error, not false: a column that a
//! CSV file gives as text would match nothing, and nobody would know.

use std::{borrow::Cow, cmp::Ordering, rc::Rc, str};

use waybill_contracts::ColumnType;

use super::{
    RowFilter, STEPS_MAX,
    node::{Arithmetic, Function, Loop, Node, Over},
};
use crate::{
    Field, json,
    scalar::{Instant, Number, parse_boolean, parse_date, parse_float},
};

/// Bytes of text that are looked at in one step.
const STEP_BYTES: usize = 64;
/// Of a value in an error.
const SHOWN_BYTES_MAX: usize = 80;
/// JSON in a text column that is read as such.
const NESTING_MAX: usize = 128;

#[derive(Debug, Clone)]
enum Value<'s> {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    /// A number of any length, and as it was written.
    Decimal(Number<'s>, &'s str),
    Text(Cow<'s, str>),
    Timestamp(Instant<'s>, &'s str),
    /// An object or array as JSON, checked.
    Nested(&'s str),
    List(Rc<[Value<'s>]>),
}

/// Why there is no value.
enum Fault {
    Problem(String),
    /// No other part of the predicate makes up for it.
    TooMuch,
}

type Found<T> = Result<T, Fault>;

fn problem<T>(problem: impl Into<String>) -> Found<T> {
    Err(Fault::Problem(problem.into()))
}

pub(super) fn matches(filter: &RowFilter, fields: &[Field<'_>], is_xml: bool) -> Result<bool, String> {
    let mut eval = Eval { filter, fields, variables: Vec::new(), left: STEPS_MAX, is_xml };
    eval.truth(&filter.root).map_err(|fault| match fault {
        Fault::Problem(problem) => problem,
        Fault::TooMuch => format!("it takes more than {STEPS_MAX} steps for this row; loop over less, or declare less"),
    })
}

struct Eval<'s> {
    filter: &'s RowFilter,
    fields: &'s [Field<'s>],
    variables: Vec<Value<'s>>,
    left: u64,
    /// An element that stands once is its own list there.
    is_xml: bool,
}

impl<'s> Eval<'s> {
    fn step(&mut self, bytes: usize) -> Found<()> {
        let steps = 1 + (bytes / STEP_BYTES) as u64;
        self.left = self.left.checked_sub(steps).ok_or(Fault::TooMuch)?;
        Ok(())
    }

    fn truth(&mut self, node: &'s Node) -> Found<bool> {
        self.step(0)?;
        match node {
            Node::Boolean(value) => Ok(*value),
            Node::Not(operand) => Ok(!self.truth(operand)?),
            Node::And(nodes) => self.junction(nodes, false),
            Node::Or(nodes) => self.junction(nodes, true),
            Node::Compare(operator, operands) => {
                let (a, b) = (self.value(&operands.0)?, self.value(&operands.1)?);
                match self.order(&a, &b)? {
                    Some(ordering) => Ok(operator.holds(ordering)),
                    None => {
                        let (a, b) = (self.called(&operands.0, &a), self.called(&operands.1, &b));
                        problem(format!("`{operator}` cannot compare {a} with {b}"))
                    }
                }
            }
            Node::Equal(operands) => {
                let (a, b) = (self.value(&operands.0)?, self.value(&operands.1)?);
                match self.equal(&a, &b)? {
                    Some(equal) => Ok(equal),
                    None => {
                        let (a, b) = (self.called(&operands.0, &a), self.called(&operands.1, &b));
                        problem(format!("{a} cannot be equal to {b}; declare the column's type, or convert"))
                    }
                }
            }
            Node::In(operands) => self.is_in(&operands.0, &operands.1),
            Node::Has(operand) => match &**operand {
                Node::Field(slot) => Ok(!matches!(self.fields.get(*slot), None | Some(Field::Missing | Field::Null))),
                operand => Ok(!matches!(self.value(operand)?, Value::Null)),
            },
            Node::Matches(operand, pattern) => match self.value(operand)? {
                Value::Text(text) => {
                    self.step(8 * text.len())?;
                    Ok(pattern.is_match(&text))
                }
                other => problem(format!("matches() looks at text, and {} is not", self.called(operand, &other))),
            },
            Node::Over(over) if matches!(over.what, Loop::All | Loop::Exists | Loop::ExistsOne) => self.quantify(over),
            node => match self.value(node)? {
                Value::Boolean(value) => Ok(value),
                other => problem(format!("{} is neither true nor false", self.called(node, &other))),
            },
        }
    }

    /// `&&` is decided by a false operand, `||` by a true one.
    fn junction(&mut self, nodes: &'s [Node], decides: bool) -> Found<bool> {
        let mut fault = None;
        for node in nodes {
            match self.truth(node) {
                Ok(value) if value == decides => return Ok(decides),
                Ok(_) => {}
                Err(Fault::TooMuch) => return Err(Fault::TooMuch),
                Err(other) => fault = fault.or(Some(other)),
            }
        }
        fault.map_or(Ok(!decides), Err)
    }

    fn value(&mut self, node: &'s Node) -> Found<Value<'s>> {
        self.step(0)?;
        Ok(match node {
            Node::Null => Value::Null,
            Node::Boolean(value) => Value::Boolean(*value),
            Node::Integer(value) => Value::Integer(*value),
            Node::Float(value) => Value::Float(*value),
            Node::Decimal(text) => decimal(text).unwrap_or(Value::Null),
            Node::Text(text) => Value::Text(Cow::Borrowed(text)),
            Node::Timestamp(text) => timestamp(text).unwrap_or(Value::Null),
            Node::Field(slot) => self.field(*slot)?,
            Node::Variable(place) => self.variables.get(*place).cloned().unwrap_or(Value::Null),
            Node::Arithmetic(operator, operands) => {
                let (a, b) = (self.value(&operands.0)?, self.value(&operands.1)?);
                self.calculate(*operator, a, b)?
            }
            Node::Negate(operand) => match self.value(operand)? {
                Value::Integer(value) => match value.checked_neg() {
                    Some(value) => Value::Integer(value),
                    None => return problem("the negative of the smallest integer is too large"),
                },
                Value::Float(value) => Value::Float(-value),
                other => return problem(format!("`-` of {}", self.called(operand, &other))),
            },
            Node::Choose(parts) => {
                let (condition, yes, no) = &**parts;
                if self.truth(condition)? { self.value(yes)? } else { self.value(no)? }
            }
            Node::Member(operand, name) => {
                let value = self.value(operand)?;
                self.member(operand, value, name)?
            }
            Node::Element(operands) => {
                let (of, index) = (self.value(&operands.0)?, self.value(&operands.1)?);
                match index {
                    Value::Text(name) => self.member(&operands.0, of, &name)?,
                    Value::Integer(index) => self.element(&operands.0, of, index)?,
                    other => return problem(format!("an element is named by an integer, not by {}", shown(&other))),
                }
            }
            Node::List(nodes) => Value::List(nodes.iter().map(|node| self.value(node)).collect::<Found<_>>()?),
            Node::Over(over) if matches!(over.what, Loop::Filter | Loop::Map(_)) => self.collect(over)?,
            Node::Call(function, args) => self.call(*function, args)?,
            Node::Not(_)
            | Node::And(_)
            | Node::Or(_)
            | Node::Compare(..)
            | Node::Equal(_)
            | Node::In(_)
            | Node::Has(_)
            | Node::Matches(..)
            | Node::Over(_) => Value::Boolean(self.truth(node)?),
        })
    }

    /// A field as its column's type has it, or as the row says.
    fn field(&mut self, slot: usize) -> Found<Value<'s>> {
        let field = self.fields.get(slot).unwrap_or(&Field::Missing);
        let text = match field {
            Field::Missing | Field::Null => return Ok(Value::Null),
            Field::Number(text) => *text,
            Field::Text(text) => text,
            Field::Bool(true) => "true",
            Field::Bool(false) => "false",
            Field::Nested(raw) => str::from_utf8(raw).unwrap_or_default(),
        };
        self.step(text.len())?;
        let is_nested = matches!(field, Field::Nested(_));
        let is_text_or_number = matches!(field, Field::Text(_) | Field::Number(_));
        let typed = match self.filter.kinds.get(slot).copied().flatten() {
            None => {
                return Ok(match field {
                    Field::Nested(_) => Value::Nested(text),
                    Field::Bool(value) => Value::Boolean(*value),
                    Field::Number(_) => number(text),
                    _ => Value::Text(Cow::Borrowed(text)),
                });
            }
            Some(ColumnType::Json) => {
                let is_document = is_nested || (matches!(field, Field::Text(_)) && is_document(text));
                return Ok(match field {
                    _ if is_document => Value::Nested(text.trim_ascii_start()),
                    Field::Bool(value) => Value::Boolean(*value),
                    Field::Number(_) => number(text),
                    _ => Value::Text(Cow::Borrowed(text)),
                });
            }
            Some(ColumnType::Text) => Some(Value::Text(Cow::Borrowed(text))),
            Some(ColumnType::Boolean) if !is_nested => parse_boolean(text).map(Value::Boolean),
            Some(ColumnType::Integer) if is_text_or_number => {
                text.parse().ok().or_else(|| Number::parse(text)?.to_i64()).map(Value::Integer)
            }
            Some(ColumnType::Decimal) if is_text_or_number => decimal(text),
            Some(ColumnType::Float) if is_text_or_number => parse_float(text).map(Value::Float),
            Some(ColumnType::Timestamp) if is_text_or_number => timestamp(text),
            Some(ColumnType::Date) if is_text_or_number => parse_date(text).map(|_| Value::Text(Cow::Borrowed(text))),
            Some(ColumnType::Uuid | ColumnType::Binary) if is_text_or_number => Some(Value::Text(Cow::Borrowed(text))),
            Some(_) => None,
        };
        match (typed, self.filter.kinds.get(slot).copied().flatten()) {
            (Some(value), _) => Ok(value),
            (None, kind) => {
                let kind = kind.map_or_else(String::new, |kind| kind.to_string());
                problem(format!("{} is {}, no {kind}", self.name(slot), shown_text(field, text)))
            }
        }
    }

    fn name(&self, slot: usize) -> String {
        self.filter.paths.get(slot).map_or_else(String::new, |path| format!("row.{path}"))
    }

    /// A value with the field that it came from, for errors.
    fn called(&self, node: &Node, value: &Value<'_>) -> String {
        match node {
            Node::Field(slot) => format!("{} ({})", self.name(*slot), shown(value)),
            _ => shown(value),
        }
    }

    /// `None`: neither is more than the other, nor are they equal.
    fn order(&mut self, a: &Value<'_>, b: &Value<'_>) -> Found<Option<Ordering>> {
        Ok(match (a, b) {
            (Value::Integer(a), Value::Integer(b)) => Some(a.cmp(b)),
            (Value::Text(a), Value::Text(b)) => {
                self.step(a.len().min(b.len()))?;
                Some(a.as_bytes().cmp(b.as_bytes()))
            }
            (Value::Boolean(a), Value::Boolean(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a, _), Value::Timestamp(b, _)) => Some(a.cmp(b)),
            (Value::Decimal(a, a_text), Value::Decimal(b, b_text)) => {
                self.step(a_text.len().min(b_text.len()))?;
                Some(a.compare(b))
            }
            (Value::Integer(a), Value::Decimal(b, _)) => Some(b.compare_integer(*a).reverse()),
            (Value::Decimal(a, _), Value::Integer(b)) => Some(a.compare_integer(*b)),
            (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
            // What is binary already is compared as such: 0.1 of a float column is the 0.1 of the predicate.
            (Value::Float(a), Value::Decimal(_, b)) => a.partial_cmp(&b.parse().unwrap_or(f64::NAN)),
            (Value::Decimal(_, a), Value::Float(b)) => a.parse().unwrap_or(f64::NAN).partial_cmp(b),
            (Value::Float(a), Value::Integer(b)) => float_to_integer(*a, *b),
            (Value::Integer(a), Value::Float(b)) => float_to_integer(*b, *a).map(Ordering::reverse),
            _ => None,
        })
    }

    /// `None`: they are of kinds that never are equal.
    fn equal(&mut self, a: &Value<'s>, b: &Value<'s>) -> Found<Option<bool>> {
        match (a, b) {
            (Value::Null, Value::Null) => Ok(Some(true)),
            (Value::Null, _) | (_, Value::Null) => Ok(Some(false)),
            (Value::Text(a), Value::Text(b)) => {
                self.step(a.len().min(b.len()))?;
                Ok(Some(a == b))
            }
            (Value::Nested(_) | Value::List(_), Value::Nested(_) | Value::List(_)) => {
                let (Some(a), Some(b)) = (self.elements(a)?, self.elements(b)?) else { return Ok(None) };
                if a.len() != b.len() {
                    return Ok(Some(false));
                }
                // Nested no deeper than a row may be.
                for (a, b) in a.iter().zip(&b) {
                    match self.equal(a, b)? {
                        Some(true) => {}
                        other => return Ok(other),
                    }
                }
                Ok(Some(true))
            }
            (a, b) => Ok(self.order(a, b)?.map(Ordering::is_eq)),
        }
    }

    fn is_in(&mut self, needle: &'s Node, list: &'s Node) -> Found<bool> {
        let value = self.value(needle)?;
        let mut other_kind = None;
        let mut found = |eval: &mut Self, element: Value<'s>| match eval.equal(&value, &element)? {
            Some(equal) => Ok(equal),
            None => {
                other_kind.get_or_insert_with(|| shown(&element));
                Ok::<_, Fault>(false)
            }
        };
        let is_found = if let Node::List(nodes) = list {
            let mut is_found = false;
            for node in nodes {
                let element = self.value(node)?;
                is_found = found(self, element)?;
                if is_found {
                    break;
                }
            }
            is_found
        } else {
            let of = self.value(list)?;
            let Some(elements) = self.range(&of)? else {
                return problem(format!("`in` looks into a list, and {} is none", self.called(list, &of)));
            };
            let mut is_found = false;
            for element in elements {
                is_found = found(self, element)?;
                if is_found {
                    break;
                }
            }
            is_found
        };
        match other_kind {
            Some(other) if !is_found => {
                let needle = self.called(needle, &value);
                problem(format!("{needle} cannot be equal to {other}; declare the column's type, or convert"))
            }
            _ => Ok(is_found),
        }
    }

    /// The elements of a list, or the names of an object. `None` for what has none.
    fn range(&mut self, of: &Value<'s>) -> Found<Option<Vec<Value<'s>>>> {
        match of {
            Value::Nested(raw) if raw.starts_with('{') => {
                self.step(raw.len())?;
                let mut names = Vec::new();
                for (name, _) in json::members(raw) {
                    self.step(0)?;
                    names.push(Value::Text(name));
                }
                Ok(Some(names))
            }
            Value::Text(_) if self.is_xml => Ok(Some(vec![of.clone()])),
            of => self.elements(of),
        }
    }

    /// The elements of an array or a list.
    fn elements(&mut self, of: &Value<'s>) -> Found<Option<Vec<Value<'s>>>> {
        match of {
            Value::List(list) => {
                self.step(STEP_BYTES * list.len())?;
                Ok(Some(list.to_vec()))
            }
            Value::Nested(raw) if raw.starts_with('[') => {
                self.step(raw.len())?;
                let mut elements = Vec::new();
                for element in json::elements(raw) {
                    self.step(0)?;
                    elements.push(inner(element));
                }
                Ok(Some(elements))
            }
            _ => Ok(None),
        }
    }

    fn member(&mut self, operand: &Node, of: Value<'s>, name: &str) -> Found<Value<'s>> {
        match of {
            // What a null or missing object holds is missing.
            Value::Null => Ok(Value::Null),
            Value::Nested(raw) if raw.starts_with('{') => {
                self.step(raw.len())?;
                let found = json::members(raw).find(|(member, _)| *member == *name);
                Ok(found.map_or(Value::Null, |(_, value)| inner(value)))
            }
            Value::Text(_) if self.is_xml && name == "#text" => Ok(of),
            other => problem(format!("{} is no object, so it has no {name:?}", self.called(operand, &other))),
        }
    }

    fn element(&mut self, operand: &Node, of: Value<'s>, index: i64) -> Found<Value<'s>> {
        let index = usize::try_from(index).ok();
        match of {
            Value::Null => Ok(Value::Null),
            Value::Nested(raw) if raw.starts_with('[') => {
                self.step(raw.len())?;
                Ok(index.and_then(|index| json::elements(raw).nth(index)).map_or(Value::Null, inner))
            }
            Value::List(list) => Ok(index.and_then(|index| list.get(index).cloned()).unwrap_or(Value::Null)),
            other if self.is_xml && index == Some(0) => Ok(other),
            other => problem(format!("{} is no list", self.called(operand, &other))),
        }
    }

    /// Goes over a range; `each` says whether to stop.
    fn each(&mut self, over: &'s Over, mut each: impl FnMut(&mut Self, Value<'s>) -> Found<bool>) -> Found<()> {
        let of = self.value(&over.range)?;
        let Some(elements) = self.range(&of)? else {
            return problem(format!("a loop goes over a list, and {} is none", self.called(&over.range, &of)));
        };
        for element in elements {
            self.variables.push(element.clone());
            let stop = each(self, element);
            self.variables.pop();
            if stop? {
                break;
            }
        }
        Ok(())
    }

    fn quantify(&mut self, over: &'s Over) -> Found<bool> {
        let (mut fault, mut is_decided, mut count) = (None, false, 0_u64);
        self.each(over, |eval, _| {
            match (eval.truth(&over.body), &over.what) {
                (Err(Fault::TooMuch), _) => return Err(Fault::TooMuch),
                // It does not know how many there would be.
                (Err(other), Loop::ExistsOne) => return Err(other),
                (Err(other), _) => fault = fault.take().or(Some(other)),
                (Ok(true), Loop::ExistsOne) => count += 1,
                (Ok(value), Loop::All) => is_decided = !value,
                (Ok(value), Loop::Exists) => is_decided = value,
                (Ok(_), _) => {}
            }
            Ok(is_decided)
        })?;
        match over.what {
            Loop::ExistsOne => Ok(count == 1),
            _ if is_decided => Ok(matches!(over.what, Loop::Exists)),
            _ => fault.map_or(Ok(matches!(over.what, Loop::All)), Err),
        }
    }

    fn collect(&mut self, over: &'s Over) -> Found<Value<'s>> {
        let mut collected = Vec::new();
        self.each(over, |eval, element| {
            match &over.what {
                Loop::Map(condition) => {
                    let is_wanted = match condition {
                        Some(condition) => eval.truth(condition)?,
                        None => true,
                    };
                    if is_wanted {
                        collected.push(eval.value(&over.body)?);
                    }
                }
                _ => {
                    if eval.truth(&over.body)? {
                        collected.push(element);
                    }
                }
            }
            Ok(false)
        })?;
        Ok(Value::List(collected.into()))
    }

    fn calculate(&mut self, operator: Arithmetic, a: Value<'s>, b: Value<'s>) -> Found<Value<'s>> {
        use Arithmetic::{Add, Divide, Multiply, Remainder, Subtract};
        match (&a, &b) {
            (Value::Integer(a), Value::Integer(b)) => {
                let result = match operator {
                    Add => a.checked_add(*b),
                    Subtract => a.checked_sub(*b),
                    Multiply => a.checked_mul(*b),
                    Divide => a.checked_div(*b),
                    Remainder => a.checked_rem(*b),
                };
                match result {
                    Some(result) => Ok(Value::Integer(result)),
                    None if *b == 0 => problem(format!("{a} {operator} 0")),
                    None => problem(format!("{a} {operator} {b} is beyond 64 bits")),
                }
            }
            (Value::Float(a), Value::Float(b)) => match operator {
                Add => Ok(Value::Float(a + b)),
                Subtract => Ok(Value::Float(a - b)),
                Multiply => Ok(Value::Float(a * b)),
                Divide => Ok(Value::Float(a / b)),
                Remainder => problem("`%` takes integers"),
            },
            (Value::Text(a), Value::Text(b)) if operator == Add => {
                self.step(4 * (a.len() + b.len()))?;
                Ok(Value::Text(Cow::Owned(format!("{a}{b}"))))
            }
            _ => problem(format!(
                "`{operator}` of {} and {}: both have to be integers, or floats, or text; convert with int(…) or double(…)",
                shown(&a),
                shown(&b)
            )),
        }
    }

    fn call(&mut self, function: Function, args: &'s [Node]) -> Found<Value<'s>> {
        let Some(first) = args.first() else { return problem("a function without a value") };
        let value = self.value(first)?;
        let second = match args.get(1) {
            Some(node) => Some(self.value(node)?),
            None => None,
        };
        if let (Value::Text(text), Some(Value::Text(part))) = (&value, &second) {
            self.step(text.len() + part.len())?;
            return Ok(Value::Boolean(match function {
                Function::StartsWith => text.starts_with(&**part),
                Function::EndsWith => text.ends_with(&**part),
                _ => text.contains(&**part),
            }));
        }
        let converted = match (function, &value) {
            (Function::Size, Value::Text(text)) => {
                self.step(text.len())?;
                Some(Value::Integer(i64::try_from(text.chars().count()).unwrap_or(i64::MAX)))
            }
            (Function::Size, of @ (Value::Nested(_) | Value::List(_))) => {
                let count = self.range(of)?.map_or(0, |elements| elements.len());
                Some(Value::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
            }
            (Function::LowerAscii, Value::Text(text)) => {
                self.step(4 * text.len())?;
                Some(Value::Text(Cow::Owned(text.to_ascii_lowercase())))
            }
            (Function::UpperAscii, Value::Text(text)) => {
                self.step(4 * text.len())?;
                Some(Value::Text(Cow::Owned(text.to_ascii_uppercase())))
            }
            (Function::Boolean, Value::Boolean(_))
            | (Function::Integer, Value::Integer(_))
            | (Function::Float, Value::Float(_))
            | (Function::Decimal, Value::Decimal(..) | Value::Integer(_))
            | (Function::Text, Value::Text(_))
            | (Function::Timestamp, Value::Timestamp(..)) => Some(value.clone()),
            (Function::Boolean, Value::Text(text)) => parse_boolean(text).map(Value::Boolean),
            (Function::Integer, Value::Text(text)) => Number::parse(text).and_then(Number::to_i64).map(Value::Integer),
            (Function::Integer, Value::Decimal(number, _)) => number.to_i64().map(Value::Integer),
            (Function::Integer, Value::Float(float)) => whole(*float).map(Value::Integer),
            (Function::Float, Value::Text(text)) => parse_float(text).map(Value::Float),
            (Function::Float, Value::Decimal(_, text)) => parse_float(text).map(Value::Float),
            (Function::Float, Value::Integer(value)) => parse_float(&value.to_string()).map(Value::Float),
            (Function::Decimal, Value::Text(Cow::Borrowed(text))) => decimal(text),
            (Function::Timestamp, Value::Text(Cow::Borrowed(text))) => timestamp(text),
            (Function::Text, Value::Boolean(value)) => Some(Value::Text(value.to_string().into())),
            (Function::Text, Value::Integer(value)) => Some(Value::Text(value.to_string().into())),
            (Function::Text, Value::Float(value)) => Some(Value::Text(value.to_string().into())),
            (Function::Text, Value::Decimal(_, text) | Value::Timestamp(_, text) | Value::Nested(text)) => {
                Some(Value::Text(Cow::Borrowed(text)))
            }
            _ => None,
        };
        match converted {
            Some(value) => Ok(value),
            None => problem(format!("{} does not take {}", function, self.called(first, &value))),
        }
    }
}

/// A checked JSON value.
fn inner(raw: &str) -> Value<'_> {
    match json::value(raw) {
        Field::Missing | Field::Null => Value::Null,
        Field::Bool(value) => Value::Boolean(value),
        Field::Number(text) => number(text),
        Field::Text(text) => Value::Text(text),
        Field::Nested(_) => Value::Nested(raw),
    }
}

/// A number of JSON: an integer where it is written as one and fits.
fn number(text: &str) -> Value<'_> {
    text.parse().map(Value::Integer).ok().or_else(|| decimal(text)).unwrap_or(Value::Text(Cow::Borrowed(text)))
}

fn decimal(text: &str) -> Option<Value<'_>> {
    Number::parse(text).map(|number| Value::Decimal(number, text))
}

fn timestamp(text: &str) -> Option<Value<'_>> {
    Instant::parse(text).map(|instant| Value::Timestamp(instant, text))
}

fn is_document(text: &str) -> bool {
    text.trim_ascii_start().starts_with(['{', '['])
        && json::Checker::new(NESTING_MAX, usize::MAX).nested(text.as_bytes()).is_ok()
}

/// Exactly, without rounding either.
fn float_to_integer(float: f64, integer: i64) -> Option<Ordering> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        return None;
    }
    if float >= BEYOND {
        return Some(Ordering::Greater);
    }
    if float < -BEYOND {
        return Some(Ordering::Less);
    }
    // In bounds, so that nothing but the fraction is cut.
    let whole = float.floor();
    let by_whole = (whole as i64).cmp(&integer);
    Some(if by_whole.is_eq() && float > whole { Ordering::Greater } else { by_whole })
}

/// The integer towards zero.
fn whole(float: f64) -> Option<i64> {
    let fits = float > -9_223_372_036_854_777_000.0 && float < 9_223_372_036_854_775_807.0;
    fits.then_some(float.trunc() as i64)
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Decimal(_, text) | Value::Timestamp(_, text) => cut(text).to_owned(),
        Value::Text(text) => format!("{:?}", cut(text)),
        Value::Nested(raw) if raw.starts_with('{') => "an object".to_owned(),
        Value::Nested(_) | Value::List(_) => "a list".to_owned(),
    }
}

fn shown_text(field: &Field<'_>, text: &str) -> String {
    match field {
        Field::Text(_) => format!("{:?}", cut(text)),
        Field::Nested(_) => "an object or array".to_owned(),
        _ => cut(text).to_owned(),
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(SHOWN_BYTES_MAX)).unwrap_or_default()
}
