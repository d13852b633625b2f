//! Looks over the shoulder of every test with a [`World`](crate::harness::World): no token may be in a line of a log, down to
//! the last level, nor in a file that is left when the test ends.

use std::{
    fmt::{self, Write as _},
    path::Path,
    sync::{Mutex, Once},
};

use memchr::memmem;
use tracing::{
    Event, Id, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
};

/// Of a file that is looked at: a database keeps a token in one of its first pages or not at all, and files of a gigabyte are
/// of tests about memory.
const READ_MAX: usize = 64 << 20;
/// Shorter is none: a signature is an HMAC-SHA-256 in base64, 44 characters or more where some are escaped.
const SIGNATURE_MIN: usize = 43;

/// What was found; a test that ends says so.
static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());
static LOGS: Once = Once::new();

/// From here on every line of a log in this process is looked at.
pub(crate) fn the_logs() {
    LOGS.call_once(|| tracing::subscriber::set_global_default(Lines).expect("nobody else reads the logs of tests"));
}

/// A signature of a SAS, with what is around it.
pub(crate) fn signature_in(bytes: &[u8]) -> Option<String> {
    // As it is, in an address in an address, and in JSON.
    for key in ["sig=", "sig%3D", "sig%3d", "sig%253D", "sig\\u003d"] {
        for at in memmem::find_iter(bytes, key) {
            let value = &bytes[at + key.len()..];
            let length = value.iter().take_while(|byte| is_of_signature(**byte)).count();
            if length >= SIGNATURE_MIN {
                let around = &bytes[at.saturating_sub(120)..bytes.len().min(at + 60)];
                return Some(String::from_utf8_lossy(around).into_owned());
            }
        }
    }
    None
}

fn is_of_signature(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'%' | b'=' | b'-' | b'_')
}

/// Looks at all files below a folder, and at what the logs have shown.
pub(crate) fn assert_no_token(folder: &Path) {
    let mut found: Vec<String> = std::mem::take(&mut *FOUND.lock().expect("no panic while it is held"));
    look_below(folder, &mut found);
    assert!(found.is_empty(), "tokens where nobody may see them: {found:#?}");
}

fn look_below(folder: &Path, found: &mut Vec<String>) {
    // What goes meanwhile holds nothing any more.
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            look_below(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path)
            && let Some(around) = signature_in(&bytes[..bytes.len().min(READ_MAX)])
        {
            found.push(format!("{}: {around}", path.display()));
        }
    }
}

/// Takes every line of every level, writes none, and remembers those that show a token.
struct Lines;

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        look_at(|text| span.record(text));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        look_at(|text| values.record(text));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        look_at(|text| event.record(text));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn look_at(record: impl FnOnce(&mut Text)) {
    let mut text = Text(String::new());
    record(&mut text);
    if let Some(around) = signature_in(text.0.as_bytes())
        && let Ok(mut found) = FOUND.lock()
    {
        found.push(format!("a line of the log: {around}"));
    }
}

/// All fields of a line.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _infallible = write!(self.0, " {field}={value:?}");
    }
}

#[test]
fn a_signature_is_found_wherever_it_stands_and_nothing_else_is() {
    let signature = "sig=AbCdEfGhIjKlMnOpQrStUvWxYz0123456789%2B%2Fabcdef%3D";
    assert!(signature_in(format!("https://a.example/c/b?sv=1&{signature}&se=2").as_bytes()).is_some());
    assert!(signature_in(signature.replace('=', "%3D").as_bytes()).is_some());
    assert!(signature_in(b"sig=*** and sig=secret").is_none());
    the_logs();
    // By this name it is passed over where `cargo xtask test` looks for tokens.
    let folder = tempfile::Builder::new().prefix("shows-a-token").tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("below")).expect("a folder");
    std::fs::write(folder.path().join("below/log"), format!("GET /c/b?{signature}")).expect("a file");
    let looked = std::panic::catch_unwind(|| assert_no_token(folder.path()));
    let said = looked.expect_err("it is found");
    assert!(said.downcast_ref::<String>().is_some_and(|said| said.contains("below/log")), "and named");
}
