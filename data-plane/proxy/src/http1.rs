//! HTTP/1.1 (RFC 9112) on both sides, with neither a task nor a channel of its own: a request's task writes it and reads
//! its answer, and a caller's connection is one future. Heads are parsed by the httparse crate. Where a message ends is
//! decided in `parse` and `decode`; what two readers could understand in two ways is refused.

mod body;
mod client;
mod decode;
mod encode;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod parse;
mod server;
mod wire;
mod write;

use std::io;

use http::StatusCode;

pub(crate) use body::Receiving;
pub(crate) use client::{Answer, Connection, send};
pub(crate) use decode::is_framing;
pub(crate) use server::{Ending, serve};

/// Why a connection can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the connection ended within a message")]
    Cut,
    #[error("a head that can't be read: {0}")]
    Syntax(#[from] httparse::Error),
    #[error("a head that is too large")]
    TooLarge,
    #[error("malformed: {0}")]
    Malformed(&'static str),
    #[error("a transfer coding other than chunked")]
    Coding,
    #[error("the body that was to be sent broke off")]
    Source,
}

impl Error {
    /// What a caller is told; `None`: nobody is there to be told.
    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Io(_) | Self::Cut | Self::Source => None,
            Self::TooLarge | Self::Syntax(httparse::Error::TooManyHeaders) => {
                Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            Self::Syntax(_) | Self::Malformed(_) => Some(StatusCode::BAD_REQUEST),
            Self::Coding => Some(StatusCode::NOT_IMPLEMENTED),
        }
    }
}

#[cfg(test)]
mod tests;
