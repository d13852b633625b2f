//! A predicate that was checked.

use std::{cmp::Ordering, fmt};

use regex::Regex;

#[derive(Debug)]
pub(super) enum Node {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    /// A number with a point, as it was written: what it is compared with says how it is read.
    Decimal(Box<str>),
    Text(Box<str>),
    Timestamp(Box<str>),
    /// A field of the row, by its place among those that are read.
    Field(usize),
    /// What a loop is at; the outermost loop has the first.
    Variable(usize),
    /// Whether something is there, and not null.
    Has(Box<Node>),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Compare(Comparison, Box<(Node, Node)>),
    Equal(Box<(Node, Node)>),
    In(Box<(Node, Node)>),
    Arithmetic(Arithmetic, Box<(Node, Node)>),
    Negate(Box<Node>),
    Choose(Box<(Node, Node, Node)>),
    /// A member of an object.
    Member(Box<Node>, Box<str>),
    /// An element of an array, or a member whose name is worked out.
    Element(Box<(Node, Node)>),
    List(Vec<Node>),
    Over(Box<Over>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, Regex),
}

/// A loop over the elements of an array, or the names of an object.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) range: Node,
    pub(super) what: Loop,
    /// Asked of each element.
    pub(super) body: Node,
}

#[derive(Debug)]
pub(super) enum Loop {
    All,
    Exists,
    ExistsOne,
    Filter,
    /// Of the elements that a condition holds for, where there is one.
    Map(Option<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    StartsWith,
    EndsWith,
    Contains,
    LowerAscii,
    UpperAscii,
    Boolean,
    Integer,
    Float,
    Decimal,
    Text,
    Timestamp,
}

pub(super) const FUNCTIONS: [(&str, Function); 12] = [
    ("size", Function::Size),
    ("startsWith", Function::StartsWith),
    ("endsWith", Function::EndsWith),
    ("contains", Function::Contains),
    ("lowerAscii", Function::LowerAscii),
    ("upperAscii", Function::UpperAscii),
    ("bool", Function::Boolean),
    ("int", Function::Integer),
    ("double", Function::Float),
    ("decimal", Function::Decimal),
    ("string", Function::Text),
    ("timestamp", Function::Timestamp),
];

/// What is known of a value before there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Any,
    Null,
    Boolean,
    Integer,
    Float,
    Decimal,
    Text,
    Timestamp,
    List,
}

impl Comparison {
    pub(super) fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Type {
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Float | Self::Decimal)
    }

    /// Whether two values may be equal, or one be more than the other.
    pub(super) fn goes_with(self, other: Self) -> bool {
        self == other || self == Self::Any || other == Self::Any || (self.is_number() && other.is_number())
    }
}

/// With its article, for errors.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "a value",
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Integer => "an integer",
            Self::Float => "a float",
            Self::Decimal => "a decimal",
            Self::Text => "text",
            Self::Timestamp => "a timestamp",
            Self::List => "a list",
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        })
    }
}

/// As it is called.
impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FUNCTIONS.iter().find(|(_, function)| function == self).map_or("", |(name, _)| name);
        write!(f, "{name}()")
    }
}
