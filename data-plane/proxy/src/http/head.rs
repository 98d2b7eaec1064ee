//! Request heads: what must not be passed on, what is normalised, and the forms of the two HTTP versions.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;
use outrigger_core::{
    host::is_host,
    path::{normalise, split_target},
};
use outrigger_wire::names::headers;

use super::{Relay, error::RequestError, upgrade::Upgrade};

/// For whoever has to be told a host by a caller that named none.
const NO_HOST: &str = "localhost";

/// Headers of one connection, not of the message (RFC 9110 section 7.6.1).
fn is_hop_by_hop(name: &HeaderName, value: &HeaderValue) -> bool {
    match name.as_str() {
        "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" | "http2-settings" => true,
        "te" => value != "trailers",
        _ => false,
    }
}

/// The protocol that a request wants to change to, if it does and may: one, so that the app can choose no other.
pub(crate) fn upgrade_of<B: Body>(request: &Request<B>) -> Option<HeaderValue> {
    if !request.headers().contains_key(header::UPGRADE) {
        return None;
    }
    let wants = request.headers().get_all(header::CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
    });
    // One that comes with a body may be ignored: such a request is an ordinary one.
    if !wants || !request.body().is_end_stream() || request.version() != Version::HTTP_11 {
        return None;
    }
    let offers = request.headers().get_all(header::UPGRADE).iter();
    let mut offers = offers.flat_map(|line| line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
    HeaderValue::from_bytes(offers.find(|offer| may_change_to(offer))?).ok()
}

/// Whether a connection may change to a protocol (RFC 9110 section 7.8). Never to another HTTP, nor to TLS with HTTP in it
/// (RFC 2817): no route and no policy would see the requests in there. Such an offer may be ignored, and RFC 9113 section
/// 3.1 has done away with `h2c`.
pub(crate) fn may_change_to(protocol: &[u8]) -> bool {
    let begins = |with: &[u8]| protocol.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"/!#$%&'*+-.^_`|~".contains(byte);
    !protocol.is_empty()
        && protocol.iter().all(is_token)
        && ![&b"h2"[..], b"h3", b"http", b"tls"].into_iter().any(begins)
}

/// Takes out what belongs to one connection alone, as RFC 9110 section 7.6.1 demands.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One look at each that is there: to ask the map for each that may be costs ten times as much.
    let mut found = headers.iter().filter(|(name, value)| is_hop_by_hop(name, value));
    match (found.next(), found.next()) {
        (None, _) => return,
        // What nearly every answer says.
        (Some((name, value)), None) if name == header::CONNECTION && names_nothing(value) => {
            headers.remove(header::CONNECTION);
            return;
        }
        _ => {}
    }
    let found = headers.iter().filter(|(name, value)| is_hop_by_hop(name, value));
    let mut gone: Vec<HeaderName> = found.map(|(name, _)| name.clone()).collect();
    for line in headers.get_all(header::CONNECTION) {
        let tokens = line.to_str().unwrap_or_default().split(',').map(str::trim);
        let names = tokens.filter_map(|token| token.parse::<HeaderName>().ok());
        gone.extend(names.filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH));
    }
    for name in gone {
        headers.remove(name);
    }
}

/// Whether a Connection header is about the connection alone, and names no other header.
fn names_nothing(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// Whether any of our own headers is there.
pub(crate) fn has_internal(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(headers::PREFIX))
}

/// Takes out our own headers: only proxies may send them, with requests and with answers.
pub(crate) fn strip_internal(headers: &mut HeaderMap) {
    if !has_internal(headers) {
        return;
    }
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

/// Makes sure that everybody reads the same host from a request (RFC 9112 section 3.2). The one place where it is looked
/// at: what is no host goes no further.
pub(crate) fn one_host<B>(request: &mut Request<B>) -> Result<(), RequestError> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    match request.uri().authority() {
        _ if more.is_some() => Err(RequestError::BadHost),
        Some(authority) if !is_host(authority.as_str().as_bytes()) => Err(RequestError::BadHost),
        Some(authority) if host.is_some() => {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| RequestError::BadHost)?;
            request.headers_mut().insert(header::HOST, host);
            Ok(())
        }
        Some(_) => Ok(()),
        None if host.is_some_and(|host| is_host(host.as_bytes())) => Ok(()),
        None if host.is_none() && request.version() == Version::HTTP_10 => Ok(()),
        None => Err(RequestError::BadHost),
    }
}

/// Makes the path the one that routing and policy see, so that nobody behind us sees another.
pub(crate) fn normalise_path<B>(request: &mut Request<B>) -> Result<(), RequestError> {
    let (path, query) = split_target(request.uri().path_and_query().map_or("/", PathAndQuery::as_str));
    if path == "*" {
        // Of this method only, and the whole of the target (RFC 9112 section 3.2.4).
        let is_well = request.method() == Method::OPTIONS && query.is_none();
        return if is_well { Ok(()) } else { Err(RequestError::BadPath) };
    }
    let path = match normalise(path).map_err(|_| RequestError::BadPath)? {
        // Between an authority and a query it may be left out: "/" is meant, and has to be written.
        Cow::Borrowed(_) if !path.is_empty() => return Ok(()),
        normal => normal,
    };
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
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
pub(crate) fn for_app(
    request: &mut Request<Relay>,
    upgrade: Option<&Upgrade>,
    http2: bool,
) -> Result<(), RequestError> {
    strip_internal(request.headers_mut());
    if http2 {
        return as_http2(request, NO_HOST);
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
        let host = host.as_ref().map_or(fallback.as_bytes(), HeaderValue::as_bytes);
        let authority = Authority::try_from(host).map_err(|_| RequestError::BadHost)?;
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
    if request.version() == Version::HTTP_10 && !request.headers().contains_key(header::HOST) {
        // What was no error in HTTP/1.0 is one in HTTP/1.1, as which it is sent (RFC 9112 section 3.2).
        request.headers_mut().insert(header::HOST, HeaderValue::from_static(NO_HOST));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of both versions, wherever it is named: RFC 9112 section 3.2, RFC 9113 section 8.3.1.
    #[test]
    fn a_host_is_one_and_the_same_for_everybody() {
        let (old, http1, http2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        for (version, target, hosts, read) in [
            (http1, "/", &[&b"Secret.example.:80"[..]][..], Some("Secret.example.:80")),
            (http1, "http://b:81/", &[b"a"], Some("b:81")),
            (http1, "http://b/", &[b"x@a"], Some("b")),
            (http2, "http://b/", &[b"a"], Some("b")),
            (http2, "http://b./", &[], Some("b.")),
            (http2, "/", &[b"a"], Some("a")),
            (http2, "http://[fd00::1]:80/", &[], Some("[fd00::1]:80")),
            (old, "/", &[], Some("")),
            (http1, "/", &[], None),
            (http2, "/", &[], None),
            (http1, "/", &[b"a", b"a"], None),
            (http1, "http://b/", &[b"b", b"b"], None),
            (http1, "/", &[b""], None),
            (old, "/", &[b""], None),
            (http1, "/", &[b"x@secret.example"], None),
            (old, "/", &[b"x@secret.example"], None),
            (http1, "http://x@secret.example/", &[b"a"], None),
            (http2, "http://x@secret.example/", &[], None),
            (http2, "http://x:y@secret.example:80/", &[], None),
            (http2, "/", &[b"x@secret.example"], None),
            (http1, "/", &["bücher.example".as_bytes()], None),
            (http2, "/", &[b"secret\xff.example"], None),
            (http1, "/", &[b"secret%2eexample"], None),
            (http1, "/", &[b"a, b"], None),
            (http1, "/", &[b"[fe80::1%eth0]"], None),
            (http1, "/", &[b"[fe80::1%25eth0]:80"], None),
            (http1, "/", &[b"a:65536"], None),
            (http2, "http://a:65536/", &[], None),
        ] {
            let mut request = Request::builder().version(version).uri(target);
            for host in hosts {
                request = request.header(header::HOST, HeaderValue::from_bytes(host).unwrap());
            }
            let mut request = request.body(()).unwrap();
            let heard = one_host(&mut request).is_ok().then(|| host_of(&request).to_owned());
            assert_eq!(heard.as_deref(), read, "{version:?} {target} {hosts:?}");
            let Some(read) = read else { continue };
            let sent = if read.is_empty() { "localhost" } else { read };
            as_http2(&mut request, "localhost").unwrap();
            assert_eq!(host_of(&request), sent, "{version:?} {target} {hosts:?}");
        }
    }

    #[test]
    fn what_is_sent_has_a_path_and_a_host() {
        for (version, target, host, sent) in [
            (Version::HTTP_11, "/a//b?c", Some("a"), ("/a/b?c", "a")),
            (Version::HTTP_11, "http://b", Some("a"), ("/", "b")),
            (Version::HTTP_11, "http://b?c", Some("a"), ("/?c", "b")),
            (Version::HTTP_10, "/", Some("a"), ("/", "a")),
            (Version::HTTP_10, "/", None, ("/", "localhost")),
        ] {
            let mut request = Request::builder().version(version).uri(target);
            if let Some(host) = host {
                request = request.header(header::HOST, host);
            }
            let mut request = request.body(()).unwrap();
            one_host(&mut request).unwrap();
            normalise_path(&mut request).unwrap();
            as_http1(&mut request).unwrap();
            assert_eq!((request.uri().to_string().as_str(), host_of(&request)), sent, "{target}");
            assert_eq!(request.uri().path_and_query().map(PathAndQuery::as_str), Some(sent.0));
        }
    }
}
