//! Changing the protocol of a connection: HTTP/1.1 Upgrade (RFC 9110 section 7.8) at the ends, extended CONNECT
//! (RFC 8441) between proxies. Not one byte goes through before the far end has agreed.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use h2::ext::Protocol;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use outrigger_wire::names::headers;
use tokio::sync::oneshot;

use super::{Arriving, Exchange, Relay, error::RequestError, head};
use crate::{pump::pump, stream::Io};

/// A request that wants to change the protocol.
pub(crate) struct Upgrade {
    protocol: HeaderValue,
    /// Of the HTTP/1.1 form.
    method: Method,
    /// The request came as an extended CONNECT.
    extended: bool,
    downstream: Changed,
}

/// An extension of a request that may change the protocol: the caller's stream comes when the answer has agreed.
#[derive(Clone)]
pub(crate) struct Upgrading(Arc<Mutex<Option<Changed>>>);

type Changed = oneshot::Receiver<Box<dyn Io>>;

impl Upgrade {
    /// Looks whether this request is one. What method it was made with is a proxy's word: only who `may_say` is believed.
    pub(crate) fn take(request: &mut Request<Arriving>, may_say: bool) -> Option<Self> {
        if let Some(protocol) = request.extensions().get::<Protocol>()
            && head::may_change_to(protocol.as_str().as_bytes())
            && let Some(downstream) = Upgrading::take(request)
        {
            let protocol = HeaderValue::from_str(protocol.as_str()).ok()?;
            let method = request.headers().get(headers::METHOD).filter(|_| may_say);
            let method = method.and_then(|name| Method::from_bytes(name.as_bytes()).ok()).unwrap_or(Method::GET);
            request.extensions_mut().remove::<Protocol>();
            // Routes and policies judge the request that the app's caller made.
            *request.method_mut() = method.clone();
            return Some(Self { protocol, method, extended: true, downstream });
        }
        let protocol = head::upgrade_of(request)?;
        Some(Self {
            protocol,
            method: request.method().clone(),
            extended: false,
            downstream: Upgrading::take(request)?,
        })
    }

    /// Whether the far end changes to the protocol.
    pub(crate) fn agreed(response: &Response<Arriving>) -> bool {
        matches!(response.body(), Arriving::Tunnel(_))
    }

    /// An app may answer an Upgrade without changing the protocol. As the answer to a CONNECT a 2xx would mean that it
    /// has, so its status travels in a header.
    pub(crate) fn decline<B>(&self, response: &mut Response<B>) {
        if self.extended && response.status().is_success() {
            let status = HeaderValue::from(response.status().as_u16());
            response.headers_mut().insert(headers::STATUS, status);
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        }
    }

    /// Takes back what [`decline`](Self::decline) made of a status.
    pub(crate) fn restore<B>(response: &mut Response<B>) {
        let status = response.headers_mut().remove(headers::STATUS);
        if let Some(status) = status.and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok()) {
            *response.status_mut() = status;
        }
    }

    pub(crate) fn as_http1<B>(&self, request: &mut Request<B>) {
        *request.method_mut() = self.method.clone();
        request.extensions_mut().remove::<Protocol>();
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(header::UPGRADE, self.protocol.clone());
    }

    pub(crate) fn as_extended_connect<B>(&self, request: &mut Request<B>) -> Result<(), RequestError> {
        let protocol = self.protocol.to_str().map_err(|_| RequestError::BadPath)?;
        request.extensions_mut().insert(Protocol::from(protocol));
        *request.method_mut() = Method::CONNECT;
        let method = HeaderValue::from_str(self.method.as_str()).map_err(|_| RequestError::BadPath)?;
        request.headers_mut().insert(headers::METHOD, method);
        for name in [header::CONNECTION, header::UPGRADE] {
            request.headers_mut().remove(name);
        }
        Ok(())
    }

    /// Both sides have agreed: answers, and carries bytes until either closes.
    pub(crate) fn carry(self, response: Response<Arriving>, mut exchange: Box<Exchange>) -> Response<Relay> {
        let (mut parts, body) = response.into_parts();
        head::strip_hop_by_hop(&mut parts.headers);
        let mut answer = Response::from_parts(parts, Relay::Empty);
        if self.extended {
            *answer.status_mut() = StatusCode::OK;
        } else {
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            answer.headers_mut().insert(header::UPGRADE, self.protocol);
        }
        let downstream = self.downstream;
        // The connection's own task ends with the HTTP on it; a drain must wait for this one.
        let admitted = exchange.worker.engine.active.admit(usize::MAX);
        tokio::task::spawn_local(async move {
            let (Ok(mut downstream), Arriving::Tunnel(mut upstream)) = (downstream.await, body) else {
                return exchange.broken("upgrade_failed");
            };
            let standing = exchange.standing.take();
            let denied = async {
                match &standing {
                    Some(standing) => standing.denied().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                policy = denied => {
                    exchange.policy = policy;
                    exchange.broken("denied");
                }
                carried = pump(&mut downstream, &mut upstream) => match carried {
                    Ok(carried) => {
                        exchange.set_sent(carried.sent);
                        exchange.received = carried.received;
                    }
                    Err(_) => exchange.broken("upstream_reset"),
                },
            }
            drop(admitted);
        });
        answer
    }
}

// === impl Upgrading ===

impl Upgrading {
    /// With the end that the stream is sent to.
    pub(crate) fn new() -> (oneshot::Sender<Box<dyn Io>>, Self) {
        let (sender, changed) = oneshot::channel();
        (sender, Self(Arc::new(Mutex::new(Some(changed)))))
    }

    /// `None`: the request can't change the protocol, or somebody has taken it.
    pub(crate) fn take<B>(request: &Request<B>) -> Option<Changed> {
        let upgrading = request.extensions().get::<Self>()?;
        upgrading.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
