//! HTTP/2 whose ends or fields can be read in two ways (RFC 9113 section 8): what the app is given is one request that
//! was judged, or nothing, and never what stood in another's body.

use super::*;
use crate::http2::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, block, frame};

/// What must come of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// The app sees none of it; what follows at most.
    Refused,
    /// It sees one, which has this in it.
    Seen(&'static str),
    /// It sees it, or not.
    Any,
}

use Want::{Any, Refused, Seen};

/// Fields, and which of what is there already they take the place of.
type Fields = &'static [(&'static str, &'static str)];

/// Kinds, flags and what is in them; in HEADERS a head that is in order.
type Frames = &'static [(u8, u8, &'static str)];

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
const PSEUDO: [(&str, &str); 4] = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/x")];

/// One DATA frame after HEADERS, which ends the stream.
const BODIES: &[(&str, Fields, &[&str], Want)] = &[
    ("no length", &[], &["abc"], Seen("abc")),
    ("a length", &[("content-length", "3")], &["abc"], Seen("content-length: 3\r\n\r\nabc")),
    ("in two", &[("content-length", "6")], &["abc", "def"], Seen("content-length: 6\r\n\r\nabcdef")),
    ("one length twice", &[("content-length", "3"), ("content-length", "3")], &["abc"], Seen("\r\n\r\nabc")),
    ("less than it says", &[("content-length", "4")], &["abc"], Refused),
    ("nothing of what it says", &[("content-length", "4")], &[""], Refused),
    ("no DATA of what it says", &[("content-length", "4")], &[], Refused),
    ("more than it says", &[("content-length", "0")], &[SMUGGLED], Refused),
    ("much more than it says", &[("content-length", "1")], &[SMUGGLED], Refused),
    // The app has its three bytes by the time that there are more.
    ("more in the next frame", &[("content-length", "3")], &["abc", SMUGGLED], Any),
    ("two lengths", &[("content-length", "3"), ("content-length", "0")], &["abc"], Refused),
    ("two lengths, the other way round", &[("content-length", "0"), ("content-length", "3")], &["abc"], Refused),
    ("two lengths in one", &[("content-length", "3, 3")], &["abc"], Refused),
    ("a sign", &[("content-length", "+3")], &["abc"], Refused),
    ("a negative length", &[("content-length", "-3")], &["abc"], Refused),
    ("base 16", &[("content-length", "0x3")], &["abc"], Refused),
    ("a blank before", &[("content-length", " 3")], &["abc"], Refused),
    ("a blank behind", &[("content-length", "3 ")], &["abc"], Refused),
    ("no digits", &[("content-length", "")], &["abc"], Refused),
    ("too long", &[("content-length", "18446744073709551619")], &["abc"], Refused),
    ("chunked", &[("transfer-encoding", "chunked")], &["0\r\n\r\n", SMUGGLED], Refused),
    ("chunked, with a length", &[("transfer-encoding", "chunked"), ("content-length", "3")], &["abc"], Refused),
    ("what looks like chunks", &[], &["0\r\n\r\n", SMUGGLED], Seen(SMUGGLED)),
    ("what looks like a request", &[], &[SMUGGLED], Seen(SMUGGLED)),
];

/// Fields in place of, or behind, those of a GET.
const HEADS: &[(&str, Fields, Want)] = &[
    ("plain", &[], Seen("\r\n\r\n")),
    ("a blank within", &[("x-a", "b c")], Seen("x-a: b c\r\n")),
    ("a tabulator within", &[("x-a", "b\tc")], Any),
    ("what an app trims, before", &[("x-a", " b")], Refused),
    ("what an app trims, behind", &[("x-a", "b ")], Refused),
    ("a tabulator before", &[("x-a", "\tb")], Refused),
    ("only blanks", &[("x-a", "  ")], Refused),
    ("no value", &[("x-a", "")], Any),
    ("a line's end", &[("x-a", "b\r\nx-b: c")], Refused),
    ("a line feed", &[("x-a", "b\nx-b: c")], Refused),
    ("a carriage return", &[("x-a", "b\rc")], Refused),
    ("NUL", &[("x-a", "b\0c")], Refused),
    ("DEL", &[("x-a", "b\x7fc")], Refused),
    ("a name with a colon", &[("x-a:b", "c")], Refused),
    ("a name with a blank", &[("x-a ", "c")], Refused),
    ("a name with a line's end", &[("x-a\r\nx-b", "c")], Refused),
    ("a name with NUL", &[("x-a\0", "c")], Refused),
    ("an upper-case name", &[("X-A", "c")], Refused),
    ("no name", &[("", "c")], Refused),
    ("connection", &[("connection", "close")], Refused),
    ("connection that names a field", &[("connection", "x-a"), ("x-a", "b")], Refused),
    ("keep-alive", &[("keep-alive", "timeout=5")], Refused),
    ("proxy-connection", &[("proxy-connection", "keep-alive")], Refused),
    ("upgrade", &[("upgrade", "websocket")], Refused),
    ("te: gzip", &[("te", "gzip")], Refused),
    ("te: trailers, gzip", &[("te", "trailers, gzip")], Refused),
    ("te: trailers", &[("te", "trailers")], Seen("te: trailers\r\n")),
    ("a length without a body", &[("content-length", "36")], Refused),
    ("a length of nothing", &[("content-length", "0")], Any),
    ("another host", &[("host", "b")], Any),
    ("two hosts", &[("host", "a"), ("host", "a")], Refused),
    ("a host without authority", &[(":authority", "-"), ("host", "a")], Any),
    ("no host at all", &[(":authority", "-")], Refused),
    ("two hosts without authority", &[(":authority", "-"), ("host", "a"), ("host", "b")], Refused),
    ("an empty authority", &[(":authority", "")], Refused),
    ("an authority with a user", &[(":authority", "x@a")], Refused),
    ("an authority with a blank", &[(":authority", "a b")], Refused),
    ("an authority with a line's end", &[(":authority", "a\r\nx-b: c")], Refused),
    ("an authority with a path", &[(":authority", "a/b")], Refused),
    ("no method", &[(":method", "-")], Refused),
    ("an empty method", &[(":method", "")], Refused),
    ("a method with a blank", &[(":method", "GET /smuggled")], Refused),
    ("a method with a line's end", &[(":method", "GET / HTTP/1.1\r\nx: ")], Refused),
    ("CONNECT with a path", &[(":method", "CONNECT")], Refused),
    ("CONNECT", &[(":method", "CONNECT"), (":scheme", "-"), (":path", "-")], Refused),
    ("no scheme", &[(":scheme", "-")], Refused),
    ("a scheme with a line's end", &[(":scheme", "http\r\nx-b: c")], Refused),
    ("a scheme with a blank", &[(":scheme", "http ")], Refused),
    ("a scheme with a slash", &[(":scheme", "http://b/")], Refused),
    ("another scheme", &[(":scheme", "https")], Any),
    ("no path", &[(":path", "-")], Refused),
    ("an empty path", &[(":path", "")], Refused),
    ("a path without a slash", &[(":path", "x")], Refused),
    ("a path with a host", &[(":path", "http://b/x")], Refused),
    ("a path with a blank", &[(":path", "/x HTTP/1.1")], Refused),
    ("a path with a line's end", &[(":path", "/x HTTP/1.1\r\nx-b: c")], Refused),
    ("a path with a tabulator", &[(":path", "/x\ty")], Refused),
    ("a path with NUL", &[(":path", "/x\0")], Refused),
    ("a fragment", &[(":path", "/x#y")], Any),
    ("a query with a blank", &[(":path", "/x?a b")], Refused),
    ("a query with a line's end", &[(":path", "/x?a\r\nx-b: c")], Refused),
    ("an asterisk", &[(":path", "*")], Refused),
    ("an asterisk where it may be", &[(":method", "OPTIONS"), (":path", "*")], Seen("OPTIONS ")),
    ("an asterisk with a query", &[(":method", "OPTIONS"), (":path", "*?a")], Refused),
    ("only a query", &[(":path", "?a")], Any),
    ("two methods", &[(":method", "GET"), (":method", "POST")], Refused),
    ("two paths", &[(":path", "/x"), (":path", "/denied")], Refused),
    ("two authorities", &[(":authority", "a"), (":authority", "b")], Refused),
    ("a status", &[(":status", "200")], Refused),
    ("an unknown pseudo-header", &[(":x", "y")], Refused),
    ("a protocol without CONNECT", &[(":protocol", "websocket")], Refused),
    ("a pseudo-header behind a field", &[("x-a", "b"), (":path", "/y")], Refused),
];

/// Behind a body of three bytes, whose length may have been said.
const TRAILERS: &[(&str, Fields, Want)] = &[
    ("a trailer", &[("x-end", "1")], Any),
    ("a length", &[("content-length", "0")], Any),
    ("a coding", &[("transfer-encoding", "chunked")], Refused),
    ("a host", &[("host", "b")], Any),
    ("connection", &[("connection", "close")], Refused),
    ("a line's end", &[("x-end", "1\r\n\r\nGET /smuggled HTTP/1.1")], Refused),
    ("a pseudo-header", &[(":path", "/smuggled")], Any),
    ("a status", &[(":status", "200")], Any),
];

/// A request, and what mustn't come behind it or doesn't end it.
const ORDERS: &[(&str, Frames, Want)] = &[
    ("DATA behind the end", &[(HEADERS, END_HEADERS | END_STREAM, ""), (DATA, END_STREAM, SMUGGLED)], Any),
    ("DATA behind its own end", &[(HEADERS, END_HEADERS, ""), (DATA, END_STREAM, "a"), (DATA, 0, SMUGGLED)], Any),
    ("HEADERS behind the end", &[(HEADERS, END_HEADERS | END_STREAM, ""), (HEADERS, END_HEADERS, "")], Any),
    (
        "HEADERS in the middle",
        &[(HEADERS, END_HEADERS, ""), (HEADERS, END_HEADERS, ""), (DATA, END_STREAM, "a")],
        Refused,
    ),
    ("DATA within a head", &[(HEADERS, 0, ""), (DATA, END_STREAM, SMUGGLED)], Refused),
    ("DATA before a head", &[(DATA, END_STREAM, SMUGGLED)], Refused),
];

/// By HTTP/1.1, to an app with HTTP/2.
const HTTP1: &[(&str, &str, Want)] = &[
    ("plain", "GET /x HTTP/1.1\r\nhost: a\r\n\r\n", Seen("GET http://a/x ")),
    ("a length", "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc", Seen("\r\n\r\nabc")),
    (
        "chunks, and a trailer of a length",
        "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\ncontent-length: 0\r\n\r\n",
        Seen("\r\n\r\nabc"),
    ),
    (
        "chunks and a length",
        "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
         GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        Any,
    ),
    (
        "two lengths",
        "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\ncontent-length: 36\r\n\r\n\
         GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        Refused,
    ),
    (
        "a body that looks like a request",
        "GET /x HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        Seen("\r\n\r\nGET /smuggled"),
    ),
    (
        "what belongs to the connection",
        "GET /x HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, x-a\r\nkeep-alive: 5\r\nx-a: b\r\nte: gzip\r\n\r\n",
        Seen("GET http://a/x HTTP/2\r\ntraceparent"),
    ),
    ("blanks around a value", "GET /x HTTP/1.1\r\nhost: a\r\nx-a: \t b \r\n\r\n", Seen("x-a: b\r\n")),
    ("another host", "GET http://b/x HTTP/1.1\r\nhost: a\r\n\r\n", Seen("GET http://b/x HTTP/2\r\n")),
    ("an upper-case name", "GET /x HTTP/1.1\r\nhost: a\r\nX-A: b\r\n\r\n", Seen("x-a: b\r\n")),
    ("a pseudo-header", "GET /x HTTP/1.1\r\nhost: a\r\n:path: /smuggled\r\n\r\n", Refused),
    ("an asterisk", "GET * HTTP/1.1\r\nhost: a\r\n\r\n", Refused),
];

/// HEADERS of a request to the rig's app, with these fields in place of, or behind, what is there; "-" leaves one out.
fn headers(rig: &Rig, method: &str, http1: bool, fields: Fields) -> Vec<u8> {
    let port = rig.app.port().to_string();
    let mut all: Vec<(&str, &str)> = PSEUDO.into();
    all[0].1 = method;
    all.extend([("outrigger-port", &*port), ("outrigger-proto", if http1 { "1.1" } else { "2" })]);
    // Pseudo-headers behind a field stay there.
    let ordered = fields.first().is_none_or(|(name, _)| name.starts_with(':'));
    let mut replaced = Vec::new();
    for (at, &(name, value)) in fields.iter().enumerate() {
        let there = all.iter().position(|(known, _)| *known == name);
        match there.filter(|_| ordered && name.starts_with(':') && !replaced.contains(&name)) {
            Some(there) => all[there].1 = value,
            None if ordered && name.starts_with(':') => all.insert(4.min(all.len()), fields[at]),
            None => all.push((name, value)),
        }
        replaced.push(name);
    }
    all.retain(|(_, value)| *value != "-");
    block(&all)
}

/// Sends these frames, then a request that is in order, and returns what the app was given and what was said of the first.
async fn exchange(rig: &Rig, http1: bool, frames: &[u8]) -> (Vec<String>, String) {
    let last = headers(rig, "GET", http1, &[(":path", "/last")]);
    let told = rig.talk_http2(true, &[frames, &frame(HEADERS, END_HEADERS | END_STREAM, 3, &last)].concat()).await;
    (rig.seen.take(), format!("{:?}", told[0]))
}

fn judge(case: &str, seen: &[String], said: &str, want: Want) -> Result<(), String> {
    let of_last = |text: &&String| text.starts_with("GET /last ") || text.starts_with("GET http://a/last ");
    let (last, first): (Vec<_>, Vec<_>) = seen.iter().partition(of_last);
    let well = match want {
        Refused => first.is_empty(),
        Seen(part) => first.len() == 1 && first[0].contains(part) && last.len() == 1,
        Any => first.len() <= 1,
    };
    // What is in order is answered, unless the connection ended before.
    let lost = last.is_empty() && !said.contains("GOAWAY");
    let bad = seen.iter().any(|text| text.starts_with("BAD") || text.starts_with("GET /smuggled"));
    if well && !lost && !bad && last.len() <= 1 { Ok(()) } else { Err(format!("{case}: {want:?}: {said}; {seen:?}")) }
}

#[tokio::test]
async fn http2_means_the_same_to_the_app_or_is_refused() {
    within(async {
        let mut wrong = Vec::new();
        for http1 in [true, false] {
            let rig = if http1 { Rig::strict_http1().await } else { Rig::strict_http2().await };
            let name = |table: &str, row: &str| format!("to HTTP/{}: {table}: {row}", if http1 { 1 } else { 2 });
            for (row, fields, bodies, want) in BODIES {
                let end = if bodies.is_empty() { END_STREAM } else { 0 };
                let mut frames = frame(HEADERS, END_HEADERS | end, 1, &headers(&rig, "POST", http1, fields));
                for (at, body) in bodies.iter().enumerate() {
                    let end = if at + 1 == bodies.len() { END_STREAM } else { 0 };
                    frames.extend(frame(DATA, end, 1, body.as_bytes()));
                }
                let (seen, said) = exchange(&rig, http1, &frames).await;
                wrong.extend(judge(&name("bodies", row), &seen, &said, *want).err());
            }
            for (row, fields, want) in HEADS {
                let frames = frame(HEADERS, END_HEADERS | END_STREAM, 1, &headers(&rig, "GET", http1, fields));
                let (seen, said) = exchange(&rig, http1, &frames).await;
                wrong.extend(judge(&name("heads", row), &seen, &said, *want).err());
            }
            for (row, pieces, want) in ORDERS {
                let head = headers(&rig, "POST", http1, &[]);
                let frames = pieces.iter().flat_map(|&(kind, flags, data)| {
                    frame(kind, flags, 1, if kind == HEADERS { &head } else { data.as_bytes() })
                });
                let (seen, said) = exchange(&rig, http1, &frames.collect::<Vec<_>>()).await;
                wrong.extend(judge(&name("orders", row), &seen, &said, *want).err());
            }
            for (row, fields, want) in TRAILERS {
                for length in [&[][..], &[("content-length", "3")]] {
                    let frames = [
                        frame(HEADERS, END_HEADERS, 1, &headers(&rig, "POST", http1, length)),
                        frame(DATA, 0, 1, b"abc"),
                        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields)),
                    ];
                    let (seen, said) = exchange(&rig, http1, &frames.concat()).await;
                    wrong.extend(judge(&name("trailers", row), &seen, &said, *want).err());
                }
            }
        }
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn http1_means_the_same_to_an_app_with_http2() {
    within(async {
        let rig = Rig::strict_http2().await;
        let mut wrong = Vec::new();
        for (row, request, want) in HTTP1 {
            let last = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let said = rig.talk(Way::In, &[request, last].concat()).await;
            // What ends the connection says so.
            let said = if said.matches("HTTP/1.1 200").count() == 2 { said } else { said + "GOAWAY" };
            wrong.extend(judge(row, &rig.seen.take(), &said, *want).err());
        }
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    })
    .await;
}
