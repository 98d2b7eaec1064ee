//! Where a body ends (RFC 9112 sections 6 and 7).

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Error, parse::has_whole_line_ends};

/// What is still to come of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoder {
    Done,
    Sized(u64),
    Chunked(Chunks),
    /// Until the peer closes: answers only.
    ToEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Chunks {
    state: State,
    /// Bytes of extensions so far: nobody needs them.
    extensions: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    /// The end of the line behind data.
    DataEnd,
    Trailers,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Nothing without more bytes.
    More,
    Done,
}

/// The longest line with a chunk's size.
const LINE: usize = 1024;
const EXTENSIONS: usize = 16 * 1024;
const TRAILERS: usize = 16 * 1024;
/// Fields of a trailer section.
const FIELDS: usize = 64;

/// Fields that say how a message is to be read: never in trailers (RFC 9110 section 6.5.1).
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::HOST, header::CONNECTION, header::TRAILER, header::TE]
        .contains(name)
}

impl Decoder {
    /// What comes next of the body, taken out of `rest`.
    pub(super) fn step(&mut self, rest: &mut Bytes) -> Result<Step, Error> {
        match self {
            Self::Done => return Ok(Step::Done),
            Self::Sized(_) | Self::ToEnd if rest.is_empty() => return Ok(Step::More),
            Self::ToEnd => return Ok(Step::Data(rest.split_to(rest.len()))),
            Self::Sized(left) => {
                let data = take(rest, left);
                if *left == 0 {
                    *self = Self::Done;
                }
                return Ok(Step::Data(data));
            }
            Self::Chunked(_) => {}
        }
        loop {
            let Self::Chunked(chunks) = self else { return Ok(Step::Done) };
            match &mut chunks.state {
                State::Data(_) if rest.is_empty() => return Ok(Step::More),
                State::Data(left) => {
                    let data = take(rest, left);
                    if *left == 0 {
                        chunks.state = State::DataEnd;
                    }
                    // What is wrong there is found again by the next step.
                    while let Ok(true) = self.advance(rest) {}
                    return Ok(Step::Data(data));
                }
                State::Trailers if !rest.is_empty() && rest[0] != b'\r' => {
                    let Some((length, trailers)) = trailers(rest)? else { return Ok(Step::More) };
                    rest.advance(length);
                    *self = Self::Done;
                    return Ok(Step::Trailers(trailers));
                }
                _ => {}
            }
            if !self.advance(rest)? {
                return Ok(Step::More);
            }
        }
    }

    /// Takes what is between the data of two chunks, or behind the last. `false`: not now.
    fn advance(&mut self, rest: &mut Bytes) -> Result<bool, Error> {
        let Self::Chunked(chunks) = self else { return Ok(false) };
        match chunks.state {
            State::Size => {
                let Some(Line { length, size, extension }) = size_line(rest)? else { return Ok(false) };
                chunks.extensions += extension;
                if chunks.extensions > EXTENSIONS {
                    return Err(Error::Malformed("too many chunk extensions"));
                }
                rest.advance(length);
                chunks.state = if size == 0 { State::Trailers } else { State::Data(size) };
            }
            State::DataEnd | State::Trailers => match **rest {
                [b'\r', b'\n', ..] => {
                    rest.advance(2);
                    if chunks.state == State::Trailers {
                        *self = Self::Done;
                    } else {
                        chunks.state = State::Size;
                    }
                }
                [] | [b'\r'] => return Ok(false),
                // Of fields there is more to say.
                _ if chunks.state == State::Trailers && rest[0] != b'\r' => return Ok(false),
                _ => return Err(Error::Malformed("a chunk that is longer than it said")),
            },
            State::Data(_) => return Ok(false),
        }
        Ok(true)
    }

    /// The peer has closed.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        if *self != Self::ToEnd {
            return Err(Error::Cut);
        }
        *self = Self::Done;
        Ok(())
    }

    /// How much of `most` it is worth to have room for.
    pub(super) fn room(&self, most: usize) -> usize {
        match *self {
            Self::Done => 0,
            Self::Sized(left) | Self::Chunked(Chunks { state: State::Data(left), .. }) => {
                usize::try_from(left).map_or(most, |left| left.min(most))
            }
            Self::Chunked(_) => 0,
            Self::ToEnd => most,
        }
    }

    pub(super) fn left(&self) -> Option<u64> {
        match *self {
            Self::Done => Some(0),
            Self::Sized(left) => Some(left),
            Self::Chunked(_) | Self::ToEnd => None,
        }
    }
}

fn take(rest: &mut Bytes, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
    *left -= length as u64;
    rest.split_to(length)
}

struct Line {
    length: usize,
    size: u64,
    /// Length of the extension.
    extension: usize,
}

/// `chunk-size [ chunk-ext ] CRLF`, stricter than some: what others read differently isn't passed on.
fn size_line(bytes: &[u8]) -> Result<Option<Line>, Error> {
    const BAD: Error = Error::Malformed("a chunk's size");
    let Some(end) = bytes.iter().take(LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE { Ok(None) } else { Err(BAD) };
    };
    let [line @ .., b'\r'] = &bytes[..end] else { return Err(BAD) };
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits == 0 || digits > 16 {
        return Err(BAD);
    }
    let mut size = 0;
    for digit in &line[..digits] {
        size = size << 4 | u64::from(char::from(*digit).to_digit(16).unwrap_or_default());
    }
    let extension = &line[digits..];
    let shown = extension.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    match extension.trim_ascii_start() {
        [] | [b';', ..] if shown => Ok(Some(Line { length: end + 1, size, extension: extension.len() })),
        _ => Err(BAD),
    }
}

/// A trailer section that isn't empty.
fn trailers(bytes: &[u8]) -> Result<Option<(usize, HeaderMap)>, Error> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let httparse::Status::Complete((length, fields)) = httparse::parse_headers(bytes, &mut fields)? else {
        return if bytes.len() < TRAILERS { Ok(None) } else { Err(Error::TooLarge) };
    };
    if !has_whole_line_ends(&bytes[..length], bytes, fields) {
        return Err(Error::Malformed("a line feed alone"));
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Error::Malformed("a trailer's name"))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Error::Malformed("a trailer's value"))?;
        if !is_framing(&name) {
            trailers.append(name, value);
        }
    }
    Ok(Some((length, trailers)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Body, trailers and what is left, or the error; by steps of `pieces` bytes.
    fn read(bytes: &str, pieces: usize) -> Result<(String, usize, bool), Error> {
        let mut decoder = Decoder::Chunked(Chunks::default());
        let (mut rest, mut body, mut fields) = (Bytes::new(), Vec::new(), 0);
        for piece in bytes.as_bytes().chunks(pieces) {
            rest = [&rest, piece].concat().into();
            loop {
                match decoder.step(&mut rest)? {
                    Step::Data(data) => body.extend_from_slice(&data),
                    Step::Trailers(trailers) => fields += trailers.len(),
                    Step::More | Step::Done => break,
                }
            }
        }
        Ok((String::from_utf8_lossy(&body).into_owned(), fields, decoder == Decoder::Done))
    }

    #[test]
    fn chunks() {
        let long = format!("3;{}\r\nabc\r\n", "x".repeat(900)).repeat(20);
        for (bytes, want) in [
            ("3\r\nabc\r\n0\r\n\r\n", Some(("abc", 0, true))),
            ("3\r\nabc\r\n2 ;a=b\r\nde\r\n0;c\r\n\r\n", Some(("abcde", 0, true))),
            ("A\r\n0123456789\r\n0\r\nx-a: b\r\ncontent-length: 7\r\n\r\n", Some(("0123456789", 1, true))),
            ("00000003\r\nabc\r\n000\r\n\r\n", Some(("abc", 0, true))),
            ("3\r\nab", Some(("ab", 0, false))),
            ("0\r\n\r", Some(("", 0, false))),
            ("+3\r\nabc\r\n", None),
            ("-3\r\nabc\r\n", None),
            ("0x3\r\nabc\r\n", None),
            ("\r\n", None),
            (";a\r\n", None),
            ("3 4\r\nabc\r\n", None),
            ("3\nabc\r\n0\r\n\r\n", None),
            ("3;a=\nb\r\nabc\r\n", None),
            ("3\r\nabcd\r\n", None),
            ("3\r\nabc\n0\r\n\r\n", None),
            ("10000000000000003\r\nabc", None),
            ("3\r\nabc\r\n0\r\nno field\r\n\r\n", None),
            ("3\r\nabc\r\n0\r\n\n", None),
            ("3\r\nabc\r\n0\r\na: b\n\r\n", None),
            ("3\r\nabc\r\n0\r\na: b\r\n\n", None),
            ("3\r\nabc\r\n0\r\na: b\nc: d\r\n\r\n", None),
            (&long, None),
        ] {
            for pieces in [1, 2, 7, bytes.len()] {
                let want = want.map(|(body, fields, done)| (body.to_owned(), fields, done));
                assert_eq!(read(bytes, pieces).ok(), want, "{:?} by {pieces}", &bytes[..bytes.len().min(60)]);
            }
        }
    }

    #[test]
    fn the_end_is_seen_with_the_last_data() {
        let mut decoder = Decoder::Chunked(Chunks::default());
        let mut rest = Bytes::from_static(b"3\r\nabc\r\n0\r\n\r\nGET");
        assert_eq!(decoder.step(&mut rest).ok(), Some(Step::Data(Bytes::from_static(b"abc"))));
        assert_eq!((decoder, &rest[..]), (Decoder::Done, &b"GET"[..]));
        let (mut decoder, mut rest) = (Decoder::Sized(2), Bytes::from_static(b"abc"));
        assert_eq!(decoder.step(&mut rest).ok(), Some(Step::Data(Bytes::from_static(b"ab"))));
        assert_eq!((decoder, &rest[..]), (Decoder::Done, &b"c"[..]));
    }
}
