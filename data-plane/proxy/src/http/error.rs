//! The one place where a failed request becomes an answer.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use outrigger_core::{Destination, balance::Unpicked};

use super::Relay;
use crate::pool::UpstreamError;

/// Why a request got no answer of its app.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the path is not acceptable")]
    BadPath,
    #[error("the request must name exactly one host, and beside it nothing but a port")]
    BadHost,
    #[error("the request's body broke off")]
    BadBody,
    #[error("CONNECT is not carried")]
    Connect,
    #[error("the request lacks what a proxy of the mesh must say")]
    NotFromMesh,
    #[error("this proxy has no configuration of the workload yet")]
    NotReady,
    #[error("no route matches")]
    NoRoute,
    #[error("the route's backend does not exist or may not be used")]
    BadBackend,
    #[error("{0} has no endpoint")]
    NoEndpoint(Arc<str>),
    #[error("denied by {}", .0.as_deref().unwrap_or("default: no policy allows it"))]
    Denied(Option<Arc<str>>),
    #[error("injected by the route")]
    Fault(StatusCode),
    #[error("took longer than the route allows")]
    Timeout,
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("as much is in flight to the service as its policy allows")]
    Overload,
    #[error("a shared proxy carries as many connections of this identity as it may")]
    Shed,
    #[error("this proxy's memory is used up: it takes no more for now")]
    NoMemory,
}

/// Which side is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultSide {
    Downstream,
    Policy,
    Upstream,
}

/// Tells the proxy before us that another try may help, if the request can be repeated.
pub(crate) const UNSENT: &str = "outrigger-unsent";
const DENIED_BY: &str = "outrigger-denied-by";

impl RequestError {
    pub(crate) fn unpicked(why: Unpicked, destination: &Destination) -> Self {
        match why {
            Unpicked::Nobody => Self::NoEndpoint(destination.service.name.clone()),
            Unpicked::Overload => Self::Overload,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadPath | Self::BadHost | Self::BadBody | Self::NotFromMesh => StatusCode::BAD_REQUEST,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::BadBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Fault(status) => *status,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(UpstreamError::Http1(_) | UpstreamError::Http2(_)) => StatusCode::BAD_GATEWAY,
            Self::NotReady | Self::NoEndpoint(_) | Self::Upstream(_) | Self::Overload | Self::Shed | Self::NoMemory => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Whether nobody was at the endpoint to take a connection or a request.
    pub(crate) fn nobody_there(&self) -> bool {
        use UpstreamError::{Connect, ConnectTimeout, Vanished};
        matches!(self, Self::Upstream(Connect(_) | ConnectTimeout | Vanished))
    }

    /// Whether the endpoint has said that it takes no more.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Upstream(UpstreamError::Refused(_) | UpstreamError::Full))
    }

    /// For the access log.
    pub(crate) fn flag(&self) -> &'static str {
        match self {
            Self::BadPath => "bad_path",
            Self::BadHost => "bad_host",
            Self::BadBody => "downstream_reset",
            Self::Connect => "connect_method",
            Self::NotFromMesh => "bad_mesh_request",
            Self::NotReady => "not_ready",
            Self::NoRoute => "no_route",
            Self::BadBackend => "bad_backend",
            Self::NoEndpoint(_) => "no_endpoint",
            Self::Denied(_) => "denied",
            Self::Fault(_) => "fault_injected",
            Self::Timeout => "request_timeout",
            Self::Upstream(UpstreamError::Http1(_) | UpstreamError::Http2(_) | UpstreamError::Refused(_)) => {
                "upstream_reset"
            }
            Self::Upstream(UpstreamError::Tls(_)) => "upstream_tls",
            Self::Upstream(_) => "upstream_connect",
            Self::Overload | Self::Shed | Self::NoMemory => "overload",
        }
    }

    pub(crate) fn side(&self) -> FaultSide {
        match self {
            Self::BadPath | Self::BadHost | Self::BadBody | Self::Connect | Self::NotFromMesh => FaultSide::Downstream,
            Self::NoRoute | Self::BadBackend | Self::Denied(_) | Self::Fault(_) => FaultSide::Policy,
            Self::NotReady
            | Self::NoEndpoint(_)
            | Self::Timeout
            | Self::Upstream(_)
            | Self::Overload
            | Self::Shed
            | Self::NoMemory => FaultSide::Upstream,
        }
    }

    /// Another try may help: the app wasn't reached, or closed a connection that it had kept.
    fn repeatable(&self) -> bool {
        matches!(self, Self::Upstream(_) | Self::NotReady | Self::NoEndpoint(_) | Self::Overload)
    }

    fn grpc_status(&self) -> u16 {
        match self {
            Self::NoRoute | Self::Connect => 12,
            Self::Denied(_) => 7,
            Self::Timeout => 4,
            Self::BadPath | Self::BadHost | Self::BadBody | Self::NotFromMesh | Self::BadBackend => 13,
            Self::Overload | Self::Shed | Self::NoMemory => 8,
            Self::Fault(_) | Self::NotReady | Self::NoEndpoint(_) | Self::Upstream(_) => 14,
        }
    }

    /// The answer. gRPC callers get a trailers-only one (gRPC over HTTP/2, "Responses").
    pub(crate) fn answer(&self, grpc: bool) -> Response<Relay> {
        let mut text = self.to_string();
        let mut response = if grpc {
            let mut response = Response::new(Relay::Empty);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(self.grpc_status()));
            if let Ok(message) = HeaderValue::from_str(&text) {
                headers.insert("grpc-message", message);
            }
            response
        } else {
            text.insert_str(0, "outrigger: ");
            text.push('\n');
            let mut response = Response::new(Relay::Full(Bytes::from(text)));
            *response.status_mut() = self.status();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        };
        if self.repeatable() {
            response.headers_mut().insert(UNSENT, HeaderValue::from_static("1"));
        }
        if let Self::Denied(Some(policy)) = self
            && let Ok(name) = HeaderValue::from_str(policy)
        {
            response.headers_mut().insert(DENIED_BY, name);
        }
        response
    }
}
