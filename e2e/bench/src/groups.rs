//! What is measured, in the order in which it is, and how each part is shown.

use anyhow::Result;
use clap::ValueEnum;

use crate::{data::Tables, measure::Plan, sheet::Sheet, stage::Stage};

mod calls;
mod changes;
mod instructions;
pub(crate) mod memory;
mod recovery;
mod sheets;
mod start;
pub(crate) mod traffic;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// HTTP/1.1 through one proxy
    Http1,
    /// Two sidecars with mutual TLS, beside two Envoys and one nginx hop
    Pair,
    /// HTTP/2 through one proxy
    Http2,
    /// gRPC, unary and streaming, through one proxy and through pairs
    Grpc,
    /// Bytes without meaning, plain and over mutual TLS
    Tcp,
    /// New connections, and handshakes
    Connections,
    /// CPU time at a fixed, low rate
    Fixed,
    /// Latency over load that doesn't wait for answers
    OpenLoop,
    /// System calls and context switches per request
    Calls,
    /// Instructions in user space per request, by valgrind; slow, so only if asked for
    Instructions,
    /// Idle, and with ten thousand idle connections
    Memory,
    /// Start of a process to its first answer
    Start,
    /// An object is written, until the first request is served by it
    Changes,
    /// Processes are killed and stopped under load
    Recovery,
}

// === impl Group ===

impl Group {
    /// In the data and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Pair => "pair",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Connections => "connections",
            Self::Fixed => "fixed",
            Self::OpenLoop => "open-loop",
            Self::Calls => "calls",
            Self::Instructions => "instructions",
            Self::Memory => "memory",
            Self::Start => "start",
            Self::Changes => "changes",
            Self::Recovery => "recovery",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1 through one proxy, 1 KB",
            Self::Pair => "Two sidecars with mutual TLS, HTTP/1.1, 1 KB",
            Self::Http2 => "HTTP/2 through one proxy, 1 KB",
            Self::Grpc => "gRPC echo, 1 KB",
            Self::Tcp => "Opaque TCP",
            Self::Connections => "New connections",
            Self::Fixed => "At 1,000 requests a second",
            Self::OpenLoop => "Latency over load",
            Self::Calls => "System calls and context switches",
            Self::Instructions => "Instructions in user space",
            Self::Memory => "Memory",
            Self::Start => "Start",
            Self::Changes => "Changes of configuration",
            Self::Recovery => "Recovery",
        }
    }

    pub(crate) fn measure(self, stage: &mut Stage, plan: &Plan) -> Result<Tables> {
        match self {
            Self::Http1 => traffic::http1(stage, plan),
            Self::Pair => traffic::pair(stage, plan),
            Self::Http2 => traffic::http2(stage, plan),
            Self::Grpc => traffic::grpc(stage, plan),
            Self::Tcp => traffic::tcp(stage, plan),
            Self::Connections => traffic::connections(stage, plan),
            Self::Fixed => traffic::fixed(stage, plan),
            Self::OpenLoop => traffic::open_loop(stage, plan),
            Self::Calls => calls::calls(stage, plan),
            Self::Instructions => instructions::instructions(stage),
            Self::Memory => memory::memory(stage, plan),
            Self::Start => start::start(stage, plan),
            Self::Changes => changes::changes(stage, plan),
            Self::Recovery => recovery::recovery(stage),
        }
    }

    pub(crate) fn sheets(self) -> &'static [Sheet] {
        match self {
            Self::Http1 => sheets::HTTP1,
            Self::Pair => sheets::PAIR,
            Self::Http2 => sheets::HTTP2,
            Self::Grpc => sheets::GRPC,
            Self::Tcp => sheets::TCP,
            Self::Connections => sheets::CONNECTIONS,
            Self::Fixed => sheets::FIXED,
            Self::OpenLoop => sheets::OPEN_LOOP,
            Self::Calls => sheets::CALLS,
            Self::Instructions => sheets::INSTRUCTIONS,
            Self::Memory => sheets::MEMORY,
            Self::Start => sheets::START,
            Self::Changes => sheets::CHANGES,
            Self::Recovery => sheets::RECOVERY,
        }
    }
}
