//! A text to a predicate, or what is wrong with it.

use std::{borrow::Cow, collections::HashMap, thread};

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use regex::Regex;
use waybill_contracts::ColumnType;

use super::{
    DEPTH_MAX, FilterColumns, FilterError, RowFilter, TEXT_BYTES_MAX,
    node::{Arithmetic, Comparison, FUNCTIONS, Function, Loop, Node, Over, Type},
};
use crate::{
    FieldPath,
    scalar::{Instant, Number, parse_boolean, parse_float},
};

/// For the parser, which goes a level deeper with each operator of a chain: some 4,000 in the longest text. Memory that is
/// not needed is not taken.
const STACK_BYTES: usize = 128 << 20;
/// A compiled pattern of `matches`.
const PATTERN_BYTES_MAX: usize = 1 << 20;

const LOOPS: [&str; 6] = ["all", "exists", "exists_one", "existsOne", "filter", "map"];

type Checked<T> = Result<T, FilterError>;

pub(super) fn compile(text: &str, columns: &FilterColumns<'_>) -> Checked<RowFilter> {
    if text.len() > TEXT_BYTES_MAX {
        let problem = format!("the predicate has {} bytes; the limit is {TEXT_BYTES_MAX}", text.len());
        return Err(FilterError { at: 0, problem });
    }
    let failed =
        || FilterError { at: 0, problem: "the parser failed on this predicate; write it in a simpler way".to_owned() };
    thread::scope(|scope| {
        let parser = thread::Builder::new().name("cel".to_owned()).stack_size(STACK_BYTES);
        let compiling = parser.spawn_scoped(scope, || parse_and_check(text, columns)).map_err(|_| failed())?;
        compiling.join().unwrap_or_else(|_| Err(failed()))
    })
}

fn parse_and_check(text: &str, columns: &FilterColumns<'_>) -> Checked<RowFilter> {
    // Without macros: loops and `has` stay the calls that they are written as.
    let parser = cel::Env::default().with_optional_support(false).parser();
    let parser =
        parser.enable_ident_escape_syntax(true).max_recursion_depth(u16::try_from(DEPTH_MAX).unwrap_or(u16::MAX));
    let (expr, source) = parser.parse_with_source_info(text).map_err(|errors| syntax_error(text, &errors))?;
    let mut checker = Checker {
        text,
        source: &source,
        columns,
        paths: Vec::new(),
        kinds: Vec::new(),
        slots: HashMap::new(),
        variables: Vec::new(),
        depth: 0,
    };
    let (root, kind) = checker.check(&expr)?;
    if !kind.goes_with(Type::Boolean) {
        return Err(checker.error(&expr, format!("the predicate is {kind}; it has to be true or false")));
    }
    let Checker { paths, kinds, .. } = checker;
    Ok(RowFilter { text: text.into(), root, paths, kinds })
}

/// The first error, in fewer words than the parser's.
fn syntax_error(text: &str, errors: &cel::ParseErrors) -> FilterError {
    let Some(first) = errors.errors.first() else {
        return FilterError { at: 0, problem: "this is not CEL".to_owned() };
    };
    let (line, column) = first.pos;
    let before = text.split_inclusive('\n').take(usize::try_from(line - 1).unwrap_or(0));
    let at = before.map(|line| line.chars().count()).sum::<usize>() + usize::try_from(column - 1).unwrap_or(0);
    let message = first.msg.strip_prefix("Syntax error: ").unwrap_or(&first.msg);
    let problem = if message.contains("Recursion limit") {
        format!("nested deeper than the limit of {DEPTH_MAX} levels")
    } else if let Some((sql, cel)) = sql_at(text, at) {
        format!("not CEL: instead of `{sql}` write {cel}")
    } else {
        // A list of all that could follow helps nobody.
        let short = message.split(" expecting ").next().unwrap_or(message);
        if short.contains("<EOF>") {
            "not CEL: something is missing here".to_owned()
        } else {
            format!("not CEL: {short}")
        }
    };
    FilterError { at: at.min(text.chars().count()), problem }
}

/// What SQL and other languages say otherwise than CEL.
const SQL: [(&str, &str); 9] = [
    ("=", "=="),
    ("<>", "!="),
    ("AND", "&&"),
    ("OR", "||"),
    ("NOT", "! (as in !(row.a == 1))"),
    ("IS", "== or != (as in row.a == null)"),
    ("LIKE", "startsWith, endsWith, contains or matches (as in row.a.startsWith(\"x\"))"),
    ("&", "&&"),
    ("|", "||"),
];

/// Which of it stands at this place, or before it where the parser noticed only behind it.
fn sql_at(text: &str, at: usize) -> Option<(&str, &'static str)> {
    let byte = text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    let (before, from) = text.split_at_checked(byte)?;
    let is_mark = |char: char| "=<>&|!".contains(char);
    let is_letter = |char: char| char.is_alphanumeric() || char == '_';
    let of = |token: &str| SQL.iter().find(|(sql, _)| sql.eq_ignore_ascii_case(token)).map(|(_, cel)| *cel);
    let kinds: [&dyn Fn(char) -> bool; 2] = [&is_mark, &is_letter];
    let whole = kinds.iter().find_map(|is_of| {
        let begin = before.trim_end_matches(is_of).len();
        let length = from.find(|char| !is_of(char)).unwrap_or(from.len());
        let token = text.get(begin..byte + length)?;
        Some((token, of(token)?))
    });
    let word = before.trim_end().rsplit(|char| !is_letter(char)).next()?;
    whole.or_else(|| word.eq_ignore_ascii_case("NOT").then_some(word).and_then(|word| Some((word, of(word)?))))
}

struct Checker<'c> {
    text: &'c str,
    source: &'c SourceInfo,
    columns: &'c FilterColumns<'c>,
    paths: Vec<FieldPath>,
    kinds: Vec<Option<ColumnType>>,
    slots: HashMap<String, usize>,
    /// Of the loops around this place.
    variables: Vec<String>,
    depth: usize,
}

type Typed = (Node, Type);

impl Checker<'_> {
    fn error(&self, at: &IdedExpr, problem: impl Into<String>) -> FilterError {
        let byte = self.source.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        let at = self.text.get(..byte).map_or(0, |before| before.chars().count());
        FilterError { at, problem: problem.into() }
    }

    fn check(&mut self, expr: &IdedExpr) -> Checked<Typed> {
        if self.depth == DEPTH_MAX {
            return Err(self.error(expr, format!("nested deeper than the limit of {DEPTH_MAX} levels")));
        }
        self.depth += 1;
        let checked = self.check_here(expr);
        self.depth -= 1;
        checked
    }

    fn check_here(&mut self, expr: &IdedExpr) -> Checked<Typed> {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(expr, literal),
            Expr::Ident(name) => self.name(expr, name),
            Expr::Select(select) => self.member(expr, &select.operand, &select.field),
            Expr::List(list) => {
                let elements =
                    list.elements.iter().map(|element| Ok(self.check(element)?.0)).collect::<Checked<_>>()?;
                Ok((Node::List(elements), Type::List))
            }
            Expr::Call(call) => self.call(expr, call),
            Expr::Map(_) | Expr::Struct(_) => Err(self.error(expr, "objects cannot be written in a filter")),
            Expr::Comprehension(_) | Expr::Unspecified => Err(self.error(expr, "this cannot be used in a filter")),
        }
    }

    fn literal(&self, expr: &IdedExpr, literal: &LiteralValue) -> Checked<Typed> {
        Ok(match literal {
            LiteralValue::Null => (Node::Null, Type::Null),
            LiteralValue::Boolean(value) => (Node::Boolean(*value.inner()), Type::Boolean),
            LiteralValue::Int(value) => (Node::Integer(*value.inner()), Type::Integer),
            LiteralValue::UInt(value) => match i64::try_from(*value.inner()) {
                Ok(value) => (Node::Integer(value), Type::Integer),
                Err(_) => return Err(self.error(expr, "this number is too large; write it with a point: 1e20, 5.0")),
            },
            LiteralValue::Double(value) => (Node::Decimal(self.written(expr, *value.inner()).into()), Type::Float),
            LiteralValue::String(value) => (Node::Text(value.inner().into()), Type::Text),
            LiteralValue::Bytes(_) => return Err(self.error(expr, "bytes cannot be compared in a filter; write text")),
        })
    }

    /// A number as it stands in the text, because the parser has rounded it.
    fn written(&self, expr: &IdedExpr, value: f64) -> String {
        let written = self.source.offset_for(expr.id).and_then(|(start, stop)| {
            let text: String = self.text.get(start as usize..=stop as usize)?.split_whitespace().collect();
            (parse_float(&text) == Some(value)).then_some(text)
        });
        written.unwrap_or_else(|| value.to_string())
    }

    fn name(&self, expr: &IdedExpr, name: &str) -> Checked<Typed> {
        if let Some(place) = self.variables.iter().rposition(|variable| variable == name) {
            return Ok((Node::Variable(place), Type::Any));
        }
        Err(self.error(
            expr,
            match name {
                "row" => "`row` is the whole row; name a field of it, as in row.Price".to_owned(),
                _ if ["null", "true", "false"].iter().any(|known| known.eq_ignore_ascii_case(name)) => {
                    format!("unknown name {name:?}; write {}", name.to_ascii_lowercase())
                }
                _ if ["none", "nil", "undefined"].iter().any(|other| other.eq_ignore_ascii_case(name)) => {
                    format!("unknown name {name:?}; write null")
                }
                _ => format!("unknown name {name:?}; a field of the row is written row.{name}"),
            },
        ))
    }

    /// `operand.name`, or `operand["name"]`.
    fn member(&mut self, expr: &IdedExpr, operand: &IdedExpr, name: &str) -> Checked<Typed> {
        if matches!(&operand.expr, Expr::Ident(root) if root == "row")
            && !self.variables.iter().any(|name| name == "row")
        {
            return self.field(expr, name);
        }
        let (node, kind) = self.check(operand)?;
        if kind != Type::Any {
            return Err(self.error(operand, format!("this is {kind}, which has no member {name:?}")));
        }
        Ok((Node::Member(Box::new(node), name.into()), Type::Any))
    }

    fn field(&mut self, expr: &IdedExpr, name: &str) -> Checked<Typed> {
        let known = self.columns.columns.iter().find(|(column, _)| *column == name);
        if known.is_none() && self.columns.is_closed {
            let names: Vec<_> = self.columns.columns.iter().map(|(name, _)| *name).collect();
            let problem = format!("unknown column {name:?}; with schema = \"freeze\" there are {}", names.join(", "));
            return Err(self.error(expr, problem));
        }
        let column = known.and_then(|(_, kind)| *kind);
        let slot = *self.slots.entry(name.to_owned()).or_insert_with(|| {
            self.paths.push(FieldPath::name(name));
            self.kinds.push(column);
            self.paths.len() - 1
        });
        let kind = match column {
            None | Some(ColumnType::Json) => Type::Any,
            Some(ColumnType::Integer) => Type::Integer,
            Some(ColumnType::Decimal) => Type::Decimal,
            Some(ColumnType::Float) => Type::Float,
            Some(ColumnType::Boolean) => Type::Boolean,
            Some(ColumnType::Timestamp) => Type::Timestamp,
            Some(ColumnType::Text | ColumnType::Date | ColumnType::Uuid | ColumnType::Binary) => Type::Text,
        };
        Ok((Node::Field(slot), kind))
    }

    fn call(&mut self, expr: &IdedExpr, call: &CallExpr) -> Checked<Typed> {
        use Arithmetic::{Add, Divide, Multiply, Remainder, Subtract};
        use Comparison::{Greater, GreaterOrEqual, Less, LessOrEqual};
        if let Some(target) = &call.target {
            return self.member_call(expr, target, &call.func_name, &call.args);
        }
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_AND, args) => {
                let mut all = Vec::new();
                self.conditions(
                    args,
                    &mut all,
                    |node| if let Node::And(nodes) = node { Ok(nodes) } else { Err(node) },
                )?;
                Ok((Node::And(all), Type::Boolean))
            }
            (operators::LOGICAL_OR, args) => {
                let mut any = Vec::new();
                self.conditions(args, &mut any, |node| if let Node::Or(nodes) = node { Ok(nodes) } else { Err(node) })?;
                Ok((Node::Or(any), Type::Boolean))
            }
            (operators::LOGICAL_NOT, [operand]) => Ok((Node::Not(Box::new(self.condition(operand)?)), Type::Boolean)),
            (operators::EQUALS, [a, b]) => self.equality(expr, a, b),
            (operators::NOT_EQUALS, [a, b]) => {
                let (node, kind) = self.equality(expr, a, b)?;
                Ok((Node::Not(Box::new(node)), kind))
            }
            (operators::LESS, [a, b]) => self.comparison(expr, Less, a, b),
            (operators::LESS_EQUALS, [a, b]) => self.comparison(expr, LessOrEqual, a, b),
            (operators::GREATER, [a, b]) => self.comparison(expr, Greater, a, b),
            (operators::GREATER_EQUALS, [a, b]) => self.comparison(expr, GreaterOrEqual, a, b),
            (operators::ADD, [a, b]) => self.arithmetic(expr, Add, a, b),
            (operators::SUBSTRACT, [a, b]) => self.arithmetic(expr, Subtract, a, b),
            (operators::MULTIPLY, [a, b]) => self.arithmetic(expr, Multiply, a, b),
            (operators::DIVIDE, [a, b]) => self.arithmetic(expr, Divide, a, b),
            (operators::MODULO, [a, b]) => self.arithmetic(expr, Remainder, a, b),
            (operators::NEGATE, [operand]) => self.negation(expr, operand),
            (operators::IN, [needle, list]) => self.membership(expr, needle, list),
            (operators::CONDITIONAL, [condition, yes, no]) => {
                let condition = self.condition(condition)?;
                let ((yes, yes_kind), (no, no_kind)) = (self.check(yes)?, self.check(no)?);
                let kind = if yes_kind == no_kind { yes_kind } else { Type::Any };
                Ok((Node::Choose(Box::new((condition, yes, no))), kind))
            }
            (operators::INDEX, [operand, index]) => self.index(expr, operand, index),
            (operators::HAS, [path]) => match &path.expr {
                Expr::Select(_) => Ok((Node::Has(Box::new(self.check(path)?.0)), Type::Boolean)),
                Expr::Call(call) if call.func_name == operators::INDEX => {
                    Ok((Node::Has(Box::new(self.check(path)?.0)), Type::Boolean))
                }
                _ => Err(self.error(path, "has() takes a field, as in has(row.Price)")),
            },
            ("matches", [text, pattern]) => self.matches(expr, text, pattern),
            (name, args) => self.function(expr, name, &args.iter().collect::<Vec<_>>()),
        }
    }

    fn member_call(&mut self, expr: &IdedExpr, target: &IdedExpr, name: &str, args: &[IdedExpr]) -> Checked<Typed> {
        match (name, args) {
            ("matches", [pattern]) => self.matches(expr, target, pattern),
            (name, [variable, rest @ ..]) if LOOPS.contains(&name) => self.over(expr, target, name, variable, rest),
            (name, args) => {
                let args: Vec<_> = std::iter::once(target).chain(args).collect();
                self.function(expr, name, &args)
            }
        }
    }

    fn condition(&mut self, expr: &IdedExpr) -> Checked<Node> {
        let (node, kind) = self.check(expr)?;
        if !kind.goes_with(Type::Boolean) {
            return Err(self.error(expr, format!("this is {kind}; here it has to be true or false")));
        }
        Ok(node)
    }

    /// `a && b && c` is one node.
    fn conditions(
        &mut self,
        args: &[IdedExpr],
        into: &mut Vec<Node>,
        same: impl Fn(Node) -> Result<Vec<Node>, Node>,
    ) -> Checked<()> {
        for arg in args {
            match same(self.condition(arg)?) {
                Ok(nodes) => into.extend(nodes),
                Err(node) => into.push(node),
            }
        }
        Ok(())
    }

    fn equality(&mut self, expr: &IdedExpr, a: &IdedExpr, b: &IdedExpr) -> Checked<Typed> {
        let ((a, a_kind), (b, b_kind)) = (self.check(a)?, self.check(b)?);
        if !(a_kind.goes_with(b_kind) || a_kind == Type::Null || b_kind == Type::Null) {
            return Err(self.error(expr, format!("{a_kind} never equals {b_kind}{}", hint(a_kind, b_kind))));
        }
        Ok((Node::Equal(Box::new((a, b))), Type::Boolean))
    }

    fn comparison(&mut self, expr: &IdedExpr, operator: Comparison, a: &IdedExpr, b: &IdedExpr) -> Checked<Typed> {
        let ((a, a_kind), (b, b_kind)) = (self.check(a)?, self.check(b)?);
        let has_order = |kind: Type| !matches!(kind, Type::Null | Type::List);
        if !(a_kind.goes_with(b_kind) && has_order(a_kind) && has_order(b_kind)) {
            let problem = format!("`{operator}` cannot compare {a_kind} with {b_kind}{}", hint(a_kind, b_kind));
            return Err(self.error(expr, problem));
        }
        Ok((Node::Compare(operator, Box::new((a, b))), Type::Boolean))
    }

    fn arithmetic(&mut self, expr: &IdedExpr, operator: Arithmetic, a: &IdedExpr, b: &IdedExpr) -> Checked<Typed> {
        let ((a, a_kind), (b, b_kind)) = (self.check(a)?, self.check(b)?);
        let is_decimal = a_kind == Type::Decimal || b_kind == Type::Decimal;
        let fits = |kind| match kind {
            Type::Any | Type::Integer => true,
            Type::Float => operator != Arithmetic::Remainder,
            Type::Text => operator == Arithmetic::Add,
            _ => false,
        };
        let same = a_kind == b_kind || a_kind == Type::Any || b_kind == Type::Any;
        if !(fits(a_kind) && fits(b_kind) && same) {
            let why = if is_decimal {
                "decimals are compared exactly and not calculated with; double(…) rounds them first"
            } else {
                "both have to be integers, or floats, or text; convert with int(…), double(…) or string(…)"
            };
            return Err(self.error(expr, format!("`{operator}` of {a_kind} and {b_kind}: {why}")));
        }
        let kind = if a_kind == Type::Any { b_kind } else { a_kind };
        Ok((Node::Arithmetic(operator, Box::new((as_float(a), as_float(b)))), kind))
    }

    fn negation(&mut self, expr: &IdedExpr, operand: &IdedExpr) -> Checked<Typed> {
        let (node, kind) = self.check(operand)?;
        if !matches!(kind, Type::Any | Type::Integer | Type::Float) {
            return Err(self.error(expr, format!("`-` of {kind}: it has to be an integer or a float")));
        }
        Ok((Node::Negate(Box::new(as_float(node))), kind))
    }

    fn membership(&mut self, expr: &IdedExpr, needle: &IdedExpr, list: &IdedExpr) -> Checked<Typed> {
        let (needle, needle_kind) = self.check(needle)?;
        let list = if let Expr::List(literals) = &list.expr {
            let mut nodes = Vec::new();
            for literal in &literals.elements {
                let (node, kind) = self.check(literal)?;
                if !(needle_kind.goes_with(kind) || kind == Type::Null) {
                    let problem = format!("{needle_kind} never equals {kind}{}", hint(needle_kind, kind));
                    return Err(self.error(literal, problem));
                }
                nodes.push(node);
            }
            Node::List(nodes)
        } else {
            let (list, kind) = self.check(list)?;
            if !kind.goes_with(Type::List) {
                return Err(self.error(expr, format!("`in` looks into a list, not into {kind}")));
            }
            list
        };
        Ok((Node::In(Box::new((needle, list))), Type::Boolean))
    }

    fn index(&mut self, expr: &IdedExpr, operand: &IdedExpr, index: &IdedExpr) -> Checked<Typed> {
        if let Expr::Literal(LiteralValue::String(name)) = &index.expr {
            let name = name.inner().to_owned();
            return self.member(expr, operand, &name);
        }
        let (node, kind) = self.check(operand)?;
        let (index_node, index_kind) = self.check(index)?;
        if !kind.goes_with(Type::List) {
            return Err(self.error(operand, format!("this is {kind}, which has no elements")));
        }
        if !matches!(index_kind, Type::Any | Type::Integer | Type::Text) {
            return Err(self.error(index, format!("an element is named by an integer, not by {index_kind}")));
        }
        Ok((Node::Element(Box::new((node, index_node))), Type::Any))
    }

    fn matches(&mut self, expr: &IdedExpr, text: &IdedExpr, pattern: &IdedExpr) -> Checked<Typed> {
        let (node, kind) = self.check(text)?;
        if !kind.goes_with(Type::Text) {
            return Err(self.error(expr, format!("matches() looks at text, not at {kind}")));
        }
        let Expr::Literal(LiteralValue::String(written)) = &pattern.expr else {
            return Err(self.error(pattern, "the pattern of matches() has to stand here as text"));
        };
        let compiled = regex::RegexBuilder::new(written.inner()).size_limit(PATTERN_BYTES_MAX).build();
        let regex: Regex = compiled.map_err(|error| {
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default();
            self.error(pattern, format!("no pattern: {}", last.trim_start_matches("error: ")))
        })?;
        Ok((Node::Matches(Box::new(node), regex), Type::Boolean))
    }

    fn over(
        &mut self,
        expr: &IdedExpr,
        range: &IdedExpr,
        name: &str,
        variable: &IdedExpr,
        rest: &[IdedExpr],
    ) -> Checked<Typed> {
        let (range_node, kind) = self.check(range)?;
        if !kind.goes_with(Type::List) {
            return Err(self.error(range, format!("{name}() goes over a list, not over {kind}")));
        }
        let Expr::Ident(variable_name) = &variable.expr else {
            return Err(
                self.error(variable, format!("{name}() needs a name for the element first, as in {name}(x, …)"))
            );
        };
        self.variables.push(variable_name.clone());
        let checked = match (name, rest) {
            ("all", [body]) => self.condition(body).map(|body| (Loop::All, body, Type::Boolean)),
            ("exists", [body]) => self.condition(body).map(|body| (Loop::Exists, body, Type::Boolean)),
            ("exists_one" | "existsOne", [body]) => {
                self.condition(body).map(|body| (Loop::ExistsOne, body, Type::Boolean))
            }
            ("filter", [body]) => self.condition(body).map(|body| (Loop::Filter, body, Type::List)),
            ("map", [body]) => self.check(body).map(|(body, _)| (Loop::Map(None), body, Type::List)),
            ("map", [condition, body]) => self
                .condition(condition)
                .and_then(|condition| self.check(body).map(|(body, _)| (Loop::Map(Some(condition)), body, Type::List))),
            _ => Err(self.error(expr, format!("{name}() takes a name and what to ask of each element"))),
        };
        self.variables.pop();
        let (what, body, kind) = checked?;
        Ok((Node::Over(Box::new(Over { range: range_node, what, body })), kind))
    }

    fn function(&mut self, expr: &IdedExpr, name: &str, args: &[&IdedExpr]) -> Checked<Typed> {
        let Some((_, function)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
            if name.eq_ignore_ascii_case("not") {
                return Err(self.error(expr, format!("unknown function {name:?}; write !(…)")));
            }
            let known: Vec<_> =
                FUNCTIONS.iter().map(|(name, _)| *name).chain(["matches", "has"]).chain(LOOPS).collect();
            return Err(self.error(expr, format!("unknown function {name:?}; there are {}", known.join(", "))));
        };
        let (takes, kind) = match function {
            Function::Size => (1, Type::Integer),
            Function::StartsWith | Function::EndsWith | Function::Contains => (2, Type::Boolean),
            Function::LowerAscii | Function::UpperAscii | Function::Text => (1, Type::Text),
            Function::Boolean => (1, Type::Boolean),
            Function::Integer => (1, Type::Integer),
            Function::Float => (1, Type::Float),
            Function::Decimal => (1, Type::Decimal),
            Function::Timestamp => (1, Type::Timestamp),
        };
        if args.len() != takes {
            return Err(self.error(expr, format!("{name}() takes {takes} values, here are {}", args.len())));
        }
        let mut nodes = Vec::new();
        for arg in args {
            let (node, kind) = self.check(arg)?;
            if !takes_kind(*function, kind) {
                return Err(self.error(arg, format!("{name}() does not take {kind}")));
            }
            nodes.push(node);
        }
        self.constant(args, *function, &nodes).map(|constant| (constant.unwrap_or(Node::Call(*function, nodes)), kind))
    }

    /// What is made of text that stands in the predicate is made, or refused, now.
    fn constant(&self, args: &[&IdedExpr], function: Function, nodes: &[Node]) -> Checked<Option<Node>> {
        let (Some(Node::Text(text)), Some(arg)) = (nodes.first(), args.first()) else { return Ok(None) };
        let node = match function {
            Function::Timestamp => Instant::parse(text).map(|_| Node::Timestamp(text.clone())),
            Function::Decimal => Number::parse(text).map(|_| Node::Decimal(text.clone())),
            Function::Float => parse_float(text).map(Node::Float),
            Function::Boolean => parse_boolean(text).map(Node::Boolean),
            Function::Integer => Number::parse(text).and_then(Number::to_i64).map(Node::Integer),
            _ => return Ok(None),
        };
        let wanted = match function {
            Function::Timestamp => "timestamp such as 2014-02-08T10:01:36.8Z with its offset",
            Function::Decimal | Function::Float => "number",
            Function::Boolean => "true or false",
            _ => "integer within 64 bits",
        };
        node.map(Some).ok_or_else(|| self.error(arg, format!("{text:?} is no {wanted}")))
    }
}

fn takes_kind(function: Function, kind: Type) -> bool {
    if kind == Type::Any {
        return true;
    }
    match function {
        Function::Size => matches!(kind, Type::Text | Type::List),
        Function::StartsWith
        | Function::EndsWith
        | Function::Contains
        | Function::LowerAscii
        | Function::UpperAscii => kind == Type::Text,
        Function::Boolean => matches!(kind, Type::Boolean | Type::Text),
        Function::Integer | Function::Float | Function::Decimal => kind.is_number() || kind == Type::Text,
        Function::Text => !matches!(kind, Type::Null | Type::List),
        Function::Timestamp => matches!(kind, Type::Timestamp | Type::Text),
    }
}

/// In arithmetic a number with a point is a float.
fn as_float(node: Node) -> Node {
    match &node {
        Node::Decimal(text) => parse_float(text).map_or(node, Node::Float),
        _ => node,
    }
}

/// What to write instead.
fn hint(a: Type, b: Type) -> Cow<'static, str> {
    match (a, b) {
        (Type::Timestamp, Type::Text) | (Type::Text, Type::Timestamp) => {
            "; write timestamp(\"2026-01-01T00:00:00Z\")".into()
        }
        (Type::Text, number) | (number, Type::Text) if number.is_number() => {
            "; a number is written without quotes, and text becomes one by decimal(…), int(…) or double(…)".into()
        }
        (Type::Null, _) | (_, Type::Null) => "; only == and != take null".into(),
        _ => "".into(),
    }
}
