//! The access log: one record per request or opaque connection. Workers only hand records over; one thread formats
//! and writes them. When it can't keep up, records are dropped and counted, and traffic goes on.

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Method, uri::PathAndQuery};
use outrigger_wire::SpiffeId;

use super::series::{Direction, Total};

mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

/// What is known of a request or connection when it has ended. Making one copies no text.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it began.
    pub time: SystemTime,
    pub direction: Direction,
    /// `http/1.1`, `http/2`, `tcp`, …
    pub protocol: &'static str,
    pub method: Option<Method>,
    /// As asked for. The query isn't written: secrets travel in it.
    pub path: Option<PathAndQuery>,
    pub host: Option<HeaderValue>,
    /// HTTP status that was answered.
    pub status: Option<u16>,
    pub grpc_status: Option<u16>,
    pub duration: Duration,
    /// Bytes of the request's body, or from the caller.
    pub received: u64,
    /// Bytes of the response's body, or to the caller.
    pub sent: u64,
    pub service: Option<Arc<str>>,
    pub route: Option<Arc<str>>,
    /// The access policy that decided.
    pub policy: Option<Arc<str>>,
    /// Where it was sent.
    pub endpoint: Option<SocketAddr>,
    /// Where it came from.
    pub source: Option<SocketAddr>,
    /// On whose behalf.
    pub caller: Option<SpiffeId>,
    /// The other end's proved identity.
    pub peer: Option<SpiffeId>,
    /// What was out of the ordinary: `denied`, `no_route`, `upstream_connect`, `fallback`, …; empty for nothing.
    pub reason: &'static str,
    pub trace_id: Option<u128>,
    /// Generation of the configuration that decided.
    pub generation: u64,
}

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    Off,
    /// One JSON object per line.
    #[default]
    Json,
    /// One line of `key=value`, for people.
    Text,
}

/// Takes records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// `None`: off.
    records: Option<SyncSender<Record>>,
    dropped: Arc<Total>,
}

/// Not a known [`LogFormat`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("access log format must be off, json or text, not {0:?}")]
pub struct UnknownFormat(String);

/// Records that wait to be written.
const CAPACITY: usize = 4096;

/// Written at once, at most, in bytes.
const BATCH: usize = 64 * 1024;

// === impl Record ===

impl Record {
    /// With nothing but its beginning.
    pub fn new(direction: Direction, protocol: &'static str, time: SystemTime) -> Self {
        Self {
            time,
            direction,
            protocol,
            method: None,
            path: None,
            host: None,
            status: None,
            grpc_status: None,
            duration: Duration::ZERO,
            received: 0,
            sent: 0,
            service: None,
            route: None,
            policy: None,
            endpoint: None,
            source: None,
            caller: None,
            peer: None,
            reason: "",
            trace_id: None,
            generation: 0,
        }
    }
}

// === impl LogFormat ===

impl std::str::FromStr for LogFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(UnknownFormat(text.into())),
        }
    }
}

// === impl AccessLog ===

impl AccessLog {
    /// Writes to standard output, from a thread of its own that ends with the last clone.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn stdout(format: LogFormat, dropped: Arc<Total>) -> io::Result<Self> {
        Self::to(format, dropped, io::stdout()).map(|(log, _)| log)
    }

    /// Writes nothing.
    pub fn off() -> Self {
        Self { records: None, dropped: Arc::default() }
    }

    /// Whether records are wanted at all.
    pub fn enabled(&self) -> bool {
        self.records.is_some()
    }

    /// Never waits.
    pub fn write(&self, record: Record) {
        if let Some(records) = &self.records
            && records.try_send(record).is_err()
        {
            self.dropped.inc();
        }
    }

    fn to(
        format: LogFormat,
        dropped: Arc<Total>,
        out: impl Write + Send + 'static,
    ) -> io::Result<(Self, Option<thread::JoinHandle<()>>)> {
        if format == LogFormat::Off {
            return Ok((Self { records: None, dropped }, None));
        }
        let (records, queue) = sync_channel(CAPACITY);
        let lost = dropped.clone();
        let writer =
            thread::Builder::new().name("access-log".into()).spawn(move || write_all(&queue, format, out, &lost))?;
        Ok((Self { records: Some(records), dropped }, Some(writer)))
    }
}

/// Writes batches of what has queued up, so that a busy log costs few system calls and an idle one is prompt.
fn write_all(queue: &Receiver<Record>, format: LogFormat, mut out: impl Write, lost: &Total) {
    let mut batch = Vec::new();
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        let mut count = 0;
        while let Some(record) = next {
            format::line(&mut batch, &record, format);
            count += 1;
            next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        // A reader that is gone, or a full disk, must not stop traffic.
        if out.write_all(&batch).and_then(|()| out.flush()).is_err() {
            lost.add(count);
        }
        batch.clear();
    }
}

#[cfg(test)]
mod tests;
