//! Stored bytes to plain ones: gzip of one member or many, or no compression at all, as the first two bytes say.
//!
//! The members' frames are read here, and only deflate is left to `flate2`, so that every member's checksum and length
//! are checked, many members are one stream, and an error knows where in the stored bytes it is. Zeros after the last
//! member are padding (RFC 1952 has none, but tapes and block devices add them, and `gzip` ignores them).

use std::{collections::VecDeque, mem};

use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};
use waybill_contracts::Reason;

use super::{DEFLATE, EXTRA, MAGIC};
use crate::decoder::Broken;

const HEADER_CRC: u8 = 0x02;
const NAME: u8 = 0x08;
const COMMENT: u8 = 0x10;
const RESERVED: u8 = 0xe0;

/// Takes stored bytes, gives plain ones.
#[derive(Debug)]
pub(crate) struct Unpacker {
    input: VecDeque<Bytes>,
    ended: bool,
    /// Stored bytes that were read.
    read: u64,
    state: State,
    inflate: Option<Decompress>,
    /// Of the member's plain bytes.
    crc: crc32fast::Hasher,
    plain: u32,
}

#[derive(Debug)]
enum State {
    /// Before the first byte.
    Start,
    /// After a first byte that may begin a member.
    Half,
    /// No compression.
    Plain,
    Header(Header),
    Body,
    Trailer(Vec<u8>),
    /// After a member.
    Between,
    /// After a member and one byte that may begin another.
    BetweenHalf,
    Padding,
    /// Deflate failed, and what it wrote before was handed out.
    Damaged(Broken),
}

/// What [`Unpacker::fill`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Wrote something.
    Some,
    /// Nothing is left to read, and more may come.
    NeedInput,
    /// The stream is complete.
    End,
}

impl Unpacker {
    pub(crate) fn new() -> Self {
        Self {
            input: VecDeque::new(),
            ended: false,
            read: 0,
            state: State::Start,
            inflate: None,
            crc: crc32fast::Hasher::new(),
            plain: 0,
        }
    }

    /// Plain bytes, of which none come.
    pub(crate) fn of_nothing() -> Self {
        Self { state: State::Plain, ..Self::new() }
    }

    /// Begins at a full flush within a member.
    pub(crate) fn within_a_member(stored: u64, plain: u64, crc: u32) -> Self {
        Self {
            read: stored,
            state: State::Body,
            inflate: Some(Decompress::new(false)),
            crc: crc32fast::Hasher::new_with_initial_len(crc, plain),
            // A member's length is stored modulo 2^32.
            plain: plain as u32,
            ..Self::new()
        }
    }

    pub(crate) fn feed(&mut self, input: Bytes) {
        if !input.is_empty() {
            self.input.push_back(input);
        }
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Stored bytes that were read.
    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    /// Whether the stream is gzip, as far as is known.
    pub(crate) fn is_gzip(&self) -> bool {
        !matches!(self.state, State::Start | State::Half | State::Plain)
    }

    /// A guess at how many plain bytes the waiting input makes.
    pub(crate) fn expected(&self) -> usize {
        let waiting = self.input.front().map_or(0, Bytes::len);
        if matches!(self.state, State::Plain) { waiting } else { waiting.saturating_mul(8) }
    }

    fn take(&mut self, bytes: usize) {
        self.read += bytes as u64;
        if let Some(front) = self.input.front_mut() {
            front.advance(bytes);
            if front.is_empty() {
                self.input.pop_front();
            }
        }
    }

    /// Appends plain bytes to `out`, at most its spare capacity, of which there must be some.
    ///
    /// # Errors
    /// What is wrong with the stream. What was appended before is good as far as deflate can tell.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>) -> Result<Filled, Broken> {
        let before = out.len();
        debug_assert!(out.capacity() > before, "there is room");
        loop {
            let input: &[u8] = self.input.front().map_or(&[], |front| front);
            let Some(&byte) = input.first() else {
                // Inflate may still hold bytes for which there was no room.
                if matches!(self.state, State::Body) && self.inflate(out)? {
                    return Ok(Filled::Some);
                }
                return if self.ended { self.finish(out) } else { Ok(Filled::NeedInput) };
            };
            match &mut self.state {
                State::Start if byte == MAGIC[0] => {
                    self.state = State::Half;
                    self.take(1);
                }
                State::Start => self.state = State::Plain,
                State::Half if byte == MAGIC[1] => {
                    self.state = State::Header(Header::after_magic());
                    self.take(1);
                }
                State::Half => {
                    self.state = State::Plain;
                    out.push(MAGIC[0]);
                    return Ok(Filled::Some);
                }
                State::Plain => {
                    let bytes = input.len().min(out.capacity() - out.len());
                    out.extend_from_slice(&input[..bytes]);
                    self.take(bytes);
                    return Ok(Filled::Some);
                }
                State::Header(header) => {
                    let complete = header.read(byte).map_err(|problem| corrupt(&problem, self.read))?;
                    self.take(1);
                    if complete {
                        self.begin_body();
                    }
                }
                State::Body => {
                    if self.inflate(out)? {
                        return Ok(Filled::Some);
                    }
                }
                State::Trailer(trailer) => {
                    trailer.push(byte);
                    let complete = <[u8; 8]>::try_from(trailer.as_slice());
                    self.take(1);
                    if let Ok(trailer) = complete {
                        self.end_member(trailer)?;
                    }
                }
                State::Between if byte == MAGIC[0] => {
                    self.state = State::BetweenHalf;
                    self.take(1);
                }
                State::Between | State::Padding if byte == 0 => {
                    let zeros = input.iter().take_while(|&&byte| byte == 0).count();
                    self.state = State::Padding;
                    self.take(zeros);
                }
                State::BetweenHalf if byte == MAGIC[1] => {
                    self.state = State::Header(Header::after_magic());
                    self.take(1);
                }
                State::BetweenHalf => return Err(garbage(self.read - 1)),
                State::Between | State::Padding => return Err(garbage(self.read)),
                State::Damaged(broken) => return Err(broken.clone()),
            }
        }
    }

    fn begin_body(&mut self) {
        match &mut self.inflate {
            Some(inflate) => inflate.reset(false),
            None => self.inflate = Some(Decompress::new(false)),
        }
        self.crc.reset();
        self.plain = 0;
        self.state = State::Body;
    }

    /// Inflates once. Returns whether something was written.
    fn inflate(&mut self, out: &mut Vec<u8>) -> Result<bool, Broken> {
        let inflate = self.inflate.as_mut().expect("made before the body");
        let input: &[u8] = self.input.front().map_or(&[], |front| front);
        let (before, consumed) = (out.len(), inflate.total_in());
        let result = inflate.decompress_vec(input, out, FlushDecompress::None);
        let consumed = usize::try_from(inflate.total_in() - consumed).expect("no more than was given");
        let written = &out[before..];
        let (wrote, stuck) = (!written.is_empty(), !input.is_empty() && consumed == 0);
        self.crc.update(written);
        // A member's length is stored modulo 2^32.
        self.plain = self.plain.wrapping_add(written.len() as u32);
        self.take(consumed);
        match result {
            Ok(Status::StreamEnd) => self.state = State::Trailer(Vec::with_capacity(8)),
            Ok(Status::Ok | Status::BufError) if stuck && !wrote => {
                return Err(corrupt("its data do not go on", self.read));
            }
            Ok(Status::Ok | Status::BufError) => {}
            // What it says more depends on how much was fed at once.
            Err(_) => {
                let broken = corrupt("its data cannot be unpacked", self.read);
                if !wrote {
                    return Err(broken);
                }
                self.state = State::Damaged(broken);
            }
        }
        Ok(wrote)
    }

    fn end_member(&mut self, trailer: [u8; 8]) -> Result<(), Broken> {
        let [a, b, c, d, e, f, g, h] = trailer;
        let (crc, length) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let found = mem::take(&mut self.crc).finalize();
        if found != crc {
            let problem = format!("its bytes have checksum {found:08x}, its trailer says {crc:08x}");
            return Err(corrupt(&problem, self.read - 8));
        }
        if self.plain != length {
            let problem = format!("its length is {} (modulo 2^32), its trailer says {length}", self.plain);
            return Err(corrupt(&problem, self.read - 4));
        }
        self.state = State::Between;
        Ok(())
    }

    /// What the end of the stored bytes means here.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<Filled, Broken> {
        let place = match &self.state {
            State::Start | State::Plain | State::Between | State::Padding => return Ok(Filled::End),
            State::Half => {
                self.state = State::Plain;
                out.push(MAGIC[0]);
                return Ok(Filled::Some);
            }
            State::BetweenHalf => return Err(garbage(self.read - 1)),
            State::Header(_) => "header",
            State::Body => "data",
            State::Trailer(_) => "trailer",
            State::Damaged(broken) => return Err(broken.clone()),
        };
        let problem = format!("the gzip stream ends at stored byte {}, within a member's {place}", self.read);
        Err(Broken::at_row(Reason::TruncatedFile, problem))
    }
}

fn corrupt(problem: &str, stored: u64) -> Broken {
    Broken::at_row(Reason::CorruptGzip, format!("the gzip stream is damaged at stored byte {stored}: {problem}"))
}

fn garbage(stored: u64) -> Broken {
    corrupt("what follows the last member is neither another one nor zeros", stored)
}

/// A member's header, read byte by byte: it is short, and may be cut anywhere.
#[derive(Debug)]
struct Header {
    crc: crc32fast::Hasher,
    flags: u8,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Method,
    Flags,
    /// Time, extra flags and system: bytes left.
    Fixed(u8),
    ExtraLow,
    ExtraHigh(u8),
    Extra(u16),
    Name,
    Comment,
    CrcLow,
    CrcHigh(u8),
}

impl Header {
    fn after_magic() -> Self {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&MAGIC);
        Self { crc, flags: 0, part: Part::Method }
    }

    /// Takes the next byte; returns whether it was the last.
    fn read(&mut self, byte: u8) -> Result<bool, String> {
        if !matches!(self.part, Part::CrcLow | Part::CrcHigh(_)) {
            self.crc.update(&[byte]);
        }
        let next = match self.part {
            Part::Method if byte == DEFLATE => Some(Part::Flags),
            Part::Method => return Err(format!("unknown compression method {byte}")),
            Part::Flags if byte & RESERVED != 0 => return Err(format!("reserved flags are set ({byte:#04x})")),
            Part::Flags => {
                self.flags = byte;
                Some(Part::Fixed(6))
            }
            Part::Fixed(1) => self.after_fixed(),
            Part::Fixed(left) => Some(Part::Fixed(left - 1)),
            Part::ExtraLow => Some(Part::ExtraHigh(byte)),
            Part::ExtraHigh(low) => match u16::from_le_bytes([low, byte]) {
                0 => self.after_extra(),
                length => Some(Part::Extra(length)),
            },
            Part::Extra(1) => self.after_extra(),
            Part::Extra(left) => Some(Part::Extra(left - 1)),
            Part::Name if byte == 0 => self.after_name(),
            Part::Comment if byte == 0 => self.after_comment(),
            Part::Name => Some(Part::Name),
            Part::Comment => Some(Part::Comment),
            Part::CrcLow => Some(Part::CrcHigh(byte)),
            Part::CrcHigh(low) => {
                let (stored, found) = (u16::from_le_bytes([low, byte]), self.crc.clone().finalize() as u16);
                if stored != found {
                    return Err(format!("its header has checksum {found:04x}, but says {stored:04x}"));
                }
                None
            }
        };
        match next {
            Some(part) => {
                self.part = part;
                Ok(false)
            }
            None => Ok(true),
        }
    }

    fn after_fixed(&self) -> Option<Part> {
        if self.flags & EXTRA != 0 { Some(Part::ExtraLow) } else { self.after_extra() }
    }

    fn after_extra(&self) -> Option<Part> {
        if self.flags & NAME != 0 { Some(Part::Name) } else { self.after_name() }
    }

    fn after_name(&self) -> Option<Part> {
        if self.flags & COMMENT != 0 { Some(Part::Comment) } else { self.after_comment() }
    }

    fn after_comment(&self) -> Option<Part> {
        (self.flags & HEADER_CRC != 0).then_some(Part::CrcLow)
    }
}
