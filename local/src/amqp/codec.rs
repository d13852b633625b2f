//! Reading AMQP 1.0 values: borrowed, skipped where nobody looks, a tree where somebody does.
//!
//! Lenient: any integer width, string or symbol, missing trailing fields, list or array. The reader never panics, never
//! allocates for a value that is only skipped, and never trusts a count or size beyond the bytes it has.
//!
//! # Sources
//! AMQP 1.0 part 1, sections 1.2 (format codes by their first nibble) and 1.6 (primitive types).

use uuid::Uuid;

/// Described values within described values, or compounds within compounds, beyond which input is refused.
const DEPTH_MAX: u32 = 32;

/// Elements that a tree may always have, and those that it may have at most. Between them it may have as many as it has
/// bytes: what is written in less, an array of nulls, is a count that costs memory.
const ELEMENTS_MIN: usize = 256;
const ELEMENTS_MAX: usize = 262_144;

/// Bytes that are no AMQP value, or not the value that stands at this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub(crate) struct DecodeError {
    /// What was wrong.
    pub(crate) what: &'static str,
    /// Offset within the frame body or message.
    pub(crate) at: usize,
}

/// Reads values one after the other from borrowed bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { what, at: self.at }
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(length).ok_or(self.error("a size is too large"))?;
        let part = self.bytes.get(self.at..end).ok_or(self.error("a value is cut short"))?;
        self.at = end;
        Ok(part)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.fixed::<1>()?[0])
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let part = self.take(N)?;
        part.try_into().map_err(|_| self.error("a value is cut short"))
    }

    fn size(&mut self, wide: bool) -> Result<usize, DecodeError> {
        if wide {
            let size = u32::from_be_bytes(self.fixed()?);
            usize::try_from(size).map_err(|_| self.error("a size is too large"))
        } else {
            Ok(usize::from(self.byte()?))
        }
    }

    /// Passes over one value, described or not.
    pub(crate) fn skip(&mut self) -> Result<(), DecodeError> {
        self.skip_within(DEPTH_MAX)
    }

    fn skip_within(&mut self, depth: u32) -> Result<(), DecodeError> {
        let depth = depth.checked_sub(1).ok_or(self.error("values are nested too deeply"))?;
        let code = self.byte()?;
        if code == 0 {
            self.skip_within(depth)?;
            return self.skip_within(depth);
        }
        let length = self.length_after(code)?;
        self.take(length).map(|_| ())
    }

    /// How many bytes follow a format code and its size, by the code's first nibble (AMQP 1.0 part 1, section 1.2).
    fn length_after(&mut self, code: u8) -> Result<usize, DecodeError> {
        Ok(match code >> 4 {
            0x4 => 0,
            0x5 => 1,
            0x6 => 2,
            0x7 => 4,
            0x8 => 8,
            0x9 => 16,
            0xa | 0xc | 0xe => self.size(false)?,
            0xb | 0xd | 0xf => self.size(true)?,
            _ => return Err(self.error("an unknown format code")),
        })
    }

    /// The bytes of one whole value.
    pub(crate) fn raw(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.at;
        self.skip()?;
        self.bytes.get(start..self.at).ok_or(self.error("a value is cut short"))
    }

    /// Whether the next value is null; it is consumed if so.
    pub(crate) fn null(&mut self) -> bool {
        let is_null = self.peek() == Some(0x40);
        if is_null {
            self.at += 1;
        }
        is_null
    }

    /// Reads the `00 descriptor` before a described value. A descriptor given as a symbol is taken for its number; one
    /// that is unknown is `u64::MAX`.
    pub(crate) fn descriptor(&mut self) -> Result<u64, DecodeError> {
        if self.peek() != Some(0) {
            return Err(self.error("a described value was expected"));
        }
        self.at += 1;
        match self.peek() {
            Some(0xa1 | 0xa3 | 0xb1 | 0xb3) => Ok(self.text()?.map_or(u64::MAX, descriptor_of)),
            _ => self.uint()?.ok_or(self.error("a descriptor was expected")),
        }
    }

    /// A non-negative integer of any width.
    pub(crate) fn uint(&mut self) -> Result<Option<u64>, DecodeError> {
        let at = self.at;
        match self.int128()? {
            None => Ok(None),
            Some(value) => {
                u64::try_from(value).map(Some).map_err(|_| DecodeError { what: "a number must not be negative", at })
            }
        }
    }

    /// As [`Self::uint`], for a field of 32 bits.
    pub(crate) fn uint32(&mut self) -> Result<Option<u32>, DecodeError> {
        let at = self.at;
        match self.uint()? {
            None => Ok(None),
            Some(value) => {
                u32::try_from(value).map(Some).map_err(|_| DecodeError { what: "a number is too large", at })
            }
        }
    }

    /// An integer of any width.
    pub(crate) fn int(&mut self) -> Result<Option<i64>, DecodeError> {
        let at = self.at;
        match self.int128()? {
            None => Ok(None),
            Some(value) => {
                i64::try_from(value).map(Some).map_err(|_| DecodeError { what: "a number is too large", at })
            }
        }
    }

    fn int128(&mut self) -> Result<Option<i128>, DecodeError> {
        let at = self.at;
        Ok(Some(match self.byte()? {
            0x40 => return Ok(None),
            0x43 | 0x44 => 0,
            0x50 | 0x52 | 0x53 => i128::from(self.byte()?),
            0x51 | 0x54 | 0x55 => i128::from(i8::from_be_bytes(self.fixed()?)),
            0x60 => i128::from(u16::from_be_bytes(self.fixed()?)),
            0x61 => i128::from(i16::from_be_bytes(self.fixed()?)),
            0x70 => i128::from(u32::from_be_bytes(self.fixed()?)),
            0x71 => i128::from(i32::from_be_bytes(self.fixed()?)),
            0x80 => i128::from(u64::from_be_bytes(self.fixed()?)),
            0x81 | 0x83 => i128::from(i64::from_be_bytes(self.fixed()?)),
            _ => return Err(DecodeError { what: "a number was expected", at }),
        }))
    }

    pub(crate) fn bool(&mut self) -> Result<Option<bool>, DecodeError> {
        let at = self.at;
        match self.byte()? {
            0x40 => Ok(None),
            0x41 => Ok(Some(true)),
            0x42 => Ok(Some(false)),
            0x56 => Ok(Some(self.byte()? != 0)),
            _ => Err(DecodeError { what: "a boolean was expected", at }),
        }
    }

    /// A string or a symbol.
    pub(crate) fn text(&mut self) -> Result<Option<&'a str>, DecodeError> {
        let at = self.at;
        let code = self.byte()?;
        let wide = match code {
            0x40 => return Ok(None),
            0xa1 | 0xa3 => false,
            0xb1 | 0xb3 => true,
            _ => return Err(DecodeError { what: "a text was expected", at }),
        };
        let length = self.size(wide)?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| DecodeError { what: "a text is not UTF-8", at })
    }

    pub(crate) fn binary(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let at = self.at;
        let wide = match self.byte()? {
            0x40 => return Ok(None),
            0xa0 => false,
            0xb0 => true,
            _ => return Err(DecodeError { what: "a binary was expected", at }),
        };
        let length = self.size(wide)?;
        self.take(length).map(Some)
    }

    /// The elements of a list; null is an empty one.
    pub(crate) fn list(&mut self) -> Result<Fields<'a>, DecodeError> {
        let at = self.at;
        match self.byte()? {
            0x40 | 0x45 => Ok(Fields { left: 0, body: Reader::new(&[]) }),
            0xc0 => self.compound(false),
            0xd0 => self.compound(true),
            _ => Err(DecodeError { what: "a list was expected", at }),
        }
    }

    /// Keys and values of a map, in turn; null is an empty one.
    pub(crate) fn map(&mut self) -> Result<Fields<'a>, DecodeError> {
        let at = self.at;
        let fields = match self.byte()? {
            0x40 => Fields { left: 0, body: Reader::new(&[]) },
            0xc1 => self.compound(false)?,
            0xd1 => self.compound(true)?,
            _ => return Err(DecodeError { what: "a map was expected", at }),
        };
        if fields.left % 2 == 1 {
            return Err(DecodeError { what: "a map has a key without a value", at });
        }
        Ok(fields)
    }

    fn compound(&mut self, wide: bool) -> Result<Fields<'a>, DecodeError> {
        let at = self.at;
        let length = self.size(wide)?;
        let mut body = Reader::new(self.take(length)?);
        let count = body.size(wide).map_err(|_| DecodeError { what: "a compound has no count", at })?;
        // Every element has at least its format code.
        if count > body.rest().len() {
            return Err(DecodeError { what: "a count exceeds its compound", at });
        }
        let left = u32::try_from(count).map_err(|_| DecodeError { what: "a count is too large", at })?;
        Ok(Fields { left, body })
    }

    /// One value as a tree. Allocates: for requests to `$cbs` and `$management` and for tests, not for deliveries.
    pub(crate) fn value(&mut self) -> Result<Value, DecodeError> {
        let mut whole = *self;
        let bytes = whole.raw()?.len();
        let mut tree = Tree { reader: *self, left: bytes.clamp(ELEMENTS_MIN, ELEMENTS_MAX) };
        let value = tree.value(DEPTH_MAX)?;
        *self = tree.reader;
        Ok(value)
    }

    /// A value without its format code, which was read before.
    fn primitive(&mut self, code: u8) -> Result<Value, DecodeError> {
        let at = self.at;
        Ok(match code {
            0x40 => Value::Null,
            0x41 => Value::Bool(true),
            0x42 => Value::Bool(false),
            0x43 | 0x44 => Value::Uint(0),
            0x50 | 0x52 | 0x53 => Value::Uint(u64::from(self.byte()?)),
            0x51 | 0x54 | 0x55 => Value::Int(i64::from(i8::from_be_bytes(self.fixed()?))),
            0x56 => Value::Bool(self.byte()? != 0),
            0x60 => Value::Uint(u64::from(u16::from_be_bytes(self.fixed()?))),
            0x61 => Value::Int(i64::from(i16::from_be_bytes(self.fixed()?))),
            0x70 => Value::Uint(u64::from(u32::from_be_bytes(self.fixed()?))),
            0x71 => Value::Int(i64::from(i32::from_be_bytes(self.fixed()?))),
            0x72 => Value::Double(f64::from(f32::from_be_bytes(self.fixed()?))),
            0x73 => Value::Char(
                char::from_u32(u32::from_be_bytes(self.fixed()?))
                    .ok_or(DecodeError { what: "a char is no character", at })?,
            ),
            0x80 => Value::Uint(u64::from_be_bytes(self.fixed()?)),
            0x81 => Value::Int(i64::from_be_bytes(self.fixed()?)),
            0x82 => Value::Double(f64::from_be_bytes(self.fixed()?)),
            0x83 => Value::Timestamp(i64::from_be_bytes(self.fixed()?)),
            0x98 => Value::Uuid(Uuid::from_bytes(self.fixed()?)),
            0xa0 | 0xb0 | 0xa1 | 0xb1 | 0xa3 | 0xb3 => {
                let length = self.size(code >> 4 == 0xb)?;
                let bytes = self.take(length)?;
                if code & 0xf == 0 {
                    Value::Binary(bytes.to_vec())
                } else {
                    let text =
                        std::str::from_utf8(bytes).map_err(|_| DecodeError { what: "a text is not UTF-8", at })?;
                    if code & 0xf == 1 { Value::Text(text.to_owned()) } else { Value::Symbol(text.to_owned()) }
                }
            }
            // Decimals and what later versions may bring: kept as they are.
            _ => {
                let length = self.length_after(code)?;
                Value::Other(code, self.take(length)?.to_vec())
            }
        })
    }
}

/// Reads a value with all that is in it.
struct Tree<'a> {
    reader: Reader<'a>,
    /// Elements that it may still have. A compound pays for all of its own before the first is read, so that a count that
    /// is too high allocates nothing.
    left: usize,
}

impl<'a> Tree<'a> {
    fn value(&mut self, depth: u32) -> Result<Value, DecodeError> {
        let depth = depth.checked_sub(1).ok_or(self.reader.error("values are nested too deeply"))?;
        match self.reader.peek() {
            Some(0) => {
                self.pay(2)?;
                self.reader.at += 1;
                let descriptor = self.value(depth)?;
                let value = self.value(depth)?;
                Ok(Value::Described(Box::new((descriptor, value))))
            }
            Some(0x45 | 0xc0 | 0xd0) => {
                let fields = self.reader.list()?;
                let mut list = Vec::with_capacity(self.pay_for(&fields)?);
                self.within(fields.body, |tree| {
                    (0..fields.left).try_for_each(|_| tree.value(depth).map(|value| list.push(value)))
                })?;
                Ok(Value::List(list))
            }
            Some(0xc1 | 0xd1) => {
                let fields = self.reader.map()?;
                let mut map = Vec::with_capacity(self.pay_for(&fields)? / 2);
                self.within(fields.body, |tree| {
                    (0..fields.left / 2).try_for_each(|_| {
                        let key = tree.value(depth)?;
                        map.push((key, tree.value(depth)?));
                        Ok(())
                    })
                })?;
                Ok(Value::Map(map))
            }
            Some(0xe0 | 0xf0) => self.array(),
            Some(_) => {
                let code = self.reader.byte()?;
                self.reader.primitive(code)
            }
            None => Err(self.reader.error("a value is cut short")),
        }
    }

    fn array(&mut self) -> Result<Value, DecodeError> {
        let at = self.reader.at;
        let wide = self.reader.byte()? == 0xf0;
        let length = self.reader.size(wide)?;
        let mut body = Reader::new(self.reader.take(length)?);
        let count = body.size(wide)?;
        if count == 0 {
            return Ok(Value::Array(Vec::new()));
        }
        let code = body.byte()?;
        if code == 0 || code >> 4 >= 0xc {
            return Err(DecodeError { what: "an array of compound or described values is not supported", at });
        }
        if code >> 4 != 4 && count > body.rest().len() {
            return Err(DecodeError { what: "a count exceeds its array", at });
        }
        self.pay(count)?;
        (0..count).map(|_| body.primitive(code)).collect::<Result<_, _>>().map(Value::Array)
    }

    /// Reads from the inside of a compound, and goes on behind it.
    fn within(
        &mut self,
        body: Reader<'a>,
        read: impl FnOnce(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let behind = std::mem::replace(&mut self.reader, body);
        let result = read(self);
        self.reader = behind;
        result
    }

    fn pay_for(&mut self, fields: &Fields<'_>) -> Result<usize, DecodeError> {
        let count = usize::try_from(fields.left).map_err(|_| self.reader.error("a count is too large"))?;
        self.pay(count)?;
        Ok(count)
    }

    fn pay(&mut self, elements: usize) -> Result<(), DecodeError> {
        let left = self.left.checked_sub(elements);
        self.left = left.ok_or(self.reader.error("a value has more elements than its size allows"))?;
        Ok(())
    }
}

/// The elements of a list or map that are still to be read. Missing trailing elements read as null.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    left: u32,
    body: Reader<'a>,
}

impl<'a> Fields<'a> {
    /// The reader at the next element; the caller reads exactly one value from it.
    pub(crate) fn next(&mut self) -> Option<&mut Reader<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(&mut self.body)
    }

    /// How many elements are left.
    pub(crate) fn len(&self) -> u32 {
        self.left
    }

    pub(crate) fn uint(&mut self) -> Result<Option<u64>, DecodeError> {
        self.next().map_or(Ok(None), Reader::uint)
    }

    pub(crate) fn uint32(&mut self) -> Result<Option<u32>, DecodeError> {
        self.next().map_or(Ok(None), Reader::uint32)
    }

    pub(crate) fn bool(&mut self) -> Result<Option<bool>, DecodeError> {
        self.next().map_or(Ok(None), Reader::bool)
    }

    pub(crate) fn text(&mut self) -> Result<Option<&'a str>, DecodeError> {
        self.next().map_or(Ok(None), Reader::text)
    }

    /// The bytes of the next element, unless it is null.
    pub(crate) fn raw(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let Some(reader) = self.next() else { return Ok(None) };
        if reader.null() { Ok(None) } else { reader.raw().map(Some) }
    }

    pub(crate) fn skip(&mut self, elements: u32) -> Result<(), DecodeError> {
        for _ in 0..elements {
            let Some(reader) = self.next() else { break };
            reader.skip()?;
        }
        Ok(())
    }
}

/// An AMQP value as a tree. Integers of all widths are one of two; `float` is widened.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are AMQP's types")]
pub enum Value {
    Null,
    Bool(bool),
    Uint(u64),
    Int(i64),
    Double(f64),
    Char(char),
    /// Milliseconds since 1970.
    Timestamp(i64),
    Uuid(Uuid),
    Binary(Vec<u8>),
    Text(String),
    Symbol(String),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Array(Vec<Value>),
    /// Descriptor and value.
    Described(Box<(Value, Value)>),
    /// A format code we give no meaning, and its bytes.
    Other(u8, Vec<u8>),
}

impl Value {
    /// The text of a string or symbol.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Symbol(text) => Some(text),
            _ => None,
        }
    }

    /// An integer of any width.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) | Self::Timestamp(value) => Some(*value),
            Self::Uint(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The elements of a list or array.
    #[must_use]
    pub fn elements(&self) -> &[Self] {
        match self {
            Self::List(elements) | Self::Array(elements) => elements,
            _ => &[],
        }
    }

    /// The value under a key that is a string or symbol.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(pairs) => pairs.iter().find(|(k, _)| k.as_text() == Some(key)).map(|(_, value)| value),
            _ => None,
        }
    }
}

/// The number of a descriptor that came as a symbol (AMQP 1.0 parts 2 and 3).
fn descriptor_of(symbol: &str) -> u64 {
    match symbol {
        "amqp:open:list" => 0x10,
        "amqp:begin:list" => 0x11,
        "amqp:attach:list" => 0x12,
        "amqp:flow:list" => 0x13,
        "amqp:transfer:list" => 0x14,
        "amqp:disposition:list" => 0x15,
        "amqp:detach:list" => 0x16,
        "amqp:end:list" => 0x17,
        "amqp:close:list" => 0x18,
        "amqp:error:list" => 0x1d,
        "amqp:received:list" => 0x23,
        "amqp:accepted:list" => 0x24,
        "amqp:rejected:list" => 0x25,
        "amqp:released:list" => 0x26,
        "amqp:modified:list" => 0x27,
        "amqp:source:list" => 0x28,
        "amqp:target:list" => 0x29,
        "amqp:coordinator:list" => 0x30,
        "amqp:sasl-mechanisms:list" => 0x40,
        "amqp:sasl-init:list" => 0x41,
        "amqp:sasl-response:list" => 0x43,
        "amqp:header:map" | "amqp:header:list" => 0x70,
        "amqp:delivery-annotations:map" => 0x71,
        "amqp:message-annotations:map" => 0x72,
        "amqp:properties:list" => 0x73,
        "amqp:application-properties:map" => 0x74,
        "amqp:data:binary" => 0x75,
        "amqp:amqp-sequence:list" => 0x76,
        "amqp:amqp-value:*" => 0x77,
        "amqp:footer:map" => 0x78,
        _ => u64::MAX,
    }
}
