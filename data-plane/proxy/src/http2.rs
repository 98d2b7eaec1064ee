//! HTTP/2 (RFC 9113) on both sides, by the h2 crate driven directly: what a connection has to write in one pass of the
//! event loop goes out in one write, and under TLS in one record.

mod alive;
mod body;
mod client;
mod gather;
mod server;
mod tunnel;

pub(crate) use body::Receiving;
pub(crate) use client::{Connection, Full, Settings, open, send};
pub(crate) use server::serve;
pub(crate) use tunnel::Tunnel;

/// Of one stream, in bytes; a connection has four times as much.
const WINDOW: u32 = 1 << 20;

#[cfg(test)]
pub(crate) mod frames;
#[cfg(test)]
mod tests;
