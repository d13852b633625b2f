//! Writing AMQP 1.0 values: exactly what we send, in the smallest form that AMQP has for it.
//!
//! # Sources
//! AMQP 1.0 part 1, section 1.6 (primitive types).

use uuid::Uuid;

/// Writes values to the end of a buffer.
pub(crate) trait Write {
    /// The buffer. A list or map counts one element for each call.
    fn out(&mut self) -> &mut Vec<u8>;

    fn null(&mut self) {
        self.out().push(0x40);
    }

    fn bool(&mut self, value: bool) {
        self.out().push(if value { 0x41 } else { 0x42 });
    }

    fn ubyte(&mut self, value: u8) {
        self.out().extend([0x50, value]);
    }

    fn ushort(&mut self, value: u16) {
        let out = self.out();
        out.push(0x60);
        out.extend(value.to_be_bytes());
    }

    fn uint(&mut self, value: u32) {
        let out = self.out();
        match u8::try_from(value) {
            Ok(0) => out.push(0x43),
            Ok(small) => out.extend([0x52, small]),
            Err(_) => {
                out.push(0x70);
                out.extend(value.to_be_bytes());
            }
        }
    }

    fn ulong(&mut self, value: u64) {
        let out = self.out();
        match u8::try_from(value) {
            Ok(0) => out.push(0x44),
            Ok(small) => out.extend([0x53, small]),
            Err(_) => {
                out.push(0x80);
                out.extend(value.to_be_bytes());
            }
        }
    }

    fn int(&mut self, value: i32) {
        let out = self.out();
        out.push(0x71);
        out.extend(value.to_be_bytes());
    }

    fn long(&mut self, value: i64) {
        let out = self.out();
        out.push(0x81);
        out.extend(value.to_be_bytes());
    }

    /// Milliseconds since 1970.
    fn timestamp(&mut self, value: i64) {
        let out = self.out();
        out.push(0x83);
        out.extend(value.to_be_bytes());
    }

    fn uuid(&mut self, value: Uuid) {
        let out = self.out();
        out.push(0x98);
        out.extend(value.as_bytes());
    }

    fn binary(&mut self, value: &[u8]) {
        variable(self.out(), 0xa0, value);
    }

    fn text(&mut self, value: &str) {
        variable(self.out(), 0xa1, value.as_bytes());
    }

    fn symbol(&mut self, value: &str) {
        variable(self.out(), 0xa3, value.as_bytes());
    }

    /// A value that is encoded already.
    fn raw(&mut self, value: &[u8]) {
        self.out().extend_from_slice(value);
    }

    /// `value`, or null.
    fn raw_or_null(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.raw(value),
            None => self.null(),
        }
    }

    fn list(&mut self, write: impl FnOnce(&mut Compound<'_>))
    where
        Self: Sized,
    {
        compound(self.out(), 0xc0, write);
    }

    /// Keys and values are written in turn.
    fn map(&mut self, write: impl FnOnce(&mut Compound<'_>))
    where
        Self: Sized,
    {
        compound(self.out(), 0xc1, write);
    }

    /// A list with its descriptor before it.
    fn described_list(&mut self, descriptor: u8, write: impl FnOnce(&mut Compound<'_>))
    where
        Self: Sized,
    {
        let out = self.out();
        out.extend([0x00, 0x53, descriptor]);
        compound(out, 0xc0, write);
    }

    /// An array whose elements all have the format `code`; `write` puts them without it.
    fn array(&mut self, code: u8, count: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let out = self.out();
        out.push(0xf0);
        let start = out.len();
        out.extend([0; 8]);
        out.push(code);
        write(out);
        let size = u32::try_from(out.len() - start - 4).expect("an array is far below 4 GiB");
        out[start..start + 4].copy_from_slice(&size.to_be_bytes());
        out[start + 4..start + 8].copy_from_slice(&count.to_be_bytes());
    }
}

impl Write for Vec<u8> {
    fn out(&mut self) -> &mut Vec<u8> {
        self
    }
}

/// An open list or map: counts what is written into it.
#[derive(Debug)]
pub(crate) struct Compound<'a> {
    out: &'a mut Vec<u8>,
    count: u32,
}

impl Write for Compound<'_> {
    fn out(&mut self) -> &mut Vec<u8> {
        self.count += 1;
        self.out
    }
}

impl Compound<'_> {
    /// Appends `count` elements that are encoded already.
    pub(crate) fn raw_elements(&mut self, count: u32, bytes: &[u8]) {
        self.count += count;
        self.out.extend_from_slice(bytes);
    }
}

fn variable(out: &mut Vec<u8>, code: u8, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(length) => out.extend([code, length]),
        Err(_) => {
            out.push(code + 0x10);
            out.extend(u32::try_from(bytes.len()).expect("a value is far below 4 GiB").to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

/// Writes the small form and widens it afterwards in the rare case that it does not fit.
fn compound(out: &mut Vec<u8>, code: u8, write: impl FnOnce(&mut Compound<'_>)) {
    let start = out.len();
    out.extend([code, 0, 0]);
    let mut inner = Compound { out, count: 0 };
    write(&mut inner);
    let count = inner.count;
    let length = out.len() - start - 3;
    match (u8::try_from(length + 1), u8::try_from(count)) {
        (Ok(size), Ok(count)) => {
            out[start + 1] = size;
            out[start + 2] = count;
        }
        _ => {
            let size = u32::try_from(length + 4).expect("a compound is far below 4 GiB");
            out.extend([0; 6]);
            out.copy_within(start + 3..start + 3 + length, start + 9);
            out[start] = code + 0x10;
            out[start + 1..start + 5].copy_from_slice(&size.to_be_bytes());
            out[start + 5..start + 9].copy_from_slice(&count.to_be_bytes());
        }
    }
}
