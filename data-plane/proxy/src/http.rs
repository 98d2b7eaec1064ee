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
pub(crate) use deliver::{App, Arrival, CONNECT, Effective, Standing, deliver, unauthenticated};
pub(crate) use error::RequestError;
pub(crate) use exchange::{Exchange, no_name};
pub(crate) use forward::{Caller, Departure, forward, turned_away};
use quiet::Quiet;
pub(crate) use send::copy;
pub(crate) use serve::{serve_http1, serve_http2};
pub(crate) use upgrade::Upgrading;

/// What fuzz targets try of a request's way.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    use http::Request;

    use super::{
        RequestError,
        head::{as_http1, normalise_path, one_host, strip_internal},
    };

    pub(crate) use super::head::strip_hop_by_hop;

    /// As a request leaves, unless it is refused.
    pub(crate) fn leave(request: &mut Request<()>) -> Result<(), RequestError> {
        one_host(request)?;
        strip_hop_by_hop(request.headers_mut());
        strip_internal(request.headers_mut());
        normalise_path(request)?;
        as_http1(request)
    }
}

#[cfg(test)]
mod tests;

/// Boxes a future where it is made: it isn't made first and then copied, which for a request's is kilobytes.
pub(crate) fn boxed<F>(make: impl FnOnce() -> F) -> std::pin::Pin<Box<F>> {
    let room = Box::new_uninit();
    Box::into_pin(Box::write(room, make()))
}
