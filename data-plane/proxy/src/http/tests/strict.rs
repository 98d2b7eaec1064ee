//! Apps that take requests to the letter, and remember each: whether a proxy has framed them well.

use h2::server;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::*;

/// What no trailer may be, as it says how a message is to be read.
const NO_TRAILERS: [&str; 5] = ["content-length", "transfer-encoding", "host", "connection", "te"];
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl Rig {
    /// An app of HTTP/1.1. What isn't that, or isn't whole, is remembered as bad.
    pub(super) async fn strict_http1() -> Self {
        Self::listening(service(wire::Protocol::Http), wire::Protocol::Http, |stream, seen| async move {
            let mut stream = BufReader::new(stream);
            loop {
                match request(&mut stream).await {
                    Ok(None) => return,
                    Ok(Some(text)) => seen.borrow_mut().push(text),
                    Err(text) => return seen.borrow_mut().push(format!("BAD {text}")),
                }
                if stream.write_all(OK).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    /// An app of HTTP/2, which sees requests as the h2 crate does.
    pub(super) async fn strict_http2() -> Self {
        Self::http2(|stream, seen| async move {
            let mut connection = server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let seen = seen.clone();
                spawn_local(async move {
                    let (head, mut body) = request.into_parts();
                    let mut text = format!("{} {} HTTP/2\r\n", head.method, head.uri);
                    for (name, value) in &head.headers {
                        text.push_str(&format!("{name}: {}\r\n", value.as_bytes().escape_ascii()));
                    }
                    text.push_str("\r\n");
                    while let Some(data) = body.data().await {
                        let Ok(data) = data else { return };
                        let _ = body.flow_control().release_capacity(data.len());
                        text.push_str(&String::from_utf8_lossy(&data));
                    }
                    let trailers = body.trailers().await.ok().flatten().unwrap_or_default();
                    if trailers.keys().any(|name| NO_TRAILERS.contains(&name.as_str())) {
                        text.insert_str(0, "BAD ");
                    }
                    seen.borrow_mut().push(text);
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"ok"), true).unwrap();
                });
            }
        })
        .await
    }
}

/// Head and body of a request; `None` if there is none. A body that is cut short is no request.
async fn request(from: &mut BufReader<TcpStream>) -> Result<Option<String>, String> {
    let mut text = String::new();
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line).await.is_ok_and(|read| read == 0) {
            return if text.is_empty() { Ok(None) } else { Err(text) };
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        text.push_str(&line);
        match line.strip_suffix("\r\n") {
            Some("") => break,
            Some(line) => lines.push(line.to_owned()),
            None => return Err(text),
        }
    }
    let fields: Vec<_> = lines.iter().skip(1).filter_map(|line| line.split_once(": ")).collect();
    let all =
        |name: &str| -> Vec<&str> { fields.iter().filter(|field| field.0 == name).map(|field| field.1).collect() };
    let line_is_well = lines[0].split(' ').count() == 3
        && lines[0].ends_with(" HTTP/1.1")
        && (lines[0].contains(" /") || lines[0].starts_with("OPTIONS * "));
    let is_well = |(name, value): &(&str, &str)| !name.contains([' ', ':']) && value.trim() == *value;
    if !line_is_well || fields.len() + 1 != lines.len() || !fields.iter().all(is_well) || all("host").len() != 1 {
        return Err(text);
    }
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => {}
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let mut body = vec![0; length.parse().map_err(|_| text.clone())?];
            if from.read_exact(&mut body).await.is_err() {
                return Ok(None);
            }
            text.push_str(&String::from_utf8_lossy(&body));
        }
        ([], ["chunked"]) => loop {
            let mut line = String::new();
            from.read_line(&mut line).await.map_err(|_| text.clone())?;
            if line.is_empty() {
                return Ok(None);
            }
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_| text.clone())?;
            if size == 0 {
                return trailers(from, text).await.map(Some);
            }
            let mut chunk = vec![0; size + 2];
            if from.read_exact(&mut chunk).await.is_err() {
                return Ok(None);
            }
            text.push_str(&String::from_utf8_lossy(&chunk[..size]));
        },
        _ => return Err(text),
    }
    Ok(Some(text))
}

async fn trailers(from: &mut BufReader<TcpStream>, text: String) -> Result<String, String> {
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).await.is_err() || line.trim_end().is_empty() {
            return Ok(text);
        }
        if line.split_once(": ").is_none_or(|(name, _)| NO_TRAILERS.contains(&name)) {
            return Err(text + &line);
        }
    }
}
