//! One question of the verdict table, and asking it as an app would: over a connection of its own.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use outrigger_testbed::{
    Outcome, Pod,
    apps::store::GREETING,
    call::{Target, once},
};

/// Everything here is answered within milliseconds; this is how long a hang lasts.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// `NAMESPACE/NAME`; the service account is called the same.
    pub(super) pod: &'static str,
    pub(super) meshed: bool,
    pub(super) addresses: [IpAddr; 2],
}

#[derive(Debug, Clone)]
pub(super) enum Ask {
    Http {
        method: &'static str,
        /// As it is sent.
        path: &'static str,
        /// What it means.
        plain_path: &'static str,
        host: &'static str,
        plain_host: &'static str,
        headers: &'static [(&'static str, &'static str)],
    },
    Grpc,
    /// The store, which speaks first.
    Store,
}

#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) caller: Caller,
    pub(super) to: SocketAddr,
    /// Port of the workload.
    pub(super) port: u16,
    pub(super) ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// By which policy, where that is told: not by gRPC's status, nor by a connection that is closed.
    Denied(Option<String>),
    /// The path or the host is refused as such.
    BadRequest,
    Other(String),
}

// === impl Ask ===

impl Ask {
    pub(super) fn get(path: &'static str) -> Self {
        Self::http("GET", path)
    }

    pub(super) fn http(method: &'static str, path: &'static str) -> Self {
        let (host, plain_host) = ("vault.shop", "vault.shop");
        Self::Http { method, path, plain_path: path, host, plain_host, headers: &[] }
    }

    /// `path` may be read as `plain_path` by an app.
    pub(super) fn trick(path: &'static str, plain_path: &'static str) -> Self {
        let (host, plain_host) = ("vault.shop", "vault.shop");
        Self::Http { method: "GET", path, plain_path, host, plain_host, headers: &[] }
    }

    pub(super) fn hosted(host: &'static str, plain_host: &'static str) -> Self {
        Self::Http { method: "GET", path: "/", plain_path: "/", host, plain_host, headers: &[] }
    }

    /// `target` in absolute form names `plain_host`, whatever the Host header says (RFC 9112 section 3.2.2).
    pub(super) fn absolute(target: &'static str, host: &'static str, plain_host: &'static str) -> Self {
        Self::Http { method: "GET", path: target, plain_path: "/", host, plain_host, headers: &[] }
    }

    pub(super) fn with_headers(path: &'static str, headers: &'static [(&'static str, &'static str)]) -> Self {
        let (host, plain_host) = ("vault.shop", "vault.shop");
        Self::Http { method: "GET", path, plain_path: path, host, plain_host, headers }
    }

    /// Whether the answer need not be that of the plain form, as long as it allows nothing that the plain form doesn't.
    pub(super) fn may_be_refused(&self, verdict: &Verdict) -> bool {
        let Self::Http { path, plain_path, host, plain_host, .. } = self else { return false };
        match verdict {
            Verdict::BadRequest => path != plain_path || host != plain_host,
            // An encoded slash may separate segments or not, parameters may count or not: what allows must allow both.
            Verdict::Denied(_) => ["%2f", "%2F", ";", "%3B"].iter().any(|mark| path.contains(mark)),
            Verdict::Allowed | Verdict::Other(_) => false,
        }
    }
}

/// Asks each from inside of the pod.
pub(super) fn ask_all(pod: &Pod, questions: &[Question]) -> Result<Vec<Verdict>> {
    pod.namespace.within(|| questions.iter().map(ask).collect::<Result<Vec<_>>>())?
}

fn ask(question: &Question) -> Result<Verdict> {
    match &question.ask {
        Ask::Http { method, path, host, headers, .. } => {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
            );
            Ok(match exchange(question.to, &request) {
                Ok(answer) => http_verdict(&answer),
                Err(error) => Verdict::Other(error.to_string()),
            })
        }
        Ask::Grpc => {
            let target: Target = format!("grpc://{}", question.to).parse().map_err(anyhow::Error::msg)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
            let headers = http::HeaderMap::new();
            let called = runtime.block_on(async { tokio::time::timeout(PATIENCE, once(&target, 1, &headers)).await });
            Ok(match called {
                Ok(Ok(_)) => Verdict::Allowed,
                Ok(Err(Outcome::Grpc(7))) => Verdict::Denied(None),
                Ok(Err(other)) => Verdict::Other(format!("{other:?}")),
                Err(_) => Verdict::Other("no answer".to_owned()),
            })
        }
        Ask::Store => Ok(match greeting(question.to) {
            Ok(said) if said.starts_with(GREETING.as_bytes()) => Verdict::Allowed,
            Ok(said) if said.is_empty() => Verdict::Denied(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Verdict::Denied(None),
            other => Verdict::Other(format!("{other:?}")),
        }),
    }
}

/// Sends text and reads to the end.
pub(super) fn exchange(to: SocketAddr, text: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // What had come counts.
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset || answer.is_empty() => Err(error),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// The first bytes that a server says by itself; none if it closes.
pub(super) fn greeting(to: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = [0; 64];
    let length = stream.read(&mut said)?;
    Ok(said[..length].to_vec())
}

/// What an HTTP/1.1 answer says.
pub(super) fn http_verdict(answer: &str) -> Verdict {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let denied_by = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("outrigger-denied-by").then(|| value.trim().to_owned())
    });
    match head.split(' ').nth(1) {
        Some("200") => Verdict::Allowed,
        Some("403") => Verdict::Denied(denied_by),
        Some("400") => Verdict::BadRequest,
        _ => Verdict::Other(head.to_owned()),
    }
}
