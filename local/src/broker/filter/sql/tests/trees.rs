//! Random expression trees: what is printed is parsed to the same tree, and so evaluated alike.

use proptest::prelude::*;

use super::print::Within;
use super::{Draft, NOW, SqlFilter, draft};
use crate::amqp::codec::Value;
use crate::broker::filter::View;
use crate::broker::filter::operand::{Arithmetic, Comparison, Operand};
use crate::broker::filter::sql::ast::{Expression, Predicate, Property};
use crate::broker::filter::sql::eval;
use crate::broker::filter::view::SystemProperty;

/// Whole multiples of an eighth print and parse exactly.
fn constants() -> impl Strategy<Value = Operand<'static>> {
    prop_oneof![
        (0..4_i64).prop_map(|n| Operand::Int(i128::from(n))),
        (0..=i64::MAX).prop_map(|n| Operand::Int(i128::from(n))),
        (0..64_u8).prop_map(|n| Operand::Double(f64::from(n) / 8.0)),
        "[ab%_'é]{0,3}".prop_map(|text| Operand::Text(text.into())),
        any::<bool>().prop_map(Operand::Bool),
        Just(Operand::Unknown),
    ]
}

fn properties() -> impl Strategy<Value = Property> {
    prop_oneof![
        proptest::sample::select(vec!["a", "b", "missing", "with ] and [", "NOT", "sys.x"])
            .prop_map(|name| Property::User(name.to_owned())),
        proptest::sample::select(vec![
            SystemProperty::Subject,
            SystemProperty::To,
            SystemProperty::TimeToLive,
            SystemProperty::Size,
        ])
        .prop_map(Property::System),
    ]
}

fn expressions() -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![
        constants().prop_map(Expression::Constant),
        properties().prop_map(Expression::Property),
        Just(Expression::Parameter("five".to_owned(), Operand::Int(5))),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let chain = |operators: Vec<Arithmetic>, inner: BoxedStrategy<Expression>| {
            let others = proptest::collection::vec((proptest::sample::select(operators), inner.clone()), 1..3);
            (inner, others).prop_map(|(first, others)| Expression::Chain(Box::new(first), others))
        };
        let inner = inner.boxed();
        prop_oneof![
            inner.clone().prop_map(|inner| Expression::Negate(Box::new(inner))),
            inner.clone().prop_map(|inner| Expression::Affirm(Box::new(inner))),
            inner.clone().prop_map(|inner| Expression::Lookup(Box::new(inner))),
            chain(vec![Arithmetic::Add, Arithmetic::Subtract], inner.clone()),
            chain(vec![Arithmetic::Multiply, Arithmetic::Divide, Arithmetic::Remainder], inner),
        ]
    })
}

fn predicates() -> impl Strategy<Value = Predicate> {
    let comparisons = vec![
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
    ];
    let boxed = || expressions().prop_map(Box::new);
    let escapes = proptest::option::of("[%_a]".prop_map(|c| Box::new(Expression::Constant(Operand::Text(c.into())))));
    let leaf = prop_oneof![
        (expressions(), proptest::sample::select(comparisons), expressions())
            .prop_map(|parts| Predicate::Compare(Box::new(parts))),
        (properties(), any::<bool>()).prop_map(|(property, negated)| Predicate::IsNull { property, negated }),
        (boxed(), proptest::collection::vec(expressions(), 1..4), any::<bool>())
            .prop_map(|(left, list, negated)| Predicate::In { left, list, negated }),
        (boxed(), boxed(), escapes, any::<bool>()).prop_map(|(text, pattern, escape, negated)| Predicate::Like {
            text,
            pattern,
            escape,
            negated
        }),
        properties().prop_map(Predicate::Exists),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Predicate::Not(Box::new(inner))),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(Predicate::And),
            proptest::collection::vec(inner, 2..4).prop_map(Predicate::Or),
        ]
    })
}

fn messages() -> impl Strategy<Value = Draft> {
    let value = |name: &'static str| {
        prop_oneof![
            Just(draft()),
            (0..4_i32).prop_map(move |n| draft().int(name, n)),
            (0..16_u8).prop_map(move |n| draft().double(name, f64::from(n) / 8.0)),
            "[ab]{0,2}".prop_map(move |text| draft().text(name, &text)),
            any::<bool>().prop_map(move |yes| draft().bool(name, yes)),
        ]
    };
    (value("a"), value("B"), proptest::option::of("[ab]{0,2}")).prop_map(|(a, b, label)| {
        let mut message = a;
        message.properties.extend(b.properties);
        match label {
            Some(label) => message.label(&label),
            None => message,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_printed_is_parsed_to_the_same_meaning(predicate in predicates(), message in messages()) {
        let printed = Within(0, &predicate).to_string();
        prop_assume!(printed.encode_utf16().count() <= 1_024);
        let parsed = SqlFilter::with_parameters(&printed, vec![("five".to_owned(), Value::Int(5))]);
        let parsed = parsed.map_err(|error| TestCaseError::fail(format!("{printed}: {error}")))?;
        prop_assert_eq!(parsed.predicate.as_ref(), &predicate, "{}", printed);
        let message = message.message();
        let view = View::new(&message, NOW);
        prop_assert_eq!(parsed.matches(&view), eval::predicate(&predicate, &view), "{}", printed);
    }

    /// De Morgan holds in three-valued logic too, as long as nothing fails.
    #[test]
    fn negating_a_conjunction_is_the_disjunction_of_negations(
        parts in proptest::collection::vec(predicates(), 2..4),
        message in messages(),
    ) {
        let message = message.message();
        let view = View::new(&message, NOW);
        let negations = parts.iter().cloned().map(|part| Predicate::Not(Box::new(part))).collect();
        let one = eval::predicate(&Predicate::Not(Box::new(Predicate::And(parts))), &view);
        prop_assert_eq!(one, eval::predicate(&Predicate::Or(negations), &view));
    }
}
