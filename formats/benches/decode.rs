//! How much of the time goes into rows: inflating a file alone, against decoding it and reading three fields of each row,
//! and against decoding it and asking a filter of three fields.
//!
//! `cargo bench -p waybill-formats --bench decode`. Prints, for each format, plain bytes a second and the ratio to the
//! inflate of the same bytes: medians of paired runs. With the environment's `DECODE_FILE` and `DECODE_FORMAT` (`jsonl`,
//! `json`, `csv`, `xml`, `xmll`) a gzip file of one's own, `DECODE_FIELDS` (paths with commas between) its fields, and
//! `DECODE_FILTER` a predicate.

use std::{
    hint::black_box,
    io::{Read, Write},
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{bufread::MultiGzDecoder, write::GzEncoder};
use waybill_contracts::ColumnType;
use waybill_formats::{
    DecodeOptions, Field, FieldPath, RowBatch, RowDecoder, RowFilter, Source, Step,
    filter::{FilterColumns, FilterFields},
};

const ROWS: u32 = 200_000;
const RUNS: usize = 7;
const CHUNK: usize = 256 << 10;

struct Case {
    name: String,
    source: Source,
    paths: Vec<FieldPath>,
    filter: RowFilter,
    stored: Bytes,
}

fn main() {
    let cases = own_file().map_or_else(generated, |case| vec![case]);
    println!(
        "{:8} {:>9} {:>14} {:>14} {:>7} {:>14} {:>7} {:>7}",
        "format", "plain MB", "inflate MB/s", "fields MB/s", "ratio", "filter MB/s", "ratio", "wanted"
    );
    for case in cases {
        let (plain, _) = inflate(&case.stored);
        let (mut inflates, mut reads, mut filters) = (Vec::new(), Vec::new(), Vec::new());
        let (mut read_ratios, mut filter_ratios, mut wanted) = (Vec::new(), Vec::new(), 0.0);
        for _ in 0..RUNS {
            let (_, alone) = inflate(&case.stored);
            let read = decode(&case, read_fields);
            let filtered = decode(&case, ask_filter);
            assert!(read.1 > 0, "the fields are there");
            wanted = filtered.1 as f64 / filtered.2 as f64;
            inflates.push(alone);
            read_ratios.push(read.0.as_secs_f64() / alone.as_secs_f64());
            filter_ratios.push(filtered.0.as_secs_f64() / alone.as_secs_f64());
            reads.push(read.0);
            filters.push(filtered.0);
        }
        read_ratios.sort_by(f64::total_cmp);
        filter_ratios.sort_by(f64::total_cmp);
        let speed = |mut times: Vec<Duration>| {
            times.sort();
            plain as f64 / 1e6 / times[RUNS / 2].as_secs_f64()
        };
        println!(
            "{:8} {:9.1} {:14.0} {:14.0} {:7.2} {:14.0} {:7.2} {:6.1}%",
            case.name,
            plain as f64 / 1e6,
            speed(inflates),
            speed(reads),
            read_ratios[RUNS / 2],
            speed(filters),
            filter_ratios[RUNS / 2],
            100.0 * wanted
        );
    }
}

fn inflate(stored: &Bytes) -> (u64, Duration) {
    let start = Instant::now();
    let mut reader = MultiGzDecoder::new(&stored[..]);
    let mut buffer = vec![0; CHUNK];
    let mut plain = 0;
    loop {
        match reader.read(&mut buffer).expect("the file is gzip") {
            0 => return (plain, start.elapsed()),
            length => plain += length as u64,
        }
        black_box(&buffer);
    }
}

/// How long it takes, what `each` adds up to, and how many rows there are.
fn decode(case: &Case, each: impl Fn(&Case, &RowBatch) -> usize) -> (Duration, usize, u64) {
    let start = Instant::now();
    let mut decoder = RowDecoder::new(DecodeOptions::new(case.source.clone()));
    let mut fed = 0;
    let (mut rows, mut sum) = (0_u64, 0);
    loop {
        match decoder.next().expect("the file is good") {
            Step::NeedInput if fed < case.stored.len() => {
                let end = (fed + CHUNK).min(case.stored.len());
                decoder.feed(case.stored.slice(fed..end));
                fed = end;
            }
            Step::NeedInput => decoder.end(),
            Step::Batch(batch) => {
                rows += batch.len() as u64;
                sum += each(case, &batch);
            }
            Step::Done(stats) => {
                assert_eq!((stats.rows, stats.bad_rows), (rows, 0));
                return (start.elapsed(), sum, rows);
            }
        }
    }
}

fn read_fields(case: &Case, batch: &RowBatch) -> usize {
    let mut values = Vec::new();
    let mut length = 0;
    for row in batch.rows() {
        row.get_many(&case.paths, &mut values);
        length += values.iter().map(text_length).sum::<usize>();
    }
    length
}

fn ask_filter(case: &Case, batch: &RowBatch) -> usize {
    let mut fields = FilterFields::default();
    batch.rows().filter(|row| case.filter.matches(row, &mut fields).expect("every row can be judged")).count()
}

fn text_length(field: &Field<'_>) -> usize {
    match field {
        Field::Number(text) => text.len(),
        Field::Text(text) => text.len(),
        Field::Missing | Field::Null | Field::Bool(_) | Field::Nested(_) => 0,
    }
}

fn own_file() -> Option<Case> {
    let variable = |name| std::env::var(name).ok();
    let path = variable("DECODE_FILE")?;
    let name = variable("DECODE_FORMAT").expect("DECODE_FORMAT says what the file is");
    let fields = variable("DECODE_FIELDS").unwrap_or_else(|| "id,sku,price".to_owned());
    let stored = Bytes::from(std::fs::read(path).expect("the file can be read"));
    let paths = fields.split(',').map(|path| FieldPath::parse(path).expect("a path")).collect();
    let predicate = variable("DECODE_FILTER").unwrap_or_else(|| "true".to_owned());
    let filter = RowFilter::compile(&predicate, &FilterColumns::default()).expect("DECODE_FILTER is a predicate");
    Some(Case { source: source(&name), name, paths, filter, stored })
}

fn source(name: &str) -> Source {
    match name {
        "jsonl" => Source::JsonLines,
        "json" => Source::Json,
        "csv" => Source::Csv { columns: None, delimiter: b',' },
        "xml" => Source::Xml { row: None },
        "xmll" => Source::XmlLines,
        other => panic!("{other} is no format"),
    }
}

/// Changes of items, about as they are in the real world: short texts, some characters that are not ASCII, some nesting.
fn generated() -> Vec<Case> {
    let mut random = 7_u64;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let words =
        ["cable", "hammer", "M8 x 40", "stål", "ring", "adapter", "blue", "vattentät", "kit", "A4", "drill", "pump"];
    let (mut jsonl, mut json, mut csv) =
        (String::new(), "[\n".to_owned(), "id,sku,name,price,stock,tag,updatedAt\n".to_owned());
    let (mut xml, mut xmll) = ("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<items>\n".to_owned(), String::new());
    for id in 0..ROWS {
        let mut word = || words[next(words.len() as u64) as usize];
        let (name, tag) = (format!("{} {} & {}", word(), word(), word()), word());
        let price = format!("{}.{:02}", next(10_000), next(100));
        let (sku, stock) = (format!("SKU-{:08x}", next(1 << 32)), next(500));
        let at = format!("2026-{:02}-{:02}T{:02}:{:02}:00Z", next(12) + 1, next(28) + 1, next(24), next(60));
        let object = format!(
            "{{\"id\":{id},\"sku\":\"{sku}\",\"name\":\"{name}\",\"price\":{price},\"stock\":{stock},\"tags\":[\"{tag}\"],\
             \"updatedAt\":\"{at}\"}}"
        );
        let element = format!(
            "<item id=\"{id}\"><sku>{sku}</sku><name>{}</name><price>{price}</price><stock>{stock}</stock>\
             <tags><tag>{tag}</tag></tags><updatedAt>{at}</updatedAt></item>\n",
            name.replace('&', "&amp;")
        );
        jsonl.push_str(&object);
        jsonl.push('\n');
        json.push_str(&object);
        json.push_str(if id + 1 < ROWS { ",\n" } else { "\n]\n" });
        csv.push_str(&format!("{id},{sku},\"{name}\",{price},{stock},{tag},{at}\n"));
        xml.push_str(&element);
        xmll.push_str(&element);
    }
    xml.push_str("</items>\n");
    [("jsonl", jsonl), ("json", json), ("csv", csv), ("xml", xml), ("xmll", xmll)]
        .into_iter()
        .map(|(name, plain)| {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(plain.as_bytes()).expect("memory takes it");
            let stored = Bytes::from(encoder.finish().expect("memory takes it"));
            let paths = ["sku", "price", "updatedAt"].map(FieldPath::name).to_vec();
            let columns = [("price", ColumnType::Decimal), ("stock", ColumnType::Integer), ("sku", ColumnType::Text)];
            let columns = columns.map(|(name, kind)| (name, Some(kind))).to_vec();
            let predicate = "row.price > 2500.0 && row.stock < 250 && !row.sku.startsWith(\"SKU-0\")";
            let filter = RowFilter::compile(predicate, &FilterColumns { columns, is_closed: false });
            Case { name: name.to_owned(), source: source(name), paths, filter: filter.expect("a predicate"), stored }
        })
        .collect()
}
