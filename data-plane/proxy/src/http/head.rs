//! Request heads: what must not be passed on, what is normalised, and the forms of the two HTTP versions.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use outrigger_core::path::{normalise, split_target};
use outrigger_wire::names::headers;

use super::{error::RequestError, upgrade::Upgrade};

/// Headers of one connection, not of the message (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The protocol that a request wants to change to, if it does.
pub(crate) fn upgrade_of<B>(request: &Request<B>) -> Option<HeaderValue> {
    let wants = request.headers().get_all(header::CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
    });
    if wants && request.version() == Version::HTTP_11 { request.headers().get(header::UPGRADE).cloned() } else { None }
}

/// Takes out what belongs to one connection alone, as RFC 9110 section 7.6.1 demands.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(named) = headers.get(header::CONNECTION) {
        let named = named.to_str().unwrap_or_default().to_owned();
        for token in named.split(',') {
            let token = token.trim();
            if !token.eq_ignore_ascii_case("host") && !token.eq_ignore_ascii_case("content-length") {
                headers.remove(token);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

/// Takes out our own headers: only proxies may send them.
pub(crate) fn strip_internal(headers: &mut HeaderMap) {
    let internal: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(headers::PREFIX)).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
}

/// Whether the request is gRPC's.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Host that the caller named: `:authority`, absolute form or Host header.
pub(crate) fn host_of<B>(request: &Request<B>) -> &str {
    match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

/// Makes the path the one that routing and policy see, so that nobody behind us sees another.
pub(crate) fn normalise_path<B>(request: &mut Request<B>) -> Result<(), RequestError> {
    let (path, query) = split_target(request.uri().path_and_query().map_or("/", PathAndQuery::as_str));
    if path == "*" && request.method() == Method::OPTIONS {
        return Ok(());
    }
    let std::borrow::Cow::Owned(path) = normalise(path).map_err(|_| RequestError::BadPath)? else { return Ok(()) };
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    set_target(request, &target)
}

/// Replaces path and query.
pub(crate) fn set_target<B>(request: &mut Request<B>, target: &str) -> Result<(), RequestError> {
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(target.parse().map_err(|_| RequestError::BadPath)?);
    if parts.authority.is_none() {
        parts.scheme = None;
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| RequestError::BadPath)?;
    Ok(())
}

/// Replaces the host.
pub(crate) fn set_host<B>(request: &mut Request<B>, host: &HeaderValue) -> Result<(), RequestError> {
    if request.uri().authority().is_none() {
        request.headers_mut().insert(header::HOST, host.clone());
        return Ok(());
    }
    let mut parts = request.uri().clone().into_parts();
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| RequestError::BadPath)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| RequestError::BadPath)?;
    Ok(())
}

/// Gives a request the form in which an app takes it.
pub(crate) fn for_app<B>(request: &mut Request<B>, upgrade: Option<&Upgrade>, http2: bool) -> Result<(), RequestError> {
    let headers = request.headers_mut();
    for name in [headers::PORT, headers::PROTO, headers::CALLER, headers::METHOD] {
        headers.remove(name);
    }
    if http2 {
        return as_http2(request, "localhost");
    }
    if let Some(upgrade) = upgrade {
        upgrade.as_http1(request);
    }
    as_http1(request)
}

/// Gives a request the form of HTTP/2: scheme and authority in the URI, no Host header.
pub(crate) fn as_http2<B>(request: &mut Request<B>, fallback: &str) -> Result<(), RequestError> {
    if request.uri().authority().is_none() {
        let host = request.headers_mut().remove(header::HOST);
        let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(fallback);
        let authority: Authority = host.parse().map_err(|_| RequestError::BadPath)?;
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.authority = Some(authority);
        parts.scheme = Some(Scheme::HTTP);
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| RequestError::BadPath)?;
    } else {
        request.headers_mut().remove(header::HOST);
    }
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// Gives a request the form of HTTP/1.1: origin-form target, Host header, one Cookie header (RFC 9113 8.2.3).
pub(crate) fn as_http1<B>(request: &mut Request<B>) -> Result<(), RequestError> {
    if request.uri().authority().is_some() {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        if let Some(authority) = parts.authority.take() {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| RequestError::BadPath)?;
            request.headers_mut().insert(header::HOST, host);
        }
        let target = parts.path_and_query.unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(target);
    }
    let headers = request.headers_mut();
    if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}
