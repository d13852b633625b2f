//! Frames: how bytes on a connection are cut into performatives.
//!
//! # Sources
//! AMQP 1.0 part 2, section 2.3 (framing) and 2.2 (protocol headers); part 5, section 5.3 (SASL frames).

/// What a client that wants SASL sends first.
pub(crate) const SASL_HEADER: [u8; 8] = *b"AMQP\x03\x01\x00\x00";
/// What a client sends before its `open`.
pub(crate) const AMQP_HEADER: [u8; 8] = *b"AMQP\x00\x01\x00\x00";

const HEAD: usize = 8;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Amqp,
    Sasl,
}

/// One frame; an empty body is a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) channel: u16,
    pub(crate) body: &'a [u8],
    /// Bytes to move on by.
    pub(crate) size: usize,
}

/// Bytes that are no frame. The connection cannot go on: nobody knows where the next one starts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {size} bytes exceeds the max-frame-size of {max}")]
    TooLarge { size: u32, max: u32 },
    #[error("a frame states a size of {size} bytes and a data offset of {offset} words, which cannot be")]
    Malformed { size: u32, offset: u8 },
    #[error("a frame of the unknown type {0}")]
    UnknownType(u8),
}

/// The first frame in `input`, or `None` while it is incomplete.
pub(crate) fn split(input: &[u8], max: u32) -> Result<Option<Frame<'_>>, FrameError> {
    let Some(head) = input.first_chunk::<HEAD>() else { return Ok(None) };
    let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let offset = head[4];
    let malformed = FrameError::Malformed { size, offset };
    if size > max {
        return Err(FrameError::TooLarge { size, max });
    }
    let length = usize::try_from(size).map_err(|_| malformed.clone())?;
    let body_at = usize::from(offset) * 4;
    if body_at < HEAD || body_at > length {
        return Err(malformed);
    }
    let kind = match head[5] {
        0 => Kind::Amqp,
        1 => Kind::Sasl,
        other => return Err(FrameError::UnknownType(other)),
    };
    let Some(body) = input.get(body_at..length) else { return Ok(None) };
    Ok(Some(Frame { kind, channel: u16::from_be_bytes([head[6], head[7]]), body, size: length }))
}

/// Writes one frame whose body `write` appends.
pub(crate) fn write(out: &mut Vec<u8>, kind: Kind, channel: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let [high, low] = channel.to_be_bytes();
    out.extend([0, 0, 0, 0, 2, u8::from(kind == Kind::Sasl), high, low]);
    write(out);
    let size = u32::try_from(out.len() - start).expect("a frame is far below 4 GiB");
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// A frame without a body, so that the peer's idle timer starts again.
pub(crate) fn heartbeat(out: &mut Vec<u8>) {
    write(out, Kind::Amqp, 0, |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_only_once_it_is_whole() {
        let mut bytes = Vec::new();
        write(&mut bytes, Kind::Amqp, 0x0102, |out| out.extend(b"body"));
        for cut in 0..bytes.len() {
            assert_eq!(split(&bytes[..cut], 512), Ok(None), "cut at {cut}");
        }
        let frame = split(&bytes, 512).unwrap().unwrap();
        assert_eq!((frame.kind, frame.channel, frame.body, frame.size), (Kind::Amqp, 0x0102, &b"body"[..], 12));
    }

    #[test]
    fn an_extended_header_is_passed_over() {
        let bytes = [0, 0, 0, 14, 3, 1, 0, 0, 9, 9, 9, 9, 7, 7];
        assert_eq!(split(&bytes, 512).unwrap().unwrap().body, [7, 7]);
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_before_it_is_awaited() {
        let error = split(&[0, 1, 0, 1, 2, 0, 0, 0], 65_536).unwrap_err();
        assert_eq!(error.to_string(), "a frame of 65537 bytes exceeds the max-frame-size of 65536");
    }

    #[test]
    fn impossible_sizes_offsets_and_types_are_refused() {
        assert!(matches!(split(&[0, 0, 0, 7, 2, 0, 0, 0], 512), Err(FrameError::Malformed { .. })));
        assert!(matches!(split(&[0, 0, 0, 8, 1, 0, 0, 0], 512), Err(FrameError::Malformed { .. })));
        assert!(matches!(split(&[0, 0, 0, 8, 3, 0, 0, 0], 512), Err(FrameError::Malformed { .. })));
        assert_eq!(split(&[0, 0, 0, 8, 2, 9, 0, 0], 512), Err(FrameError::UnknownType(9)));
    }
}
