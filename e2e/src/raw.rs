//! HTTP/1 as bytes on a socket, from both ends: nothing between a test and what the proxies make of it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use outrigger_testbed::Pod;

/// Anything that takes longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: BufReader<TcpStream>,
}

/// A request or an answer, taken apart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    /// The request line or the status line.
    pub(crate) first: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) chunked: bool,
}

/// A listener inside of a pod, each connection served by a thread; it ends with its owner.
#[derive(Debug)]
pub(crate) struct Server {
    stop: TcpStream,
    pub(crate) address: SocketAddr,
}

// === impl Server ===

impl Server {
    /// Listens on all addresses of the pod.
    pub(crate) fn in_pod<F>(pod: &Pod, port: u16, each: F) -> Result<Self>
    where
        F: Fn(TcpStream) -> Result<()> + Clone + Send + 'static,
    {
        let listener = pod.namespace.within(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))??;
        Self::of(listener, each)
    }

    pub(crate) fn of<F>(listener: TcpListener, each: F) -> Result<Self>
    where
        F: Fn(TcpStream) -> Result<()> + Clone + Send + 'static,
    {
        let address = listener.local_addr()?;
        // The one way of std to end a listener that another thread waits on.
        let stop = TcpStream::from(OwnedFd::from(listener.try_clone()?));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let each = each.clone();
                // What a connection ends by shows at its other end.
                thread::spawn(move || each(stream));
            }
        });
        Ok(Self { stop, address })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.stop.shutdown(Shutdown::Both);
    }
}

// === impl Wire ===

impl Wire {
    /// Connects as an app of the pod.
    pub(crate) fn open(pod: &Pod, to: SocketAddr) -> Result<Self> {
        Self::of(pod.namespace.connect(to, PATIENCE).with_context(|| format!("connect to {to}"))?)
    }

    pub(crate) fn of(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref()).context("write")
    }

    /// No more will be sent.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.stream.get_mut().shutdown(Shutdown::Write).context("half-close")
    }

    pub(crate) fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).with_context(|| format!("read of {length} bytes"))?;
        Ok(bytes)
    }

    pub(crate) fn until_end(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).context("read to the end")?;
        Ok(bytes)
    }

    /// A writer of its own, for sending while reading.
    pub(crate) fn writer(&self) -> Result<TcpStream> {
        self.stream.get_ref().try_clone().context("a second handle")
    }

    /// What has been read of the connection, and by nobody yet: it comes before what the connection has.
    pub(crate) fn buffered(&mut self) -> std::io::Cursor<Vec<u8>> {
        let bytes = self.stream.buffer().to_vec();
        self.stream.consume(bytes.len());
        std::io::Cursor::new(bytes)
    }

    /// Sends a whole request without a body and takes its answer.
    pub(crate) fn ask(&mut self, line: &str, headers: &str) -> Result<Message> {
        self.send(format!("{line} HTTP/1.1\r\nhost: raw\r\n{headers}\r\n"))?;
        if line.starts_with("HEAD ") { self.head() } else { self.message() }
    }

    /// Up to the empty line.
    pub(crate) fn head(&mut self) -> Result<Message> {
        let first = self.line()?;
        Ok(Message { first, headers: self.fields()?, ..Message::default() })
    }

    /// Head, body and trailers.
    pub(crate) fn message(&mut self) -> Result<Message> {
        let head = self.head()?;
        self.rest(head)
    }

    /// What follows a head.
    pub(crate) fn rest(&mut self, mut message: Message) -> Result<Message> {
        let bodiless = matches!(message.status(), Some(100..=199 | 204 | 304));
        if bodiless {
        } else if message.header("transfer-encoding") == Some("chunked") {
            self.chunks(&mut message)?;
        } else if let Some(length) = message.header("content-length") {
            let length = length.parse().context("content-length")?;
            message.body = self.exactly(length)?;
        } else if message.status().is_some() {
            message.body = self.until_end()?;
        }
        Ok(message)
    }

    fn chunks(&mut self, message: &mut Message) -> Result<()> {
        message.chunked = true;
        loop {
            let size = self.line()?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16);
            let size = size.context("a chunk's size")?;
            if size == 0 {
                message.trailers = self.fields()?;
                return Ok(());
            }
            message.body.extend(self.exactly(size)?);
            ensure!(self.line()?.is_empty(), "a chunk that doesn't end with its size");
        }
    }

    fn fields(&mut self) -> Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').with_context(|| format!("not a field: {line:?}"))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("read of a line")?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => bail!("the connection ended at {line:?}"),
        }
    }
}

// === impl Message ===

impl Message {
    /// Of an answer.
    pub(crate) fn status(&self) -> Option<u16> {
        self.first.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The echo of our HTTP app.
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{} {:?}", self.first, self.text()))
    }

    pub(crate) fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status() == Some(status),
            "{} instead of {status}: {:?} {:?}",
            self.first,
            self.headers,
            self.text()
        );
        Ok(self)
    }
}

/// Bytes that no two offsets share, so that a lost or doubled piece shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Runs every check, and fails with the names of all that failed.
pub(crate) fn every(checks: Vec<(String, Result<()>)>) -> Result<()> {
    let failed: Vec<_> = checks
        .into_iter()
        .filter_map(|(name, result)| result.err().map(|error| format!("\n  {name}: {error:#}")))
        .collect();
    ensure!(failed.is_empty(), "{}", failed.concat());
    Ok(())
}
