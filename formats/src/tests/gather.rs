//! Rows out of their batches and together again, in another order: nothing of them is another.

use proptest::prelude::*;

use super::*;
use crate::{Charset, Gathering};

/// A row of either kind, packed, by its number.
fn packed(batches: &[RowBatch]) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    for batch in batches {
        for row in batch.rows() {
            let mut into = Vec::new();
            row.pack(&mut into);
            all.push((row.number(), into));
        }
        for bad in batch.bad() {
            let mut into = Vec::new();
            bad.pack(&mut into);
            all.push((bad.row, into));
        }
    }
    all
}

/// All that can be read of the good rows, and the bad ones, by number.
fn shown(batches: &[RowBatch]) -> Vec<String> {
    let mut all = Vec::new();
    for batch in batches {
        for row in batch.rows() {
            let (mut fields, mut written) = (String::new(), String::new());
            row.for_each(&mut |name, value| fields.push_str(&format!("{name}={value:?};")));
            row.for_each_written(&mut |name, value| written.push_str(&format!("{name}={value:?};")));
            let raw = String::from_utf8_lossy(row.raw());
            let (number, offset, json) = (row.number(), row.offset(), row.to_json());
            all.push((number, format!("{number} at {offset}: {raw} is {json}: {fields} {written}")));
        }
        all.extend(batch.bad().iter().map(|bad| (bad.row, format!("{bad:?}"))));
    }
    all.sort();
    all.into_iter().map(|(_, shown)| shown).collect()
}

fn files() -> Vec<(&'static str, DecodeOptions, Vec<u8>)> {
    let text = "{\"id\":1,\"n\\u0061me\":\"caf\\u00e9 😀\",\"o\":{\"a\":[1,{}]},\"id\":2}\n\n  {}\nno row\n{ \"id\" : -1.50e3 , \"t\":\"\" }\n";
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let in_utf16 = DecodeOptions { charset: Charset::from_label("utf-16le"), ..json_lines() };
    let document = r#"<rows xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
        <row a="1" b="&lt;"><id>1</id><t>x &amp; y</t><t/><n xsi:nil="true"/></row><row/><row>own<id x="2">3</id></row>
        <row xmlns:i="http://www.w3.org/2001/XMLSchema-instance" b="2"><n i:nil="1"/><o><p>1</p><p>2</p></o></row></rows>"#;
    let lines = "<row xmlns:j=\"http://www.w3.org/2001/XMLSchema-instance\"><n j:nil=\"true\"/><m>1</m></row>\n<row><m>\n<row c=\"3\"><j>4</j></row>\n";
    vec![
        ("JSON Lines", json_lines(), text.into()),
        ("UTF-16", in_utf16, utf16),
        ("JSON", json(), b"[{\"id\":1,\n\"x\":[1]}, {\"id\":\"\\\"\"},\n{}]".to_vec()),
        ("CSV", csv(), "id,name,\"n\"\"\"\n1,\"aé\"\"b\nc\",\n2,,\"\"\n\"bad\"x,1,2\n3,4,5\n".into()),
        ("XML", xml(), document.into()),
        ("XML lines", xml_lines(), lines.into()),
    ]
}

proptest! {
    #[test]
    fn rows_are_the_same_in_whatever_order_they_are_gathered(order in prop::collection::vec(any::<u64>(), 8), cut in 1..9_usize) {
        for (format, options, bytes) in files() {
            for batch_rows in [1, 100] {
                let options = DecodeOptions { batch_rows, ..options.clone() };
                let (batches, end) = decode_batches(options, [bytes.as_slice()]);
                prop_assert!(end.is_ok(), "{}: {:?}", format, end);
                let mut rows = packed(&batches);
                rows.sort_by_key(|(number, _)| order[usize::try_from(*number).unwrap() % order.len()] ^ number);
                let mut gathering = Gathering::like(&batches[0]);
                let mut gathered = Vec::new();
                for some in rows.chunks(cut) {
                    for (_, packed) in some {
                        gathering.add(packed).unwrap();
                    }
                    prop_assert_eq!(gathering.len(), some.len());
                    let taken = gathering.take().unwrap();
                    let good: Vec<_> = taken.iter().flat_map(RowBatch::rows).map(|row| row.number()).collect();
                    let numbers: Vec<_> = some.iter().map(|(number, _)| *number).filter(|number| good.contains(number)).collect();
                    prop_assert_eq!(good, numbers, "{}: in the order in which they came", format);
                    gathered.extend(taken);
                }
                prop_assert_eq!(shown(&gathered), shown(&batches), "{}", format);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_packed_row_are_refused_or_read_and_nothing_breaks(
        file in 0..6_usize, at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>()
    ) {
        let (_, options, bytes) = files().swap_remove(file);
        let (batches, _) = decode_batches(options, [bytes.as_slice()]);
        let (_, mut row) = packed(&batches).swap_remove(0);
        let place = at.index(row.len());
        row[place] = with;
        row.truncate(cut.index(row.len()) + 1);
        let mut gathering = Gathering::like(&batches[0]);
        // What was changed may be a packed row still.
        if gathering.add(&row).is_ok() {
            prop_assert_eq!(gathering.len(), 1);
            drop(gathering.take());
        }
    }
}

#[test]
fn whatever_a_byte_of_a_packed_row_becomes_gathering_it_ends_with_rows_or_an_error() {
    for (_, options, bytes) in files() {
        let (batches, _) = decode_batches(options, [bytes.as_slice()]);
        for (_, row) in packed(&batches) {
            for at in 0..row.len() {
                for with in 0..=u8::MAX {
                    let mut changed = row.clone();
                    changed[at] = with;
                    let mut gathering = Gathering::like(&batches[0]);
                    if gathering.add(&changed).is_ok() {
                        drop(gathering.take());
                    }
                }
            }
        }
    }
}
