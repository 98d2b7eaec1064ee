//! Chunked bodies (RFC 9112, section 7.1): where one ends. What is in it is only counted.

use crate::failure::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunked {
    /// Hexadecimal digits read so far, and how many.
    Size(u64, u8),
    /// The rest of the size's line.
    Extension(u64),
    Data(u64),
    /// The line's end behind the data.
    Behind,
    /// A line of trailers, and whether nothing of it has come.
    Trailer(bool),
    Done,
}

impl Chunked {
    pub(crate) const START: Self = Self::Size(0, 0);

    /// Takes what has come, in pieces however small. Returns how many bytes of it were the body's.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<u64, Failure> {
        let mut body = 0;
        while let Some((&first, rest)) = bytes.split_first() {
            if let Self::Data(left) = *self {
                let here = left.min(bytes.len() as u64);
                body += here;
                bytes = &bytes[here as usize..];
                *self = if here == left { Self::Behind } else { Self::Data(left - here) };
            } else {
                *self = self.step(first)?;
                bytes = rest;
            }
        }
        Ok(body)
    }

    fn step(self, byte: u8) -> Result<Self, Failure> {
        const WRONG: Failure = Failure::Wrong("malformed chunk");
        Ok(match (self, byte) {
            (Self::Size(size, digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = char::from(byte).to_digit(16).ok_or(WRONG)?;
                Self::Size(size * 16 + u64::from(digit), digits + 1)
            }
            (Self::Size(size, digits), b'\r' | b';' | b' ' | b'\t') if digits > 0 => Self::Extension(size),
            (Self::Extension(0), b'\n') => Self::Trailer(true),
            (Self::Extension(size), b'\n') => Self::Data(size),
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::Behind, b'\r') => Self::Behind,
            (Self::Behind, b'\n') => Self::START,
            (Self::Trailer(empty), b'\r') => Self::Trailer(empty),
            (Self::Trailer(true), b'\n') => Self::Done,
            (Self::Trailer(_), byte) => Self::Trailer(byte == b'\n'),
            (Self::Size(..) | Self::Data(_) | Self::Behind | Self::Done, _) => return Err(WRONG),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"5\r\nhello\r\n1A;name=value\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nx: y\r\n\r\n";

    #[test]
    fn a_body_ends_where_it_ends_however_it_comes() {
        for piece in 1..=WHOLE.len() {
            let mut state = Chunked::START;
            let body: u64 = WHOLE.chunks(piece).map(|bytes| state.feed(bytes).unwrap()).sum();
            assert_eq!((state, body), (Chunked::Done, 31), "pieces of {piece}");
        }
        let mut state = Chunked::START;
        state.feed(&WHOLE[..WHOLE.len() - 1]).unwrap();
        assert_ne!(state, Chunked::Done);
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for wrong in [&b"\r\n"[..], b"g\r\n", b"1\r\nab\r\n", b"0\r\n\r\nmore", b"1000000000000000\r\n"] {
            let mut state = Chunked::START;
            assert!(state.feed(wrong).is_err(), "{:?}", String::from_utf8_lossy(wrong));
        }
    }
}
