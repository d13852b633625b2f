//! Values and messages: read as written, refused when cut or changed, never a panic.

use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use crate::amqp::codec::{Reader, Value};
use crate::amqp::encode::Write;
use crate::amqp::message::{BATCH_FORMAT, Message, Stamp, messages_of};
use crate::amqp::performative::Performative;

fn write_value(out: &mut impl Write, value: &Value) {
    match value {
        Value::Null => out.null(),
        Value::Bool(value) => out.bool(*value),
        Value::Uint(value) => out.ulong(*value),
        Value::Int(value) => out.long(*value),
        Value::Timestamp(value) => out.timestamp(*value),
        Value::Uuid(value) => out.uuid(*value),
        Value::Binary(value) => out.binary(value),
        Value::Text(value) => out.text(value),
        Value::Symbol(value) => out.symbol(value),
        Value::List(values) => out.list(|list| values.iter().for_each(|value| write_value(list, value))),
        Value::Map(pairs) => out.map(|map| {
            for (key, value) in pairs {
                write_value(map, key);
                write_value(map, value);
            }
        }),
        other => panic!("{other:?} is not written by us"),
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(Value::Uint),
        (0..300_u64).prop_map(Value::Uint),
        any::<i64>().prop_map(Value::Int),
        any::<i64>().prop_map(Value::Timestamp),
        any::<u128>().prop_map(|bits| Value::Uuid(Uuid::from_u128(bits))),
        vec(any::<u8>(), 0..300).prop_map(Value::Binary),
        ".{0,100}".prop_map(Value::Text),
        "[a-z:-]{0,20}".prop_map(Value::Symbol),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::List),
            vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_skipping_ends_where_reading_ends(value in values()) {
        let mut bytes = Vec::new();
        write_value(&mut bytes, &value);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(reader.value().unwrap(), value);
        prop_assert!(reader.is_empty());
        let mut reader = Reader::new(&bytes);
        reader.skip().unwrap();
        prop_assert!(reader.is_empty());
    }

    #[test]
    fn every_cut_of_a_value_is_an_error(value in values()) {
        let mut bytes = Vec::new();
        write_value(&mut bytes, &value);
        for cut in 0..bytes.len() {
            prop_assert!(Reader::new(&bytes[..cut]).skip().is_err());
            prop_assert!(Reader::new(&bytes[..cut]).value().is_err());
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic_or_read_beyond_them(bytes in vec(any::<u8>(), 0..200)) {
        for read in [
            |reader: &mut Reader<'_>| reader.value().is_ok(),
            |reader: &mut Reader<'_>| reader.skip().is_ok(),
            |reader: &mut Reader<'_>| reader.text().is_ok(),
            |reader: &mut Reader<'_>| reader.int().is_ok(),
            |reader: &mut Reader<'_>| reader.descriptor().is_ok(),
        ] {
            let mut reader = Reader::new(&bytes);
            let _read = read(&mut reader);
            prop_assert!(reader.position() <= bytes.len());
        }
        let _performative = Performative::read(&bytes);
        let _message = Message::read(&bytes);
        let _batch = messages_of(BATCH_FORMAT, &bytes);
    }

    #[test]
    fn a_message_that_is_taken_can_always_be_given_out_peeked_and_dead_lettered(
        sections in vec((0x70..0x79_u8, values()), 0..6),
        change in any::<prop::sample::Index>(),
        to in any::<u8>(),
        expires_at in prop::option::of(3..i64::MAX),
    ) {
        let mut bytes = Vec::new();
        let mut sorted = sections;
        sorted.sort_by_key(|(code, _)| *code);
        for (code, value) in &sorted {
            bytes.extend([0x00, 0x53, *code]);
            write_value(&mut bytes, value);
        }
        if !bytes.is_empty() {
            let at = change.index(bytes.len());
            bytes[at] = to;
        }
        let Ok(message) = Message::read(&bytes) else { return Ok(()) };
        let stamp = Stamp {
            expires_at,
            delivery_count: 1,
            sequence: 2,
            enqueued_at: 3,
            lock: Some((Uuid::from_u128(4), 5)),
            dead_letter_source: Some("e"),
            state: Some(0),
        };
        let mut reason = Vec::new();
        reason.text("why");
        for message in [message.with_properties(&[("DeadLetterReason", reason)]), message] {
            let mut out = Vec::new();
            message.write(&mut out, &stamp);
            prop_assert!(out.len() <= message.encoded_max());
            let again = Message::read(&out).expect("what we write we can read");
            prop_assert_eq!(again.contents().body, message.contents().body);
            prop_assert!(again.contents().message_id == message.contents().message_id);
        }
    }
}

#[test]
fn properties_whose_last_field_is_cut_off_are_no_message() {
    let good = [0x00, 0x53, 0x73, 0xc0, 0x05, 0x02, 0xa1, 0x01, b'a', 0x40];
    assert_eq!(Message::read(&good).unwrap().contents().message_id.as_deref(), Some("a"));
    // A described value whose value is missing.
    let cut = [0x00, 0x53, 0x73, 0xc0, 0x06, 0x02, 0xa1, 0x01, b'a', 0x00, 0x40];
    assert!(Message::read(&cut).is_err());
}

#[test]
fn integers_of_every_width_are_one_number() {
    let cases: [&[u8]; 12] = [
        &[0x50, 7],
        &[0x51, 7],
        &[0x52, 7],
        &[0x53, 7],
        &[0x54, 7],
        &[0x55, 7],
        &[0x60, 0, 7],
        &[0x61, 0, 7],
        &[0x70, 0, 0, 0, 7],
        &[0x71, 0, 0, 0, 7],
        &[0x80, 0, 0, 0, 0, 0, 0, 0, 7],
        &[0x81, 0, 0, 0, 0, 0, 0, 0, 7],
    ];
    for bytes in cases {
        assert_eq!(Reader::new(bytes).uint(), Ok(Some(7)), "{bytes:02x?}");
        assert_eq!(Reader::new(bytes).value().unwrap().as_int(), Some(7));
    }
    assert_eq!(Reader::new(&[0x54, 0xff]).int(), Ok(Some(-1)));
    assert!(Reader::new(&[0x54, 0xff]).uint().is_err());
    assert!(Reader::new(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).int().is_err());
    assert!(Reader::new(&[0x80, 0, 0, 0, 1, 0, 0, 0, 0]).uint32().is_err());
    for zero in [&[0x43][..], &[0x44], &[0x40]] {
        assert_eq!(Reader::new(zero).uint().unwrap().unwrap_or(0), 0);
    }
}

#[test]
fn a_count_or_size_that_lies_costs_no_memory() {
    let lies: [&[u8]; 6] = [
        &[0xd0, 0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        &[0xd0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1],
        &[0xb0, 0xff, 0xff, 0xff, 0xff],
        // Four thousand million nulls in nine bytes.
        &[0xf0, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x40],
        &[0xf0, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0x50, 1],
        &[0xc1, 2, 1, 0x40],
    ];
    for bytes in lies {
        assert!(Reader::new(bytes).value().is_err(), "{bytes:02x?}");
    }
}

/// Values in a tree, itself not counted.
fn elements(value: &Value) -> usize {
    match value {
        Value::List(values) | Value::Array(values) => values.len() + values.iter().map(elements).sum::<usize>(),
        Value::Map(pairs) => pairs.iter().map(|(key, value)| 2 + elements(key) + elements(value)).sum(),
        Value::Described(pair) => 2 + elements(&pair.0) + elements(&pair.1),
        _ => 0,
    }
}

/// A list of arrays of so many nulls, which take no bytes.
fn arrays_of_nulls(arrays: usize, nulls: u32) -> Vec<u8> {
    let mut out = Vec::new();
    out.list(|list| (0..arrays).for_each(|_| list.array(0x40, nulls, |_| {})));
    out
}

#[test]
fn a_tree_has_no_more_elements_than_its_value_has_bytes() {
    let few = arrays_of_nulls(1, 255);
    let tree = Reader::new(&few).value().unwrap();
    assert_eq!(elements(&tree), 256, "a few are always allowed");
    for (arrays, nulls) in [(1, 256), (1, 65_536), (2, 200), (6_000, 65_536)] {
        let bytes = arrays_of_nulls(arrays, nulls);
        let error = Reader::new(&bytes).value().unwrap_err();
        assert_eq!(error.what, "a value has more elements than its size allows", "{arrays} of {nulls}");
        // Longer input behind it allows no more, and to pass over it costs nothing.
        let mut long = bytes.clone();
        long.resize(1_000_000, 0x40);
        assert!(Reader::new(&long).value().is_err(), "{arrays} of {nulls}");
        let mut reader = Reader::new(&bytes);
        reader.skip().unwrap();
        assert!(reader.is_empty());
    }
    let mut described = vec![0x00, 0x43];
    described.extend(arrays_of_nulls(2, 200));
    assert!(Reader::new(&described).value().is_err(), "one budget for all that is within");
    let mut many = Vec::new();
    many.list(|list| (0..262_145).for_each(|_| list.null()));
    assert!(Reader::new(&many).value().is_err(), "nobody means so many");
}

#[test]
fn honest_trees_are_never_too_large_for_their_bytes() {
    let mut nulls = Vec::new();
    nulls.list(|list| (0..50_000).for_each(|_| list.null()));
    assert_eq!(elements(&Reader::new(&nulls).value().unwrap()), 50_000);
    let mut lists = vec![0x45];
    for _ in 0..30 {
        lists = [&[0xd0][..], &u32::try_from(lists.len() + 4).unwrap().to_be_bytes(), &[0, 0, 0, 1], &lists].concat();
    }
    assert_eq!(elements(&Reader::new(&lists).value().unwrap()), 30);
    let mut locks = Vec::new();
    locks.map(|map| {
        map.text("lock-tokens");
        map.array(0x98, 10_000, |out| out.resize(out.len() + 160_000, 7));
    });
    assert_eq!(elements(&Reader::new(&locks).value().unwrap()), 10_002);
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
    let described = vec![0x00; 100_000];
    assert_eq!(Reader::new(&described).skip().unwrap_err().what, "values are nested too deeply");
    assert_eq!(Reader::new(&described).value().unwrap_err().what, "values are nested too deeply");
    let mut lists = vec![0x45];
    for _ in 0..2_000 {
        let size = u32::try_from(lists.len() + 4).unwrap();
        lists = [&[0xd0][..], &size.to_be_bytes(), &[0, 0, 0, 1], &lists].concat();
    }
    assert_eq!(Reader::new(&lists).value().unwrap_err().what, "values are nested too deeply");
}

#[test]
fn symbols_are_taken_for_descriptors_too() {
    let mut body = vec![0x00, 0xa3, 16];
    body.extend(b"amqp:detach:list");
    body.extend([0xc0, 3, 1, 0x52, 9]);
    let Performative::Detach(detach) = Performative::read(&body).unwrap() else { panic!() };
    assert_eq!(detach.handle, 9);
}

#[test]
fn a_compound_that_outgrows_its_small_form_is_widened() {
    for length in 240..270 {
        let mut bytes = Vec::new();
        let text = "x".repeat(length);
        bytes.list(|list| {
            list.uint(1);
            list.map(|map| {
                map.text("k");
                map.text(&text);
            });
        });
        let value = Reader::new(&bytes).value().unwrap();
        assert_eq!(value.elements()[1].get("k").and_then(Value::as_text), Some(text.as_str()));
    }
}

#[test]
fn sections_are_put_in_order_and_unknown_ones_are_refused() {
    let data = [0x00, 0x53, 0x75, 0xa0, 0];
    let header = [0x00, 0x53, 0x70, 0x45];
    let unknown = [0x00, 0x53, 0x79, 0x40];
    assert!(Message::read(&[data, data].concat()).is_ok(), "several data sections are fine");
    let (footer, body) = ([0x00, 0x53, 0x78, 0xc1, 1, 0], [0x00, 0x53, 0x75, 0xa0, 1, 7]);
    let message = Message::read(&[&footer[..], &body, &header].concat()).expect("any order is taken");
    assert_eq!(message.contents().body, [7]);
    let mut written = Vec::new();
    message.write(
        &mut written,
        &Stamp {
            delivery_count: 0,
            sequence: 1,
            enqueued_at: 0,
            lock: None,
            dead_letter_source: None,
            expires_at: None,
            state: None,
        },
    );
    assert!(written.ends_with(&[&body[..], &footer].concat()), "the body comes before the footer: {written:x?}");
    assert!(Message::read(&unknown).is_err());
    let odd = [0x00, 0x53, 0x74, 0xc1, 2, 1, 0x40];
    assert_eq!(Message::read(&odd).unwrap_err().what, "a map has a key without a value");
}
