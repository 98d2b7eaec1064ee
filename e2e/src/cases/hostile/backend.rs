//! An app that trusts its proxy: it reads HTTP/1.1 to the letter and remembers every request that it was given.
//!
//! | path | behaviour |
//! |---|---|
//! | `/hold` | no answer; reads on, so that it sees when its caller has gone |
//! | `/stall` | no answer; reads no more |
//! | else | 200, with `x-backend: raw` |

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use outrigger_testbed::net::Namespace;

use super::listening::Listening;

pub(super) const PORT: u16 = 8081;

/// In the answers that are the backend's own.
pub(super) const MARK: &[u8] = b"x-backend: raw";

/// Ends when it is dropped: those that stall are let go, those that read see their callers go.
pub(super) struct Backend {
    shared: Arc<Shared>,
    _listening: Listening,
}

#[derive(Default)]
struct Shared {
    /// Heads and bodies; what isn't HTTP begins with `BAD`.
    seen: Mutex<Vec<String>>,
    held: AtomicUsize,
    over: Mutex<bool>,
    let_go: Condvar,
}

// === impl Backend ===

impl Backend {
    pub(super) fn start(namespace: &Arc<Namespace>) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let of_listener = shared.clone();
        let listening = Listening::start(namespace, PORT, move |stream| drop(of_listener.serve(&stream)))?;
        Ok(Self { shared, _listening: listening })
    }

    /// What was given to it since the last look.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.shared.seen))
    }

    pub(super) fn seen(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    /// Requests that it works on and whose callers haven't gone.
    pub(super) fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        *lock(&self.shared.over) = true;
        self.shared.let_go.notify_all();
    }
}

// === impl Shared ===

impl Shared {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        while let Some((path, text)) = self.request(&mut reader)? {
            lock(&self.seen).push(text);
            match path.as_str() {
                "/hold" => {
                    self.held.fetch_add(1, Ordering::Relaxed);
                    let gone = io::copy(&mut reader, &mut io::sink());
                    self.held.fetch_sub(1, Ordering::Relaxed);
                    return gone.map(drop);
                }
                "/stall" => {
                    let over = self.let_go.wait_while(lock(&self.over), |over| !*over);
                    drop(over);
                    return Ok(());
                }
                _ => (&*stream).write_all(b"HTTP/1.1 200 OK\r\nx-backend: raw\r\ncontent-length: 3\r\n\r\nok\n")?,
            }
        }
        Ok(())
    }

    /// Path, and the whole request as text. Anything that a strict reader would refuse is remembered as bad.
    fn request(&self, reader: &mut impl BufRead) -> io::Result<Option<(String, String)>> {
        let mut head = String::new();
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            head.push_str(&line);
            match line.strip_suffix("\r\n") {
                Some("") => break,
                Some(line) => lines.push(line.to_owned()),
                None => return Err(self.bad(&head)),
            }
        }
        let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
        let fields = || lines.iter().skip(1).filter_map(|line| line.split_once(": "));
        let all = |name: &str| -> Vec<&str> {
            fields().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
        };
        let well = fields().count() + 1 == lines.len() && lines[0].ends_with(" HTTP/1.1") && all("host").len() == 1;
        let body = match (all("content-length").as_slice(), all("transfer-encoding").as_slice()) {
            _ if !well => return Err(self.bad(&head)),
            // What is held or stalled isn't read here.
            _ if matches!(path.as_str(), "/hold" | "/stall") => Vec::new(),
            ([], []) => Vec::new(),
            ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                let mut body = vec![0; length.parse().map_err(io::Error::other)?];
                reader.read_exact(&mut body)?;
                body
            }
            ([], ["chunked"]) => chunks(reader)?,
            _ => return Err(self.bad(&head)),
        };
        Ok(Some((path, head + &String::from_utf8_lossy(&body))))
    }

    fn bad(&self, head: &str) -> io::Error {
        lock(&self.seen).push(format!("BAD {head}"));
        io::ErrorKind::InvalidData.into()
    }
}

fn chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = u64::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        reader.by_ref().take(length).read_to_end(&mut body)?;
        reader.read_line(&mut line)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
