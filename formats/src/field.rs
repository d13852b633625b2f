//! One value of a row, borrowed from its bytes, and where to find it.

use std::{borrow::Cow, fmt};

/// A value as it stands in the file: numbers are text, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field<'a> {
    /// The row has no such field.
    Missing,
    /// JSON `null`; in CSV an empty field without quotes; in XML an empty element with `xsi:nil="true"`.
    Null,
    /// JSON `true` or `false`.
    Bool(bool),
    /// A JSON number, as written: `19.90` stays `19.90`.
    Number(&'a str),
    /// Text, unescaped. Every CSV field that is not null, every XML attribute and element without anything in it but text.
    Text(Cow<'a, str>),
    /// A JSON object or array: as written, or made of an XML element.
    Nested(Cow<'a, [u8]>),
}

/// A compiled path such as `a.b[0].c`; a name with a dot, bracket or quote is quoted: `"a.b".c`, and within the quotes
/// `\"` and `\\` stand for a quote and a backslash. It begins with a name. In CSV a path of one name. In XML
/// `@name` is an attribute and `#text` an element's own text; an element that stands once is its own `[0]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldPath {
    head: Box<str>,
    rest: Vec<Step>,
}

/// What leads from a nested value to one of its parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Name(Box<str>),
    Index(usize),
}

/// Where a path is wrong.
#[derive(Debug, thiserror::Error)]
#[error("field path {path:?} at byte {at}: {problem}")]
pub struct FieldPathError {
    path: String,
    at: usize,
    problem: &'static str,
}

impl FieldPath {
    /// Compiles a path.
    ///
    /// # Errors
    /// Where and why it is not one.
    pub fn parse(text: &str) -> Result<Self, FieldPathError> {
        let mut parser = Parser { text, at: 0 };
        let head = parser.name()?;
        let mut rest = Vec::new();
        while let Some(next) = parser.peek() {
            parser.at += 1;
            rest.push(match next {
                '.' => Step::Name(parser.name()?),
                '[' => Step::Index(parser.index()?),
                _ => {
                    return Err(parser.error(parser.at - 1, "expected '.' or '[' here; quote a name that holds quotes"));
                }
            });
        }
        Ok(Self { head, rest })
    }

    /// Compiles paths with commas between; a name with a comma is quoted.
    ///
    /// # Errors
    /// Where and why one of them is no path, or that one is there twice.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, FieldPathError> {
        let (mut is_quoted, mut is_escaped) = (false, false);
        let mut ends_path = |character| {
            match character {
                _ if is_escaped => is_escaped = false,
                '\\' if is_quoted => is_escaped = true,
                '"' => is_quoted = !is_quoted,
                ',' => return !is_quoted,
                _ => {}
            }
            false
        };
        let mut paths = Vec::new();
        for part in text.split(&mut ends_path) {
            let path = Self::parse(part.trim())?;
            if paths.contains(&path) {
                return Err(FieldPathError { path: part.trim().to_owned(), at: 0, problem: "it is there twice" });
            }
            paths.push(path);
        }
        Ok(paths)
    }

    /// A path of one step, taken literally (`Price.Net` is one name).
    #[must_use]
    pub fn name(name: &str) -> Self {
        Self { head: name.into(), rest: Vec::new() }
    }

    /// The name at the row's top level.
    pub(crate) fn head(&self) -> &str {
        &self.head
    }

    /// What leads on from there.
    pub(crate) fn rest(&self) -> &[Step] {
        &self.rest
    }
}

/// As [`FieldPath::parse`] reads it.
impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(&self.head, f)?;
        for step in &self.rest {
            match step {
                Step::Name(name) => {
                    f.write_str(".")?;
                    write_name(name, f)?;
                }
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

fn write_name(name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !name.is_empty() && !name.contains(SPECIAL) {
        return f.write_str(name);
    }
    write!(f, "\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What ends a name without quotes.
const SPECIAL: [char; 4] = ['.', '[', ']', '"'];

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).expect("the parser stops at characters")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn error(&self, at: usize, problem: &'static str) -> FieldPathError {
        FieldPathError { path: self.text.to_owned(), at, problem }
    }

    fn name(&mut self) -> Result<Box<str>, FieldPathError> {
        if self.peek() == Some('"') {
            return self.quoted_name();
        }
        let rest = self.rest();
        let (name, _) = rest.split_at(rest.find(SPECIAL).unwrap_or(rest.len()));
        if name.is_empty() {
            return Err(self.error(self.at, "a name is missing here"));
        }
        let name: Box<str> = name.into();
        self.at += name.len();
        Ok(name)
    }

    fn quoted_name(&mut self) -> Result<Box<str>, FieldPathError> {
        let opening = self.at;
        self.at += 1;
        let mut name = String::new();
        while let Some(next) = self.peek() {
            self.at += next.len_utf8();
            match next {
                '"' => return Ok(name.into()),
                '\\' => match self.peek() {
                    Some(escaped @ ('"' | '\\')) => {
                        name.push(escaped);
                        self.at += 1;
                    }
                    _ => return Err(self.error(self.at - 1, "only \\\" and \\\\ are escapes")),
                },
                other => name.push(other),
            }
        }
        Err(self.error(opening, "this quote is never closed"))
    }

    fn index(&mut self) -> Result<usize, FieldPathError> {
        let opening = self.at - 1;
        let (digits, _) =
            self.rest().split_once(']').ok_or_else(|| self.error(opening, "this bracket is never closed"))?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.error(self.at, "expected the number of an element, from 0"));
        }
        let index = digits.parse().map_err(|_| self.error(self.at, "this number is too large"))?;
        self.at += digits.len() + 1;
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Step {
        Step::Name(text.into())
    }

    #[test]
    fn a_path_is_names_and_indexes() {
        let path = FieldPath::parse("a.b[0].c").unwrap();
        assert_eq!(path.head(), "a");
        assert_eq!(path.rest(), [name("b"), Step::Index(0), name("c")]);
    }

    #[test]
    fn a_quoted_name_may_hold_anything() {
        let path = FieldPath::parse(r#""a.b"."say \"\\\"[1]"[2]"#).unwrap();
        assert_eq!(path.head(), "a.b");
        assert_eq!(path.rest(), [name(r#"say "\"[1]"#), Step::Index(2)]);
        assert_eq!(FieldPath::parse("\"\"").unwrap().head(), "");
        assert_eq!(FieldPath::parse("Preis in €").unwrap().head(), "Preis in €");
    }

    #[test]
    fn a_literal_name_is_one_step() {
        assert_eq!(FieldPath::name("Price.Net"), FieldPath::parse("\"Price.Net\"").unwrap());
        assert_ne!(FieldPath::name("Price.Net"), FieldPath::parse("Price.Net").unwrap());
    }

    #[test]
    fn a_list_of_paths_is_cut_at_commas_outside_of_quotes() {
        let paths = FieldPath::parse_list(r#"a, b.c[0],"d,\\",e"#).unwrap();
        assert_eq!(paths, ["a", "b.c[0]", r#""d,\\""#, "e"].map(|path| FieldPath::parse(path).unwrap()));
        for (list, problem) in [
            ("", r#"field path "" at byte 0: a name is missing here"#),
            ("a,,b", r#"field path "" at byte 0: a name is missing here"#),
            ("a,b.,c", r#"field path "b." at byte 2: a name is missing here"#),
            ("a,\"b,c", r#"field path "\"b,c" at byte 0: this quote is never closed"#),
            ("a,\"a\"", r#"field path "\"a\"" at byte 0: it is there twice"#),
        ] {
            assert_eq!(FieldPath::parse_list(list).unwrap_err().to_string(), problem, "{list}");
        }
    }

    #[test]
    fn a_path_reads_back_from_its_display() {
        for text in ["a", "a.b[0].c", r#""a.b"[7]"#, r#""".x"#, r#""q\"\\".é"#] {
            assert_eq!(FieldPath::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_path_is_refused_with_its_place() {
        for (path, at, problem) in [
            ("", 0, "a name is missing here"),
            ("a..b", 2, "a name is missing here"),
            ("a.", 2, "a name is missing here"),
            ("[0]", 0, "a name is missing here"),
            ("a[x]", 2, "expected the number of an element, from 0"),
            ("a[]", 2, "expected the number of an element, from 0"),
            ("a[1", 1, "this bracket is never closed"),
            ("a[99999999999999999999]", 2, "this number is too large"),
            ("a[0]b", 4, "expected '.' or '[' here; quote a name that holds quotes"),
            ("a\"b\"", 1, "expected '.' or '[' here; quote a name that holds quotes"),
            ("\"a", 0, "this quote is never closed"),
            ("\"a\\n\"", 2, "only \\\" and \\\\ are escapes"),
        ] {
            let error = FieldPath::parse(path).unwrap_err();
            assert_eq!((error.at, error.problem), (at, problem), "{path}");
        }
    }

    #[test]
    fn the_wording_of_a_refusal() {
        let error = FieldPath::parse("a..b").unwrap_err();
        assert_eq!(error.to_string(), r#"field path "a..b" at byte 2: a name is missing here"#);
    }
}
