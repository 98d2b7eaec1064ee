//! Answers of apps with HTTP/2 whose ends or fields can be read in two ways (RFC 9113 section 8): whoever called gets one
//! answer or none, and the next answer is never read as part of it.

use http::Method;

use super::*;
use crate::http2::frames::{END_HEADERS, block};

/// What a caller must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// That the app has no answer, or half an answer that can't be taken for a whole one.
    Broken,
    Whole(u16, &'static str),
    Any,
}

use Want::{Any, Broken, Whole};

type Fields = &'static [(&'static str, &'static str)];

/// An answer in pieces.
enum Piece {
    Head(Fields),
    Data(&'static str),
}

use Piece::{Data, Head};

const SMUGGLED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled";
const GET: Method = Method::GET;

/// What is asked for, and what the app says to that; the last piece ends its stream.
const TABLE: &[(&str, Method, &[Piece], Want)] = &[
    ("plain", GET, &[Head(&[(":status", "200")]), Data("abc")], Whole(200, "abc")),
    ("a length", GET, &[Head(&[(":status", "200"), ("content-length", "3")]), Data("abc")], Whole(200, "abc")),
    (
        "one length twice",
        GET,
        &[Head(&[(":status", "200"), ("content-length", "3"), ("content-length", "3")]), Data("abc")],
        Whole(200, "abc"),
    ),
    ("nothing", GET, &[Head(&[(":status", "200")])], Whole(200, "")),
    ("what looks like an answer", GET, &[Head(&[(":status", "200")]), Data(SMUGGLED)], Whole(200, SMUGGLED)),
    ("less than it says", GET, &[Head(&[(":status", "200"), ("content-length", "4")]), Data("abc")], Broken),
    ("nothing of what it says", GET, &[Head(&[(":status", "200"), ("content-length", "4")])], Broken),
    // A caller with HTTP/1.1 has an empty answer by the time that there is more, and then no connection.
    ("more than it says", GET, &[Head(&[(":status", "200"), ("content-length", "0")]), Data(SMUGGLED)], Any),
    (
        "more in the next frame",
        GET,
        &[Head(&[(":status", "200"), ("content-length", "3")]), Data("abc"), Data(SMUGGLED)],
        Any,
    ),
    (
        "two lengths",
        GET,
        &[Head(&[(":status", "200"), ("content-length", "3"), ("content-length", "0")]), Data("abc")],
        Broken,
    ),
    ("two lengths in one", GET, &[Head(&[(":status", "200"), ("content-length", "3, 3")]), Data("abc")], Broken),
    ("a sign", GET, &[Head(&[(":status", "200"), ("content-length", "+3")]), Data("abc")], Broken),
    ("a blank", GET, &[Head(&[(":status", "200"), ("content-length", " 3")]), Data("abc")], Broken),
    ("too long", GET, &[Head(&[(":status", "200"), ("content-length", "18446744073709551619")]), Data("abc")], Broken),
    ("chunked", GET, &[Head(&[(":status", "200"), ("transfer-encoding", "chunked")]), Data("0\r\n\r\n")], Broken),
    ("connection", GET, &[Head(&[(":status", "200"), ("connection", "close")]), Data("abc")], Broken),
    ("upgrade", GET, &[Head(&[(":status", "200"), ("upgrade", "websocket")]), Data("abc")], Broken),
    ("two statuses", GET, &[Head(&[(":status", "200"), (":status", "204")]), Data("abc")], Broken),
    ("no status", GET, &[Head(&[("x-a", "b")]), Data("abc")], Broken),
    ("a status behind a field", GET, &[Head(&[("x-a", "b"), (":status", "200")]), Data("abc")], Broken),
    ("a status of two digits", GET, &[Head(&[(":status", "20")]), Data("abc")], Broken),
    ("a status of four digits", GET, &[Head(&[(":status", "2000")]), Data("abc")], Broken),
    ("a status that is no number", GET, &[Head(&[(":status", "2x0")]), Data("abc")], Broken),
    ("a status with a blank", GET, &[Head(&[(":status", "200 ")]), Data("abc")], Broken),
    ("a status with a line's end", GET, &[Head(&[(":status", "200\r\nx-a: b")]), Data("abc")], Broken),
    ("status 099", GET, &[Head(&[(":status", "099")]), Data("abc")], Broken),
    ("a pseudo-header of requests", GET, &[Head(&[(":status", "200"), (":path", "/")]), Data("abc")], Any),
    ("an unknown pseudo-header", GET, &[Head(&[(":status", "200"), (":x", "y")]), Data("abc")], Broken),
    ("a line's end", GET, &[Head(&[(":status", "200"), ("x-a", "b\r\n\r\nc")]), Data("abc")], Broken),
    ("NUL", GET, &[Head(&[(":status", "200"), ("x-a", "b\0c")]), Data("abc")], Broken),
    ("a name with a colon", GET, &[Head(&[(":status", "200"), ("x-a:b", "c")]), Data("abc")], Broken),
    ("an upper-case name", GET, &[Head(&[(":status", "200"), ("X-A", "b")]), Data("abc")], Broken),
    (
        "an interim answer",
        GET,
        &[Head(&[(":status", "103")]), Head(&[(":status", "200")]), Data("abc")],
        Whole(200, "abc"),
    ),
    ("only an interim answer", GET, &[Head(&[(":status", "103")])], Broken),
    (
        "another protocol",
        GET,
        &[Head(&[(":status", "101")]), Head(&[(":status", "200")]), Data("abc")],
        Whole(200, "abc"),
    ),
    ("to HEAD", Method::HEAD, &[Head(&[(":status", "200"), ("content-length", "3")])], Whole(200, "")),
    ("to HEAD, a body", Method::HEAD, &[Head(&[(":status", "200")]), Data(SMUGGLED)], Any),
    (
        "to HEAD, a body and its length",
        Method::HEAD,
        &[Head(&[(":status", "200"), ("content-length", "50")]), Data(SMUGGLED)],
        Any,
    ),
    ("204", GET, &[Head(&[(":status", "204")])], Whole(204, "")),
    ("204 with a length", GET, &[Head(&[(":status", "204"), ("content-length", "8")])], Whole(204, "")),
    ("204 with a body", GET, &[Head(&[(":status", "204")]), Data(SMUGGLED)], Whole(204, "")),
    ("304 with a length", GET, &[Head(&[(":status", "304"), ("content-length", "8")])], Whole(304, "")),
    ("304 with a body", GET, &[Head(&[(":status", "304")]), Data(SMUGGLED)], Whole(304, "")),
    ("a trailer", GET, &[Head(&[(":status", "200")]), Data("abc"), Head(&[("x-end", "1")])], Whole(200, "abc")),
    (
        "a trailer of a length",
        GET,
        &[Head(&[(":status", "200")]), Data("abc"), Head(&[("content-length", "0")])],
        Whole(200, "abc"),
    ),
    (
        "a trailer of a coding",
        GET,
        &[Head(&[(":status", "200")]), Data("abc"), Head(&[("transfer-encoding", "chunked")])],
        Broken,
    ),
    ("a trailer of a status", GET, &[Head(&[(":status", "200")]), Data("abc"), Head(&[(":status", "500")])], Any),
    (
        "a trailer with a line's end",
        GET,
        &[Head(&[(":status", "200")]), Data("abc"), Head(&[("x-end", "1\r\n\r\nx")])],
        Broken,
    ),
];

const LAST: &str = "last";

/// An app that gives one answer by the table, and to everybody else what is in order.
async fn app(pieces: &'static [Piece]) -> Rig {
    Rig::http2(move |mut stream, seen| async move {
        stream.write_all(&[frame(SETTINGS, 0, 0, b""), frame(SETTINGS, 1, 0, b"")].concat()).await.unwrap();
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await.unwrap();
        while let Some(heard) = Heard::next(&mut stream).await {
            if heard.kind != HEADERS {
                continue;
            }
            let is_first = seen.borrow().is_empty();
            seen.borrow_mut().push(String::new());
            let pieces = if is_first { pieces } else { &[Head(&[(":status", "200")]), Data(LAST)] };
            for (at, piece) in pieces.iter().enumerate() {
                let end = if at + 1 == pieces.len() { END_STREAM } else { 0 };
                let frame = match piece {
                    Head(fields) => frame(HEADERS, END_HEADERS | end, heard.stream, &block(fields)),
                    Data(data) => frame(DATA, end, heard.stream, data.as_bytes()),
                };
                if stream.write_all(&frame).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// Statuses and bodies, as a client of HTTP/1.1 reads them that has asked by these methods. An answer that is cut short
/// has no body.
fn read(mut text: &str, methods: [&Method; 2]) -> Result<Vec<(u16, Option<String>)>, String> {
    let mut answers = Vec::new();
    for method in methods {
        if text.is_empty() {
            break;
        }
        let (head, rest) = text.split_once("\r\n\r\n").ok_or("no head")?;
        let status: u16 = head.get(9..12).and_then(|code| code.parse().ok()).ok_or("no status")?;
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        text = rest;
        let body = if *method == Method::HEAD || matches!(status, 204 | 304) {
            Some(String::new())
        } else if let Some(length) = field("content-length") {
            let length = length.parse::<usize>().map_err(|_| "a bad length")?;
            let whole = rest.split_at_checked(length);
            text = whole.map_or("", |(_, rest)| rest);
            whole.map(|(body, _)| body.to_owned())
        } else if field("transfer-encoding").is_some() {
            let (body, rest) = chunks(rest)?;
            text = rest;
            body
        } else {
            return Err(format!("an answer without an end: {head}"));
        };
        answers.push((status, body));
    }
    if text.is_empty() { Ok(answers) } else { Err(format!("what nobody has asked for: {text}")) }
}

fn chunks(mut text: &str) -> Result<(Option<String>, &str), String> {
    let mut body = String::new();
    loop {
        let Some((size, rest)) = text.split_once("\r\n") else { return Ok((None, "")) };
        let size = usize::from_str_radix(size, 16).map_err(|_| format!("a bad size: {size}"))?;
        if size == 0 {
            let (trailers, rest) = if let Some(rest) = rest.strip_prefix("\r\n") {
                ("", rest)
            } else {
                rest.split_once("\r\n\r\n").ok_or("trailers without an end")?
            };
            let bad = trailers.contains("content-length") || trailers.contains("transfer-encoding");
            return if bad { Err(format!("trailers: {trailers}")) } else { Ok((Some(body), rest)) };
        }
        let Some((chunk, rest)) = rest.split_at_checked(size) else { return Ok((None, "")) };
        body.push_str(chunk);
        text = rest.strip_prefix("\r\n").ok_or("a chunk without an end")?;
    }
}

fn judge(first: Option<(u16, Option<&str>)>, want: Want) -> bool {
    match want {
        Broken => first.is_none_or(|(status, body)| status == 502 || body.is_none()),
        Whole(status, body) => first == Some((status, Some(body))),
        Any => true,
    }
}

#[tokio::test]
async fn an_answer_by_http2_is_one_answer_or_none() {
    within(async {
        let mut wrong = Vec::new();
        for (row, method, pieces, want) in TABLE {
            let rig = app(pieces).await;
            let asked = format!(
                "{method} /x HTTP/1.1\r\nhost: a\r\n\r\nGET /y HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
            );
            let text = rig.talk(Way::In, &asked).await;
            let well = read(&text, [method, &GET]).is_ok_and(|answers| {
                let first = answers.first().map(|(status, body)| (*status, body.as_deref()));
                let last_is_own = answers.get(1).is_none_or(|last| *last == (200, Some(LAST.to_owned())));
                // Whoever got a whole answer gets the next one.
                let goes_on = *want == Any || answers.len() == 2 || first.is_none_or(|(_, body)| body.is_none());
                judge(first, *want) && last_is_own && goes_on
            });
            if !well {
                wrong.push(format!("to HTTP/1: {row}: {want:?}: {text:?}"));
            }
            assert_eq!((rig.streams(), rig.in_flight()), (0, 0), "{row}");

            let rig = app(pieces).await;
            let ask = |stream, method: &Method| {
                let fields = [(":method", method.as_str()), (":scheme", "http"), (":authority", "a"), (":path", "/x")];
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields))
            };
            let [first, last] = rig.talk_http2(false, &[ask(1, method), ask(3, &GET)].concat()).await;
            let status = |told: &Told| match told.blocks.first().and_then(|block| block.first()) {
                Some(0x88) => 200,
                Some(0x89) => 204,
                Some(0x8b) => 304,
                Some(_) => 502,
                None => 0,
            };
            let whole = |told: &Told| (told.end == "END_STREAM").then(|| told.body.clone());
            let heard = whole(&first);
            // What ends the app's connection ends both.
            let last_is_own = status(&last) != 200 || whole(&last).is_none_or(|body| body == LAST);
            if !judge(Some((status(&first), heard.as_deref())), *want) || !last_is_own {
                wrong.push(format!("to HTTP/2: {row}: {want:?}: {first:?}, {last:?}"));
            }
            assert_eq!((rig.streams(), rig.in_flight()), (0, 0), "{row}");
        }
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    })
    .await;
}
