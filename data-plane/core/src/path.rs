//! The one normaliser of request paths. Routing, access policies and the next hop all see its result, so no two of
//! them can read one path differently. It never looks at a query.
//!
//! What it does (RFC 3986 section 6.2.2, and merged slashes): encoded unreserved characters are decoded, other
//! encodings get upper-case digits, characters that a path may not hold are encoded, slashes are merged and then dot
//! segments are resolved. `%2F` stays encoded and never separates segments, and path parameters (`;v=1`, RFC 3986 section
//! 3.3) stay where they are; where an app that decodes the one or cuts the other off would step to another folder
//! (`..%2Fadmin`, `..;/admin`), the path is refused. Policies look at [`other_readings`] as well.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    #[error("doesn't begin with a slash")]
    NotAbsolute,
    #[error("has a control character, blank, backslash, '?' or '#'")]
    Character,
    #[error("has a malformed percent-encoding")]
    Encoding,
    #[error("has an encoded NUL or backslash")]
    EncodedCharacter,
    #[error("hides a dot segment")]
    HiddenDots,
}

/// The path and the query of a request target.
pub fn split_target(path_and_query: &str) -> (&str, Option<&str>) {
    match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    }
}

/// The normal form of a path without query. Doesn't allocate if it has that form already.
/// `*` (of OPTIONS) stays; the empty path is `/`.
///
/// # Errors
/// If the path could be read in more than one way.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, BadPath> {
    match path {
        "" => return Ok(Cow::Borrowed("/")),
        "*" => return Ok(Cow::Borrowed("*")),
        _ if is_normal(path.as_bytes()) => return Ok(Cow::Borrowed(path)),
        _ => {}
    }
    let rest = path.strip_prefix('/').ok_or(BadPath::NotAbsolute)?;
    let mut out = String::with_capacity(path.len());
    let mut ends_in_folder = false;
    for segment in rest.split('/') {
        let start = out.len();
        out.push('/');
        push_segment(&mut out, segment)?;
        ends_in_folder = match &out[start + 1..] {
            "" | "." => {
                out.truncate(start);
                true
            }
            ".." => {
                out.truncate(start);
                out.truncate(out.rfind('/').unwrap_or(0));
                true
            }
            written => {
                refuse_hidden_dots(written)?;
                false
            }
        };
    }
    if ends_in_folder {
        out.push('/');
    }
    Ok(Cow::Owned(out))
}

/// What else apps read from a normal path: they decode what separates nothing (`%3A`), some take encoded slashes for
/// slashes, servlets cut parameters off, and a server before one may decode what begins them. None, and then without
/// allocation, for nearly every path.
pub fn other_readings(path: &str) -> Vec<String> {
    let mut readings = Vec::new();
    if !path.bytes().any(|byte| matches!(byte, b'%' | b';')) {
        return readings;
    }
    let slashes = |path: &str| path.replace("%2F", "/");
    for marks in [&[][..], &[";"], &[";", "%3B"]] {
        let cut = |path: &str| without_parameters(path, marks);
        for reading in [cut(path), slashes(&cut(path)), cut(&slashes(path))] {
            let reading = match normalise(&reading) {
                Ok(Cow::Owned(normal)) => normal,
                Ok(Cow::Borrowed(_)) | Err(_) => reading,
            };
            for reading in [decoded(&reading), reading] {
                if reading != path && !readings.contains(&reading) {
                    readings.push(reading);
                }
            }
        }
    }
    readings
}

/// With each character that a path may hold as itself. Of a path that was normalised.
fn decoded(path: &str) -> String {
    let mut rest = path;
    let mut out = String::with_capacity(path.len());
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let mut digits = after.bytes();
        rest = match (hex(digits.next()), hex(digits.next())) {
            (Some(high), Some(low)) if is_path_character(high << 4 | low) => {
                out.push(char::from(high << 4 | low));
                &after[2..]
            }
            _ => {
                out.push('%');
                after
            }
        };
    }
    out.push_str(rest);
    out
}

/// Without what follows one of the marks in each segment.
fn without_parameters(path: &str, marks: &[&str]) -> String {
    let mut kept = String::with_capacity(path.len());
    for (at, segment) in path.split('/').enumerate() {
        if at > 0 {
            kept.push('/');
        }
        let end = marks.iter().filter_map(|mark| segment.find(mark)).min();
        kept.push_str(&segment[..end.unwrap_or(segment.len())]);
    }
    kept
}

/// Whether nothing is to be done. May say no of a normal path, never yes of another.
fn is_normal(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    let mut before = 0;
    for (at, &byte) in path.iter().enumerate() {
        let clean = match byte {
            b'/' => before != b'/',
            b'.' if before == b'/' => !matches!(path.get(at + 1), None | Some(b'/' | b'.' | b';' | b'%')),
            _ => is_path_character(byte),
        };
        if !clean {
            return false;
        }
        before = byte;
    }
    true
}

/// Unreserved characters and those that separate within a segment (RFC 3986 section 3.3, `pchar`).
fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn push_segment(out: &mut String, segment: &str) -> Result<(), BadPath> {
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) else {
                    return Err(BadPath::Encoding);
                };
                match high << 4 | low {
                    0 | b'\\' => return Err(BadPath::EncodedCharacter),
                    decoded if is_unreserved(decoded) => out.push(char::from(decoded)),
                    decoded => push_encoded(out, decoded),
                }
            }
            0..=b' ' | 0x7f | b'\\' | b'?' | b'#' => return Err(BadPath::Character),
            _ if is_path_character(byte) => out.push(char::from(byte)),
            _ => push_encoded(out, byte),
        }
    }
    Ok(())
}

fn push_encoded(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Value of a hexadecimal digit.
pub(crate) fn hex(digit: Option<u8>) -> Option<u8> {
    match digit? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
        digit @ b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Refuses what other servers read as a dot segment: behind an encoded slash, or with a parameter (`..;x`).
fn refuse_hidden_dots(segment: &str) -> Result<(), BadPath> {
    let hides = |part: &str| matches!(part.split(';').next(), Some("." | ".."));
    let mut parts = segment.split("%2F").flat_map(|part| part.split("%3B").next());
    if parts.any(hides) { Err(BadPath::HiddenDots) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
