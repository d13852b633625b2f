//! Seeded data: changes of items as JSON Lines, CSV and XML, the same bytes on every machine.
//!
//! What makes them honest to parse: names hold other scripts, quotes, `&`, `<` and now and then a line break; one row in 200
//! has a nested `currency` of SEK, so that a search of the text counts too many; ids come in shuffled order, and 2 % of the
//! rows repeat one with another version, so that the last writer has to win; prices are decimals.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufWriter, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use waybill_formats::{
    Compression, WriterOptions,
    writer::{FileAssembler, SegmentWriter},
};

/// What every filter looks for.
pub(crate) const WANTED: &str = "SEK";

const ADJECTIVES: [&str; 16] = [
    "Große",
    "Öko",
    "Süße",
    "Blå",
    "Røde",
    "Żółta",
    "Премиум",
    "Классик",
    "有機",
    "Soft",
    "Extra",
    "Mini",
    "Maxi",
    "Classic",
    "Pro",
    "Smart",
];
const NOUNS: [&str; 20] = [
    "Kaffeemaschine",
    "Brötchen",
    "Smörgåstårta",
    "Rødgrød",
    "Książka",
    "Чайник",
    "緑茶",
    "Schraube",
    "Handschuh",
    "Lampe",
    "Drill",
    "Monitor",
    "Keyboard",
    "Notebook",
    "Jacket",
    "Bottle",
    "Fußball",
    "Käse",
    "Müsli",
    "Jalapeño",
];
const TAILS: [&str; 10] =
    ["500 g", "1 l", "27\" \"Pro\"", "M8 x 40", "R&B <Edition>", "Größe 42", "6er-Pack", "naïve café", "№ 5", "½ Zoll"];
const CATEGORIES: [&str; 10] =
    ["Haushalt", "Küche", "Food/Getränke", "Werkzeug", "Büro", "Kläder", "Dom i ogród", "Электроника", "Sport", "玩具"];
const COLORS: [&str; 8] = ["rot", "blå", "grün", "żółty", "чёрный", "white", "silver", "petrol"];
const UNITS: [&str; 5] = ["pcs", "kg", "l", "m", "box"];
const VATS: [&str; 5] = ["19.00", "7.00", "25.00", "12.00", "23.00"];
const KINDS: [&str; 3] = ["item", "price", "stock"];
/// The columns, in this order in every format.
pub(crate) const COLUMNS: [&str; 14] = [
    "id",
    "change",
    "sku",
    "name",
    "gtin",
    "price",
    "currency",
    "unit",
    "vat",
    "stock",
    "categories",
    "attributes",
    "updatedAt",
    "version",
];

/// A format of the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    JsonLines,
    Csv,
    Xml,
    /// As PostgreSQL's and SQLite's tools take it best: tabs between, one line a row, in the order of the ids.
    SortedTabs,
}

impl Layout {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Xml => "xml",
            Self::SortedTabs => "tsv",
        }
    }
}

/// SplitMix64: small, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    fn of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len() as u64) as usize]
    }

    /// One time in so many.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

pub(crate) struct Item {
    id: u64,
    kind: &'static str,
    name: String,
    price: String,
    currency: &'static str,
    unit: &'static str,
    vat: &'static str,
    stock: u64,
    categories: &'static [&'static str],
    color: &'static str,
    weight: u64,
    inner_currency: bool,
    brand: Option<&'static str>,
    updated_at: String,
    version: u64,
}

/// So many changes, the same for the same seed.
#[derive(Debug)]
pub(crate) struct Items {
    random: Random,
    rows: u64,
    made: u64,
    /// A prime: multiples of it visit every id once.
    step: u64,
    is_apart: bool,
}

impl Items {
    pub(crate) fn new(rows: u64, seed: u64) -> Self {
        let primes = [7_368_787, 15_485_863, 32_452_843];
        let step = primes.into_iter().find(|prime| !rows.is_multiple_of(*prime)).unwrap_or(primes[0]);
        Self { random: Random(seed), rows, made: 0, step, is_apart: false }
    }

    /// No id comes twice.
    fn apart(self) -> Self {
        Self { is_apart: true, ..self }
    }
}

impl Iterator for Items {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.made == self.rows {
            return None;
        }
        let random = &mut self.random;
        let nth = if !self.is_apart && random.once_in(50) { random.below(self.made + 1) } else { self.made };
        self.made += 1;
        let id = nth * self.step % self.rows;
        let mut name = format!("{} {} {}", random.of(&ADJECTIVES), random.of(&NOUNS), random.of(&TAILS));
        if random.once_in(1_000) {
            name.push_str("\n(Restposten)");
        }
        let first = random.below(10) as usize;
        let last = (first + 1 + random.below(3) as usize).min(CATEGORIES.len());
        let time = random.below(86_400_000);
        let currency = match random.below(20) {
            0..12 => "EUR",
            12..15 => WANTED,
            15..17 => "DKK",
            17..19 => "NOK",
            _ => "PLN",
        };
        Some(Item {
            id,
            kind: random.of(&KINDS),
            name,
            price: format!("{}.{:02}", random.below(9_999), random.below(100)),
            currency,
            unit: random.of(&UNITS),
            vat: random.of(&VATS),
            stock: random.below(5_000),
            categories: CATEGORIES.get(first..last).unwrap_or_default(),
            color: random.of(&COLORS),
            weight: random.below(25_000),
            inner_currency: random.once_in(200),
            brand: (random.below(10) < 4).then(|| random.of(&NOUNS)),
            updated_at: format!(
                "2026-03-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                1 + time % 28,
                time / 3_600_000,
                time / 60_000 % 60,
                time / 1_000 % 60,
                time % 1_000
            ),
            // So many that two of one id are never the same: then it is plain who wins.
            version: 1 + random.below(1_000_000_000),
        })
    }
}

impl Item {
    fn sku(&self) -> String {
        format!("SKU-{:09}", self.id)
    }

    fn gtin(&self) -> String {
        format!("{:013}", 4_000_000_000_000 + self.id * 97)
    }

    fn attributes(&self) -> String {
        let mut text = format!("{{\"color\":\"{}\",\"weightG\":{}", self.color, self.weight);
        if self.inner_currency {
            text.push_str(",\"currency\":\"SEK\"");
        }
        if let Some(brand) = self.brand {
            write!(text, ",\"brand\":\"{brand} GmbH\"").expect("text takes it");
        }
        text.push('}');
        text
    }

    /// The values of [`COLUMNS`], text for each.
    pub(crate) fn fields(&self) -> [String; 14] {
        [
            self.id.to_string(),
            self.kind.to_owned(),
            self.sku(),
            self.name.clone(),
            self.gtin(),
            self.price.clone(),
            self.currency.to_owned(),
            self.unit.to_owned(),
            self.vat.to_owned(),
            self.stock.to_string(),
            self.categories.join("|"),
            self.attributes(),
            self.updated_at.clone(),
            self.version.to_string(),
        ]
    }

    fn write(&self, layout: Layout, text: &mut String) {
        match layout {
            Layout::JsonLines => self.json(text),
            Layout::Csv => self.csv(text),
            Layout::Xml => self.xml(text),
            Layout::SortedTabs => {
                text.push_str(&self.fields().join("\t").replace('\n', " "));
                text.push('\n');
            }
        }
    }

    fn json(&self, text: &mut String) {
        let name = self.name.replace('"', "\\\"").replace('\n', "\\n");
        let categories = self.categories.join("\",\"");
        writeln!(
            text,
            "{{\"id\":{},\"change\":\"{}\",\"sku\":\"{}\",\"name\":\"{name}\",\"gtin\":\"{}\",\"price\":{},\
             \"currency\":\"{}\",\"unit\":\"{}\",\"vat\":{},\"stock\":{},\"categories\":[\"{categories}\"],\
             \"attributes\":{},\"updatedAt\":\"{}\",\"version\":{}}}",
            self.id,
            self.kind,
            self.sku(),
            self.gtin(),
            self.price,
            self.currency,
            self.unit,
            self.vat,
            self.stock,
            self.attributes(),
            self.updated_at,
            self.version
        )
        .expect("text takes it");
    }

    fn csv(&self, text: &mut String) {
        for (at, (name, value)) in COLUMNS.iter().zip(self.fields()).enumerate() {
            if at > 0 {
                text.push(',');
            }
            match *name {
                "name" | "categories" | "attributes" => {
                    write!(text, "\"{}\"", value.replace('"', "\"\"")).expect("text takes it");
                }
                _ => text.push_str(&value),
            }
        }
        text.push('\n');
    }

    fn xml(&self, text: &mut String) {
        let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        write!(
            text,
            "<item id=\"{}\" change=\"{}\" version=\"{}\"><sku>{}</sku><name>{}</name><gtin>{}</gtin><price>{}</price>\
             <currency>{}</currency><unit>{}</unit><vat>{}</vat><stock>{}</stock><categories>",
            self.id,
            self.kind,
            self.version,
            self.sku(),
            escaped(&self.name),
            self.gtin(),
            self.price,
            self.currency,
            self.unit,
            self.vat,
            self.stock
        )
        .expect("text takes it");
        for category in self.categories {
            write!(text, "<category>{category}</category>").expect("text takes it");
        }
        text.push_str("</categories><attributes>");
        let mut attribute = |name: &str, value: &str| {
            write!(text, "<attribute name=\"{name}\">{value}</attribute>").expect("text takes it");
        };
        attribute("color", self.color);
        attribute("weightG", &self.weight.to_string());
        if self.inner_currency {
            attribute("currency", WANTED);
        }
        if let Some(brand) = self.brand {
            attribute("brand", &format!("{brand} GmbH"));
        }
        writeln!(text, "</attributes><updatedAt>{}</updatedAt></item>", self.updated_at).expect("text takes it");
    }
}

fn head(layout: Layout) -> String {
    match layout {
        Layout::JsonLines | Layout::SortedTabs => String::new(),
        Layout::Csv => COLUMNS.join(",") + "\n",
        Layout::Xml => "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<items>\n".to_owned(),
    }
}

fn tail(layout: Layout) -> &'static str {
    if layout == Layout::Xml { "</items>\n" } else { "" }
}

/// The ignored folder of what was made. Files are made under another name and renamed, so that those that are there are whole.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    folder: PathBuf,
}

/// A set of rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) rows: u64,
    pub(crate) seed: u64,
}

impl Data {
    pub(crate) fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self { folder })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file of this name, made if it is not there.
    fn file(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path(name);
        if !path.exists() {
            eprintln!("   making {name}");
            let unfinished = self.path(&format!("{name}.unfinished"));
            make(&unfinished).with_context(|| format!("{name} cannot be made"))?;
            fs::rename(unfinished, &path)?;
        }
        Ok(path)
    }

    /// The rows as text.
    pub(crate) fn plain(&self, set: Set, layout: Layout) -> Result<PathBuf> {
        self.file(&format!("{}-{}.{}", set.name, set.rows, layout.suffix()), |path| {
            let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
            let mut items = Items::new(set.rows, set.seed);
            if layout == Layout::SortedTabs {
                let mut all: Vec<Item> = items.collect();
                all.sort_by_key(|item| item.id);
                write_all(&mut all.into_iter(), layout, &mut file)?;
            } else {
                write_all(&mut items, layout, &mut file)?;
            }
            Ok(file.flush()?)
        })
    }

    /// The rows as an ordinary `.gz`, packed by `gzip -6`.
    pub(crate) fn gzip(&self, set: Set, layout: Layout) -> Result<PathBuf> {
        self.file(&format!("{}-{}.{}.gz", set.name, set.rows, layout.suffix()), |path| {
            pack(Items::new(set.rows, set.seed), layout, path)
        })
    }

    /// The rows spread over so many ordinary files.
    pub(crate) fn parts(&self, set: Set, layout: Layout, parts: u64) -> Result<Vec<PathBuf>> {
        self.spread(Items::new(set.rows, set.seed), set, layout, parts)
    }

    /// As [`Data::parts`], and no id is there twice.
    pub(crate) fn parts_apart(&self, set: Set, layout: Layout, parts: u64) -> Result<Vec<PathBuf>> {
        self.spread(Items::new(set.rows, set.seed).apart(), set, layout, parts)
    }

    fn spread(&self, mut items: Items, set: Set, layout: Layout, parts: u64) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for part in 0..parts {
            let rows = set.rows / parts;
            let name = format!("{}-{}-{part:03}.{}.gz", set.name, set.rows, layout.suffix());
            let these = items.by_ref().take(usize::try_from(rows)?);
            if self.path(&name).exists() {
                these.for_each(drop);
                paths.push(self.path(&name));
            } else {
                paths.push(self.file(&name, |path| pack(these, layout, path))?);
            }
        }
        Ok(paths)
    }

    /// The rows in a file as we publish it at the default level: the bytes of [`Data::gzip`], packed in segments.
    pub(crate) fn blob(&self, set: Set, layout: Layout) -> Result<PathBuf> {
        self.file(&format!("{}-{}.blob.{}.gz", set.name, set.rows, layout.suffix()), |path| {
            let body = path.with_extension("body");
            let made = publish(Items::new(set.rows, set.seed), layout, &body, path);
            fs::remove_file(body)?;
            made
        })
    }
}

fn write_all(items: &mut dyn Iterator<Item = Item>, layout: Layout, file: &mut dyn io::Write) -> Result<()> {
    let mut text = head(layout);
    for item in items {
        item.write(layout, &mut text);
        if text.len() > 1 << 18 {
            file.write_all(text.as_bytes())?;
            text.clear();
        }
    }
    text.push_str(tail(layout));
    Ok(file.write_all(text.as_bytes())?)
}

fn pack(mut items: impl Iterator<Item = Item>, layout: Layout, path: &Path) -> Result<()> {
    let mut gzip = Command::new("gzip")
        .args(["-6", "-n"])
        .stdin(Stdio::piped())
        .stdout(File::create(path)?)
        .spawn()
        .context("gzip cannot be started")?;
    let mut input = BufWriter::with_capacity(1 << 18, gzip.stdin.take().context("gzip takes no input")?);
    write_all(&mut items, layout, &mut input)?;
    input.flush()?;
    drop(input);
    ensure!(gzip.wait()?.success(), "gzip failed");
    Ok(())
}

/// As the publisher packs a file that is given: where its rows end is told, and its head is known last.
fn publish(items: Items, layout: Layout, body: &Path, path: &Path) -> Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(body)?;
    let compression = Compression::Gzip(4);
    let mut writer = SegmentWriter::new(WriterOptions::Raw, compression).telling_row_ends();
    let mut assembler = FileAssembler::new(compression);
    let (mut text, mut bytes, mut rows) = (head(layout), 0, 0);
    for item in items {
        item.write(layout, &mut text);
        rows += 1;
        if text.len() < 64 << 10 {
            continue;
        }
        bytes += text.len() as u64;
        writer.raw(text.as_bytes());
        writer.row_end(bytes, rows);
        text.clear();
        while let Some(segment) = writer.segment() {
            assembler.add(segment.pack());
        }
        if let Some(packed) = assembler.take(1 << 20) {
            file.write_all(&packed)?;
        }
    }
    writer.raw(text.as_bytes());
    writer.row_end(bytes + text.len() as u64, rows);
    writer.raw(tail(layout).as_bytes());
    let (rest, told) = writer.finish();
    rest.for_each(|segment| assembler.add(segment.pack()));
    let finished = assembler.finish(told);
    file.write_all(&finished.rest)?;
    file.seek(SeekFrom::Start(0))?;
    let mut whole = File::create(path)?;
    whole.write_all(&finished.head)?;
    io::copy(&mut file, &mut whole)?;
    Ok(())
}
