//! What a connection speaks, told from its first bytes. Consumes nothing and never waits: the caller reads more
//! when told to, and decides how long.

/// What the bytes so far say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// A TLS ClientHello.
    Tls,
    /// None of them.
    Opaque,
    /// Not decided yet.
    More,
}

/// So many bytes always decide.
pub const LONGEST: usize = 32;

/// RFC 9113 section 3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods that apps use: RFC 9110, RFC 5789, WebDAV (RFC 4918, 3253, 5323) and QUERY.
const METHODS: [&[u8]; 21] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"SEARCH",
    b"REPORT",
    b"QUERY",
    b"PURGE",
    b"MERGE",
];

/// Looks at the first bytes of a connection.
pub fn detect(bytes: &[u8]) -> Detected {
    let mut verdict = Detected::Opaque;
    for candidate in [http2(bytes), tls(bytes), http1(bytes)] {
        match candidate {
            Detected::Opaque => {}
            Detected::More => verdict = Detected::More,
            found => return found,
        }
    }
    verdict
}

fn http2(bytes: &[u8]) -> Detected {
    literal(bytes, HTTP2_PREFACE, Detected::Http2)
}

/// A handshake record of SSL 3.0 to TLS 1.3 (RFC 8446 section 5.1) whose first message is a ClientHello.
fn tls(bytes: &[u8]) -> Detected {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    match bytes {
        [HANDSHAKE, 3, 0..=4, _, _, CLIENT_HELLO, ..] => Detected::Tls,
        [] | [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, 0..=4] => Detected::More,
        [HANDSHAKE, 3, 0..=4, _] | [HANDSHAKE, 3, 0..=4, _, _] => Detected::More,
        _ => Detected::Opaque,
    }
}

/// A known method, one blank and the start of a request target (RFC 9112 section 3.2).
fn http1(bytes: &[u8]) -> Detected {
    let Some(blank) = bytes.iter().position(|&byte| byte == b' ') else {
        let begun = METHODS.iter().any(|method| method.starts_with(bytes));
        return if begun { Detected::More } else { Detected::Opaque };
    };
    let (method, target) = (&bytes[..blank], &bytes[blank + 1..]);
    if !METHODS.contains(&method) {
        return Detected::Opaque;
    }
    match (method, target) {
        (_, []) => Detected::More,
        (b"CONNECT", [b'[', ..]) => Detected::Http1,
        (b"CONNECT", [byte, ..]) if byte.is_ascii_alphanumeric() => Detected::Http1,
        (b"CONNECT", _) => Detected::Opaque,
        (_, [b'/', ..]) | (b"OPTIONS", [b'*', ..]) => Detected::Http1,
        _ => absolute_form(target),
    }
}

fn absolute_form(target: &[u8]) -> Detected {
    match (literal(target, b"http://", Detected::Http1), literal(target, b"https://", Detected::Http1)) {
        (Detected::Opaque, second) => second,
        (first, _) => first,
    }
}

/// `found` if the bytes begin with `expected`, whatever the case of its lower-case letters.
fn literal(bytes: &[u8], expected: &[u8], found: Detected) -> Detected {
    let same = bytes.iter().zip(expected).all(|(&byte, &expected)| {
        if expected.is_ascii_lowercase() { byte.eq_ignore_ascii_case(&expected) } else { byte == expected }
    });
    match same {
        false => Detected::Opaque,
        true if bytes.len() < expected.len() => Detected::More,
        true => found,
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    const SAMPLES: &[(&[u8], Detected)] = &[
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", Detected::Http1),
        (b"GET http://a/ HTTP/1.1\r\n", Detected::Http1),
        (b"GET HTTPS://a/ HTTP/1.1\r\n", Detected::Http1),
        (b"POST /x HTTP/1.0\r\n", Detected::Http1),
        (b"PROPPATCH /x HTTP/1.1\r\n", Detected::Http1),
        (b"OPTIONS * HTTP/1.1\r\n", Detected::Http1),
        (b"CONNECT a:443 HTTP/1.1\r\n", Detected::Http1),
        (b"CONNECT [::1]:443 HTTP/1.1\r\n", Detected::Http1),
        (HTTP2_PREFACE, Detected::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", Detected::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", Detected::Opaque),
        (b"PRI / HTTP/1.1\r\n", Detected::Opaque),
        (&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], Detected::Tls),
        (&[22, 3, 1, 2, 0, 2, 0, 1, 252, 3, 3], Detected::Opaque),
        (&[22, 3, 9, 2, 0, 1], Detected::Opaque),
        (&[22, 2, 1, 2, 0, 1], Detected::Opaque),
        (b"*1\r\n$4\r\nPING\r\n", Detected::Opaque),
        (b"GET key\r\n", Detected::Opaque),
        (b"get / HTTP/1.1\r\n", Detected::Opaque),
        (b"GET  / HTTP/1.1\r\n", Detected::Opaque),
        (b"GETTY / HTTP/1.1\r\n", Detected::Opaque),
        (b"GE / HTTP/1.1\r\n", Detected::Opaque),
        (b"GET *\r\n", Detected::Opaque),
        (b"CONNECT\naccept-version:1.2\n", Detected::Opaque),
        (b"CONNECT / HTTP/1.1\r\n", Detected::Opaque),
        (b"\x10\x0c\0\x04MQTT", Detected::Opaque),
        (b"SSH-2.0-x\r\n", Detected::Opaque),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Detected::Opaque),
        (b" GET / HTTP/1.1", Detected::Opaque),
        (b"", Detected::More),
    ];

    #[test]
    fn samples() {
        for (bytes, expected) in SAMPLES {
            assert_eq!(detect(bytes), *expected, "{:?}", bytes.escape_ascii().to_string());
        }
    }

    /// However the bytes are split, the verdict is "more" until it is the final one.
    #[test]
    fn every_split() {
        for (bytes, expected) in SAMPLES {
            let first = (0..=bytes.len()).map(|cut| detect(&bytes[..cut])).find(|found| *found != Detected::More);
            assert_eq!(first.unwrap_or(Detected::More), *expected, "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn verdicts_are_final_and_come_in_time() {
        const PIECES: &[&[u8]] = &[
            b"GET",
            b"PRI",
            b" ",
            b"/",
            b"* HTTP/2.0\r\n",
            b"http:",
            b"//",
            b"\x16\x03\x01",
            b"\0",
            b"CONNECT",
            b"\xff",
        ];
        let mut random = SmallRng::seed_from_u64(2);
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            while bytes.len() < LONGEST {
                bytes.extend_from_slice(PIECES[random.random_range(0..PIECES.len())]);
            }
            let mut verdict = Detected::More;
            for cut in 0..=bytes.len() {
                let found = detect(&bytes[..cut]);
                assert!(verdict == Detected::More || verdict == found, "{:?}", bytes.escape_ascii().to_string());
                verdict = found;
            }
            assert_ne!(verdict, Detected::More);
        }
    }
}
