//! HTTP: serving connections, carrying requests on, answering errors. Every request ends in exactly one record.

mod body;
mod deliver;
mod error;
mod exchange;
mod filters;
mod forward;
mod head;
mod quiet;
mod send;
mod serve;
mod upgrade;

pub(crate) use body::{Arriving, Relay};
pub(crate) use deliver::{App, Arrival, CONNECT, Effective, deliver, unauthenticated};
pub(crate) use error::RequestError;
pub(crate) use exchange::{Exchange, no_name};
pub(crate) use forward::{Caller, Departure, forward};
use quiet::Quiet;
pub(crate) use serve::{serve_http1, serve_http2};
pub(crate) use upgrade::Upgrading;

/// Boxes a future where it is made: it isn't made first and then copied, which for a request's is kilobytes.
pub(crate) fn boxed<F>(make: impl FnOnce() -> F) -> std::pin::Pin<Box<F>> {
    let room = Box::new_uninit();
    Box::into_pin(Box::write(room, make()))
}
