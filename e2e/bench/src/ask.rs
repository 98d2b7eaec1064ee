//! Requests by hand, where a load generator says too little: whether something answers, and exactly so many of them.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::net::Namespace;

/// Whoever hasn't answered by then, doesn't.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether a request over a new connection, made in that namespace, is answered with 200.
pub(crate) fn answers(namespace: &Namespace, to: SocketAddr) -> bool {
    namespace.connect(to, PATIENCE).is_ok_and(|mut stream| exchange(&mut stream, 1, PATIENCE).is_ok())
}

/// Requests one after the other over one connection; each is answered with 200. The last answer, whole.
pub(crate) fn exchange(stream: &mut TcpStream, requests: usize, patience: Duration) -> Result<Vec<u8>> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    let mut answer = Vec::with_capacity(4096);
    for _ in 0..requests {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n").context("a request")?;
        answer.clear();
        while !is_whole(&answer) {
            let mut part = [0; 4096];
            match stream.read(&mut part).context("an answer")? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                n => answer.extend_from_slice(&part[..n]),
            }
        }
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..answer.len().min(80)]));
    }
    Ok(answer)
}

/// Of an answer that says how long it is, as those of the backends do.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    answer.len() >= head + 4 + length.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_where_they_say() {
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx"));
        assert!(is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxx"));
    }
}
