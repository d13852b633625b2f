//! Stored bytes to plain ones apart from the rows, so that both can be worked at once on two threads.
//!
//! [`RowDecoder::unpacked_elsewhere`](crate::RowDecoder::unpacked_elsewhere) gives the first half of a decoder away. What that
//! half makes of the bytes that it is fed goes back to the decoder in the same order, which then says and counts what it would
//! have done alone.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    decoder::Broken,
    gzip::reader::{Filled, Unpacker},
};

/// Plain bytes of a piece at most: what a processor's second cache holds beside the window.
const PIECE_BYTES: usize = 256 << 10;

/// The half of a decoder that is fed with stored bytes.
#[derive(Debug)]
pub struct Unpacking {
    unpacker: Box<Unpacker>,
}

/// Plain bytes on their way to the rows.
#[derive(Debug)]
pub struct Unpacked {
    plain: Vec<u8>,
    /// Stored bytes that were read up to here.
    stored: u64,
    is_gzip: bool,
    then: Then,
}

/// What is after a piece.
#[derive(Debug, Clone)]
enum Then {
    More,
    End,
    Broken(Broken),
}

impl Unpacking {
    /// Hands over the next stored bytes, without copying them. Call [`Unpacking::next`] until it has no more before feeding
    /// more: what is fed earlier is kept until then.
    pub fn feed(&mut self, input: Bytes) {
        self.unpacker.feed(input);
    }

    /// Says that no more bytes come.
    pub fn end(&mut self) {
        self.unpacker.end();
    }

    /// The next piece; `None`: feed more, or say that it ends. After the last piece the same one again, without its bytes.
    #[allow(clippy::should_implement_trait, reason = "it is a step of a state machine, not an iterator")]
    pub fn next(&mut self) -> Option<Unpacked> {
        let mut plain = Vec::with_capacity(PIECE_BYTES);
        let then = loop {
            if plain.len() == plain.capacity() {
                break Then::More;
            }
            match self.unpacker.fill(&mut plain) {
                Ok(Filled::Some) => {}
                Ok(Filled::NeedInput) if plain.is_empty() => return None,
                Ok(Filled::NeedInput) => break Then::More,
                Ok(Filled::End) => break Then::End,
                Err(broken) => break Then::Broken(broken),
            }
        };
        Some(Unpacked { plain, stored: self.unpacker.read(), is_gzip: self.unpacker.is_gzip(), then })
    }
}

impl Unpacked {
    /// Whether no piece follows.
    #[must_use]
    pub fn is_last(&self) -> bool {
        !matches!(self.then, Then::More)
    }

    /// How many plain bytes it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.plain.len()
    }
}

/// Where a decoder's plain bytes come from.
#[derive(Debug)]
pub(crate) enum Input {
    /// Unpacked here.
    Stored(Box<Unpacker>),
    /// Unpacked elsewhere.
    Handed(Handed),
}

/// The pieces that came back.
#[derive(Debug)]
pub(crate) struct Handed {
    pieces: VecDeque<Unpacked>,
    /// Bytes of the first one that were taken.
    taken: usize,
    stored: u64,
    is_gzip: bool,
}

impl Input {
    pub(crate) fn new(unpacker: Unpacker) -> Self {
        Self::Stored(Box::new(unpacker))
    }

    /// Gives the unpacker away.
    ///
    /// # Panics
    /// When it was given away before.
    pub(crate) fn give(&mut self) -> Unpacking {
        let Self::Stored(unpacker) = self else { panic!("the bytes are unpacked elsewhere already") };
        let (stored, is_gzip) = (unpacker.read(), unpacker.is_gzip());
        let handed = Handed { pieces: VecDeque::new(), taken: 0, stored, is_gzip };
        let Self::Stored(unpacker) = std::mem::replace(self, Self::Handed(handed)) else { unreachable!("just seen") };
        Unpacking { unpacker }
    }

    /// The unpacker, for stored bytes.
    ///
    /// # Panics
    /// When it was given away.
    pub(crate) fn stored(&mut self) -> &mut Unpacker {
        match self {
            Self::Stored(unpacker) => unpacker,
            Self::Handed(_) => panic!("stored bytes go to where they are unpacked"),
        }
    }

    /// # Panics
    /// When the unpacker is here.
    pub(crate) fn hand(&mut self, piece: Unpacked) {
        match self {
            Self::Stored(_) => panic!("the bytes are unpacked here"),
            Self::Handed(handed) => handed.pieces.push_back(piece),
        }
    }

    /// As [`Unpacker::expected`].
    pub(crate) fn expected(&self) -> usize {
        match self {
            Self::Stored(unpacker) => unpacker.expected(),
            Self::Handed(handed) => {
                handed.pieces.iter().map(Unpacked::size).sum::<usize>().saturating_sub(handed.taken)
            }
        }
    }

    /// As [`Unpacker::fill`].
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>) -> Result<Filled, Broken> {
        match self {
            Self::Stored(unpacker) => unpacker.fill(out),
            Self::Handed(handed) => handed.fill(out),
        }
    }

    /// Stored bytes that were read.
    pub(crate) fn read(&self) -> u64 {
        match self {
            Self::Stored(unpacker) => unpacker.read(),
            Self::Handed(handed) => handed.stored,
        }
    }

    /// Whether the stream is gzip, as far as is known.
    pub(crate) fn is_gzip(&self) -> bool {
        match self {
            Self::Stored(unpacker) => unpacker.is_gzip(),
            Self::Handed(handed) => handed.is_gzip,
        }
    }
}

impl Handed {
    fn fill(&mut self, out: &mut Vec<u8>) -> Result<Filled, Broken> {
        loop {
            let Some(piece) = self.pieces.front() else { return Ok(Filled::NeedInput) };
            (self.stored, self.is_gzip) = (piece.stored, piece.is_gzip);
            let rest = piece.plain.get(self.taken..).unwrap_or_default();
            if !rest.is_empty() {
                let bytes = rest.len().min(out.capacity() - out.len());
                out.extend_from_slice(&rest[..bytes]);
                self.taken += bytes;
                return Ok(Filled::Some);
            }
            match &piece.then {
                Then::More => {}
                Then::End => return Ok(Filled::End),
                Then::Broken(broken) => return Err(broken.clone()),
            }
            self.pieces.pop_front();
            self.taken = 0;
        }
    }
}
