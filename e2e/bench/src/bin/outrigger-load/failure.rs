//! Why a request failed, in the few words that failures are counted by.

use std::{borrow::Cow, fmt, io};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// An answer other than 2xx. The connection goes on.
    Status(u16),
    /// A gRPC answer other than OK. The connection goes on.
    Grpc(String),
    /// The connection can't be had or broke.
    Broken(Cow<'static, str>),
    /// The peer said what it must not say. Nothing more can be read on that connection.
    Wrong(&'static str),
}

impl Failure {
    pub(crate) const CLOSED: Self = Self::Broken(Cow::Borrowed("closed"));

    /// Whether the next request needs a new connection.
    pub(crate) fn broke(&self) -> bool {
        match self {
            Self::Status(_) | Self::Grpc(_) => false,
            Self::Broken(_) | Self::Wrong(_) => true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Grpc(status) => write!(f, "grpc-status {status}"),
            Self::Broken(how) => f.write_str(how),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        Self::Broken(match error.kind() {
            io::ErrorKind::ConnectionRefused => "refused".into(),
            io::ErrorKind::ConnectionReset => "reset".into(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => "closed".into(),
            io::ErrorKind::AddrNotAvailable => "no free port (net.ipv4.tcp_tw_reuse=1 helps)".into(),
            kind => kind.to_string().into(),
        })
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        match (error.get_io(), error.reason()) {
            (Some(io), _) => io.into(),
            (None, Some(reason)) if error.is_go_away() => Self::Broken(format!("goaway {reason:?}").into()),
            (None, Some(reason)) if error.is_reset() => Self::Broken(format!("stream reset {reason:?}").into()),
            (None, _) => Self::Broken(error.to_string().into()),
        }
    }
}
