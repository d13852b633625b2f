//! Expressions against messages: Microsoft's examples, the tables of the three-valued logic, random trees, any input.

mod golden;
mod print;
mod trees;

use proptest::prelude::*;

use super::{SqlError, SqlFilter, like};
use crate::amqp::codec::Value;
use crate::amqp::encode::Write as _;
use crate::broker::filter::tests::{Draft, NOW, draft};
use crate::broker::filter::{EvaluationError, Truth, View};

const TRUE: Truth = Some(true);
const FALSE: Truth = Some(false);
const UNKNOWN: Truth = None;

fn evaluate(expression: &str, draft: &Draft) -> Result<Truth, EvaluationError> {
    let filter = SqlFilter::new(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    filter.matches(&View::new(&draft.message(), NOW))
}

fn refused(expression: &str) -> SqlError {
    SqlFilter::new(expression).expect_err(expression)
}

/// One condition for each truth value.
const CONDITIONS: [(&str, Truth); 3] = [("yes = 1", TRUE), ("yes = 2", FALSE), ("missing = 1", UNKNOWN)];

#[test]
fn and_or_and_not_follow_the_documented_tables() {
    let message = draft().int("yes", 1);
    let and = [TRUE, FALSE, UNKNOWN, FALSE, FALSE, FALSE, UNKNOWN, FALSE, UNKNOWN];
    let or = [TRUE, TRUE, TRUE, TRUE, FALSE, UNKNOWN, TRUE, UNKNOWN, UNKNOWN];
    let pairs = CONDITIONS.iter().flat_map(|left| CONDITIONS.iter().map(move |right| (left.0, right.0)));
    for ((left, right), (and, or)) in pairs.zip(and.into_iter().zip(or)) {
        assert_eq!(evaluate(&format!("{left} AND {right}"), &message), Ok(and), "{left} AND {right}");
        assert_eq!(evaluate(&format!("{left} OR {right}"), &message), Ok(or), "{left} OR {right}");
    }
    for (condition, truth) in CONDITIONS {
        assert_eq!(evaluate(&format!("NOT {condition}"), &message), Ok(truth.map(|truth| !truth)));
    }
}

#[test]
fn an_unknown_operand_makes_every_operator_unknown() {
    let message = draft().int("n", 1).text("t", "x").raw("null", |out| out.push(0x40));
    for unknown in ["missing", "null", "NULL", "sys.Label", "p('missing')"] {
        for expression in [
            "? = 1",
            "1 <> ?",
            "? < 1",
            "1 >= ?",
            "? + 1 = 2",
            "1 - ? = 0",
            "? * 2 = 2",
            "2 / ? = 2",
            "? % 2 = 1",
            "-? = 1",
            "+? = 1",
            "? LIKE 'x'",
            "t LIKE ?",
            "t NOT LIKE ?",
            "t LIKE 'x' ESCAPE ?",
            "? IN (1)",
            "? NOT IN (1)",
            "n IN (2, ?)",
            "n NOT IN (2, ?)",
            "p(?) = 1",
            "NOT ? = 1",
        ] {
            let expression = expression.replace('?', unknown);
            assert_eq!(evaluate(&expression, &message), Ok(UNKNOWN), "{expression}");
        }
        assert_eq!(evaluate(&format!("n IN ({unknown}, 1)"), &message), Ok(TRUE));
        assert_eq!(evaluate(&format!("n NOT IN ({unknown}, 1)"), &message), Ok(FALSE));
    }
}

#[test]
fn null_is_not_missing_only_for_exists() {
    let message = draft().label("l").raw("null", |out| out.push(0x40)).int("one", 1);
    for (expression, truth) in [
        ("EXISTS(one)", TRUE),
        ("EXISTS(user.ONE)", TRUE),
        ("EXISTS(null_)", FALSE),
        ("EXISTS([null])", TRUE),
        ("EXISTS(missing)", FALSE),
        ("EXISTS(sys.Label)", TRUE),
        ("EXISTS(sys.To)", FALSE),
        ("one IS NULL", FALSE),
        ("one IS NOT NULL", TRUE),
        ("[null] IS NULL", TRUE),
        ("missing IS NULL", TRUE),
        ("missing IS NOT NULL", FALSE),
        ("sys.Label IS NOT NULL", TRUE),
        ("sys.To IS NULL", TRUE),
    ] {
        assert_eq!(evaluate(expression, &message), Ok(truth), "{expression}");
    }
}

#[test]
fn operands_of_different_kinds_fail_like_csharp() {
    let message = draft().int("n", 1).text("t", "1").bool("b", true).raw("id", |out| out.uuid(uuid::Uuid::nil()));
    for (expression, text) in [
        ("t = 1", "operator '=' cannot be applied to a text and an integer"),
        ("n <> '1'", "operator '<>' cannot be applied to an integer and a text"),
        ("b = 1", "operator '=' cannot be applied to a boolean and an integer"),
        ("b > FALSE", "operator '>' cannot be applied to a boolean and a boolean"),
        ("t > '0'", "operator '>' cannot be applied to a text and a text"),
        ("t IN (1, '1')", "operator '=' cannot be applied to a text and an integer"),
        ("n LIKE '1'", "operator 'LIKE' cannot be applied to an integer and a text"),
        ("t LIKE 1", "operator 'LIKE' cannot be applied to a text and an integer"),
        ("t LIKE 'x' ESCAPE p('t') + 'y'", "ESCAPE must be a text of one character"),
        ("t - 1 = 0", "operator '-' cannot be applied to a text and an integer"),
        ("-t = 1", "operator '-' cannot be applied to a text"),
        ("+b = 1", "operator '+' cannot be applied to a boolean"),
        ("n / 0 = 1", "division by zero"),
        ("n % (n - 1) = 1", "division by zero"),
        ("id = '00000000-0000-0000-0000-000000000000'", "operator '=' cannot be applied to a uuid and a text"),
        ("p(n) = 1", "the name given to property() is an integer, not a text"),
        ("p('sys.Nope') = 1", "'sys.Nope' is not a system property"),
    ] {
        let error = evaluate(expression, &message).expect_err(expression);
        assert_eq!(error.to_string(), text, "{expression}");
    }
}

#[test]
fn the_right_side_is_not_evaluated_when_the_left_decides() {
    let message = draft().int("n", 1).text("t", "x");
    assert_eq!(evaluate("n = 1 OR t > 1", &message), Ok(TRUE));
    assert_eq!(evaluate("n = 2 AND t > 1", &message), Ok(FALSE));
    assert!(evaluate("n = 2 OR t > 1", &message).is_err());
    assert!(evaluate("missing = 1 AND t > 1", &message).is_err());
}

#[test]
fn parameters_take_the_values_of_the_rule() {
    let span = |ticks| Value::Described(Box::new((Value::Symbol("com.microsoft:timespan".into()), Value::Int(ticks))));
    let parameters = vec![
        ("@color".to_owned(), Value::Text("orders".into())),
        ("Limit".to_owned(), Value::Int(5)),
        ("@dtParam".to_owned(), Value::Timestamp(NOW.0)),
        ("@timespan".to_owned(), span(600_000_000)),
    ];
    let message = draft().text("source", "orders").int("n", 5).raw("at", |out| out.timestamp(NOW.0 - 60_000));
    for (expression, truth) in [
        ("source = @color", TRUE),
        ("n = @limit AND source = @COLOR", TRUE),
        ("at < @dtParam", TRUE),
        ("at > @dtParam", FALSE),
        ("(@dtParam-at) <= @timespan", TRUE),
        ("@dtParam-at <@timespan", FALSE),
        ("at + @timespan = @dtParam", TRUE),
        ("at + -@timespan = at - @timespan", TRUE),
        ("sys.EnqueuedTimeUtc = @dtParam", TRUE),
        ("sys.TimeToLive > @timespan", TRUE),
    ] {
        let filter = SqlFilter::with_parameters(expression, parameters.clone()).unwrap();
        assert_eq!(filter.matches(&View::new(&message.message(), NOW)), Ok(truth), "{expression}");
    }
    let missing = SqlFilter::with_parameters("a = @other", parameters).unwrap_err();
    assert_eq!((missing.column, missing.details.as_str()), (5, "the parameter '@other' has no value"));
}

#[test]
fn system_properties_are_those_of_the_message() {
    let mut message = draft();
    for place in [0, 2, 3, 4, 5, 6, 10, 12] {
        message = message.field(place, &format!("f{place}"));
    }
    message.ttl = Some(1_500);
    message.partition_key = Some("key".into());
    let encoded = message.message().len();
    for (expression, truth) in [
        ("sys.MessageId = 'f0' AND sys.To = 'f2' AND sys.Label = 'f3' AND sys.Subject = 'f3'", TRUE),
        ("sys.ReplyTo = 'f4' AND sys.CorrelationId = 'f5' AND sys.ContentType = 'f6'", TRUE),
        ("sys.SessionId = 'f10' AND sys.ReplyToSessionId = 'f12'", TRUE),
        ("SYS.messageid = 'f0' AND Sys.[Label] = 'f3'", TRUE),
        ("sys.PartitionKey = 'key'", TRUE),
        ("sys.ExpiresAtUtc - sys.EnqueuedTimeUtc = sys.TimeToLive", TRUE),
        ("sys.ScheduledEnqueueTimeUtc IS NULL", TRUE),
        ("p('sys.Label') = 'f3' AND property('SYS.to') = 'f2'", TRUE),
        ("MessageId IS NULL", TRUE),
    ] {
        assert_eq!(evaluate(expression, &message), Ok(truth), "{expression}");
    }
    assert_eq!(evaluate(&format!("sys.Size = {encoded}"), &message), Ok(TRUE));
}

#[test]
fn newid_is_another_uuid_each_time() {
    assert_eq!(evaluate("newid() <> newid() AND NEWID() = NEWID()", &draft()), Ok(FALSE));
    assert_eq!(evaluate("newid() <> newid()", &draft()), Ok(TRUE));
}

#[test]
fn errors_say_where_and_what_was_expected() {
    for (expression, line, column, token, details) in [
        ("", 1, 1, "", "syntax error, unexpected end of the expression, expecting a value or a condition"),
        ("a >", 1, 4, "", "syntax error, unexpected end of the expression, expecting a value or a condition"),
        ("a = 1 b = 2", 1, 7, "b", "syntax error, unexpected name, expecting the end, AND or OR"),
        (
            "a",
            1,
            2,
            "",
            "syntax error, unexpected end of the expression, expecting a comparison, LIKE, IN or IS after a value",
        ),
        ("a AND b = 1", 1, 1, "a", "a condition was expected, but this is a value; compare it, e.g. with = TRUE"),
        ("(a = 1) + 2 = 3", 1, 1, "(", "a value was expected, but this is a condition"),
        ("a = b = c", 1, 7, "=", "syntax error, unexpected symbol, expecting the end, AND or OR"),
        ("a\n = 'x", 2, 4, "'x", "a text is not closed with '"),
        ("[a = 1", 1, 1, "[a = 1", "a name is not closed with ]"),
        ("[] = 1", 1, 1, "[]", "a name must not be empty"),
        ("a = 1;", 1, 6, ";", "unrecognized character ';'"),
        ("_a = 1", 1, 1, "_", "unrecognized character '_'; a name that does not begin with a letter is written in []"),
        ("a = 1x", 1, 5, "1x", "a number must not run into a name"),
        ("a = 9223372036854775808", 1, 5, "9223372036854775808", "an integer must fit into 64 bits"),
        ("a = @", 1, 5, "@", "a parameter's name was expected after '@'"),
        ("a = @p", 1, 5, "@p", "the parameter '@p' has no value"),
        ("in = 1", 1, 1, "in", "syntax error, unexpected keyword, expecting a value or a condition"),
        (
            "sys.in = 1",
            1,
            5,
            "in",
            "syntax error, unexpected keyword, expecting a property; put the name into [] if it is one: [in]",
        ),
        ("my.a = 1", 1, 1, "my", "'my' is no scope; use sys or user, or put a name with a point into []"),
        ("a IN ()", 1, 7, ")", "syntax error, unexpected symbol, expecting a value or a condition"),
        ("a IN (1", 1, 8, "", "syntax error, unexpected end of the expression, expecting ',' or ')'"),
        ("a NOT = 1", 1, 7, "=", "syntax error, unexpected symbol, expecting IN or LIKE after NOT"),
        ("a IS 1", 1, 6, "1", "syntax error, unexpected number, expecting NULL"),
        ("1 IS NULL", 1, 1, "1", "IS NULL needs the name of a property before it"),
        ("EXISTS(1)", 1, 8, "1", "syntax error, unexpected number, expecting the name of a property"),
        ("a LIKE 'x' ESCAPE 'xy'", 1, 19, "'xy'", "ESCAPE must be a text of one character"),
        (
            "lower(a) = 'x'",
            1,
            1,
            "lower",
            "there is no function 'lower'; there are newid(), property(name) and p(name)",
        ),
    ] {
        let expected = SqlError { line, column, token: token.to_owned(), details: details.to_owned() };
        assert_eq!(refused(expression), expected, "{expression}");
    }
    let unknown = refused("a = 1 OR sys.Nope = 1");
    assert_eq!((unknown.column, unknown.token.as_str()), (14, "Nope"));
    assert!(unknown.details.starts_with("'sys.Nope' is not a system property; there are MessageId, To, Label"));
}

#[test]
fn the_message_of_an_error_is_worded_as_azures() {
    assert_eq!(
        refused("a =").to_string(),
        "There was an error parsing the SQL expression. [Token line=1, column=4, Token in error=, Additional \
         details=syntax error, unexpected end of the expression, expecting a value or a condition]"
    );
}

#[test]
fn expressions_are_bounded_in_length_and_depth() {
    let of_length = |length: usize| format!("a = '{}'", "x".repeat(length - 6));
    assert!(SqlFilter::new(&of_length(1_024)).is_ok());
    assert_eq!(refused(&of_length(1_025)).details, "the expression has 1025 characters; the most is 1024");
    let nested = |levels: usize| format!("{}a = 1{}", "(".repeat(levels), ")".repeat(levels));
    assert!(SqlFilter::new(&nested(64)).is_ok());
    assert_eq!(refused(&nested(65)).details, "the expression is nested more than 64 levels deep");
    for prefix in ["NOT ", "-", "+", "("] {
        let deep = prefix.repeat(1_000 / prefix.len());
        assert_eq!(refused(&deep).details, "the expression is nested more than 64 levels deep", "{prefix}");
    }
    // Chains are flat: as long as fits.
    let long = vec!["a=1"; 140].join(" OR ");
    assert_eq!(evaluate(&long, &draft().int("a", 2)), Ok(FALSE));
    let sum = format!("{}=500", vec!["1"; 500].join("+"));
    assert_eq!(evaluate(&sum, &draft()), Ok(TRUE));
}

#[test]
fn like_takes_no_exponential_time_and_no_endless_texts() {
    let hard = format!("{}b", "%a".repeat(500));
    assert_eq!(like::matches(&"a".repeat(60_000), &hard, None), Ok(false));
    assert!(like::matches(&"a".repeat(65_537), "%", None).is_err());
    assert!(like::matches("a", &"%".repeat(4_097), None).is_err());
}

/// `LIKE` as it is defined, in exponential time.
fn reference(text: &[char], pattern: &[char], escape: Option<char>) -> bool {
    match pattern {
        [] => text.is_empty(),
        [e, c, rest @ ..] if Some(*e) == escape => text.first() == Some(c) && reference(&text[1..], rest, escape),
        ['%', rest @ ..] if escape != Some('%') => {
            (0..=text.len()).any(|taken| reference(&text[taken..], rest, escape))
        }
        ['_', rest @ ..] if escape != Some('_') => !text.is_empty() && reference(&text[1..], rest, escape),
        [c, rest @ ..] => text.first() == Some(c) && reference(&text[1..], rest, escape),
    }
}

proptest! {
    #[test]
    fn like_agrees_with_its_definition(
        text in "[abé%_\\\\]{0,8}",
        pattern in "[abé%_\\\\]{0,8}",
        escape in proptest::option::of(proptest::sample::select(vec!['\\', 'a', '%', '_'])),
    ) {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(like::matches(&text, &pattern, escape), Ok(reference(&chars(&text), &chars(&pattern), escape)));
    }

    #[test]
    fn any_text_is_parsed_or_refused(expression in any::<String>()) {
        let _parsed = SqlFilter::new(&expression);
    }

    /// Texts that look like expressions get further.
    #[test]
    fn any_row_of_tokens_is_parsed_or_refused_and_evaluated(
        tokens in proptest::collection::vec(proptest::sample::select(TOKENS.to_vec()), 0..40),
    ) {
        if let Ok(filter) = SqlFilter::new(&tokens.join(" ")) {
            let message = draft().int("a", 1).text("b", "x").double("c", 0.5).label("l").message();
            let _truth = filter.matches(&View::new(&message, NOW));
        }
    }

    #[test]
    fn places_of_errors_lie_within_the_expression(expression in "[a-c =<>'\\n()\\[\\].é@0-9]{0,30}") {
        if let Err(error) = SqlFilter::new(&expression) {
            let lines: Vec<&str> = expression.split('\n').collect();
            prop_assert!((1..=lines.len()).contains(&error.line), "{error:?}");
            let line = lines[error.line - 1];
            prop_assert!((1..=line.chars().count() + 1).contains(&error.column), "{error:?}");
            let found: String = expression.split('\n').skip(error.line - 1).collect::<Vec<_>>().join("\n");
            let found: String = found.chars().skip(error.column - 1).collect();
            prop_assert!(found.starts_with(&error.token), "{error:?}");
        }
    }
}

const TOKENS: [&str; 43] = [
    "a",
    "b",
    "c",
    "missing",
    "sys",
    "user",
    ".",
    "sys.Label",
    "user.a",
    "[a b]",
    "\"q\"",
    "1",
    "2.5",
    "1E3",
    "'x'",
    "'%x_'",
    "TRUE",
    "FALSE",
    "NULL",
    "=",
    "<>",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "(",
    ")",
    ",",
    "AND",
    "OR",
    "NOT",
    "LIKE",
    "ESCAPE",
    "IN",
    "IS",
    "EXISTS",
    "p(",
];
