//! What routes do to requests and answers besides choosing a backend.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body::Body;
use http_body_util::BodyExt;
use outrigger_core::{
    Snapshot,
    config::{Answer, Filters, Mirror},
};

use super::{
    Exchange, Relay,
    error::RequestError,
    forward::{Departure, resolve},
    head,
    send::{copy, for_mirror},
};

/// Bodies up to this size are mirrored too; mirroring a longer one would mean to hold it.
const MIRROR_BODY: u64 = 64 * 1024;
const MIRROR_LIMIT: Duration = Duration::from_secs(15);

/// Acts on a request before it is sent. An answer means that no backend is asked.
pub(super) async fn before(
    from: &Departure,
    filters: &Filters,
    request: &mut Request<Relay>,
    prefix: Option<&str>,
    exchange: &mut Exchange,
) -> Result<Option<Response<Relay>>, RequestError> {
    if let Some(fault) = &filters.fault {
        if !fault.delay.is_zero() && chance(from, fault.delay_share_ppm) {
            tokio::time::sleep(fault.delay).await;
        }
        if let Some(status) = fault.abort
            && chance(from, fault.abort_share_ppm)
        {
            return Err(RequestError::Fault(status));
        }
    }
    if let Some(answer) = &filters.answer {
        return answer_here(from, answer, request, prefix).map(Some);
    }
    for change in &filters.request_headers {
        change.apply(request.headers_mut());
    }
    if let Some(change) = &filters.rewrite_path {
        let mut target = change.apply(request.uri().path(), prefix);
        if let Some(query) = request.uri().query() {
            target.push('?');
            target.push_str(query);
        }
        head::set_target(request, &target)?;
    }
    if let Some(host) = &filters.rewrite_host {
        head::set_host(request, host)?;
    }
    if !filters.request_headers.is_empty() {
        exchange.grpc |= head::is_grpc(request.headers());
    }
    Ok(None)
}

/// Acts on an answer's head.
pub(super) fn after(filters: &Filters, headers: &mut HeaderMap) {
    for change in &filters.response_headers {
        change.apply(headers);
    }
}

fn chance(from: &Departure, share_ppm: u32) -> bool {
    share_ppm >= 1_000_000 || from.worker.random() % 1_000_000 < share_ppm
}

fn answer_here(
    from: &Departure,
    answer: &Answer,
    request: &Request<Relay>,
    prefix: Option<&str>,
) -> Result<Response<Relay>, RequestError> {
    match answer {
        Answer::Direct { status, body, content_type } => {
            let mut response = Response::new(Relay::Full(body.clone()));
            *response.status_mut() = *status;
            response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
            Ok(response)
        }
        Answer::Redirect(redirect) => {
            let host = head::host_of(request);
            let host = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(it, _)| it);
            let location = redirect.location(
                "http",
                host,
                from.original.port(),
                request.uri().path(),
                request.uri().query(),
                prefix,
            );
            let mut response = Response::new(Relay::Empty);
            *response.status_mut() = redirect.status;
            let location = HeaderValue::from_str(&location).map_err(|_| RequestError::BadPath)?;
            response.headers_mut().insert(header::LOCATION, location);
            Ok(response)
        }
    }
}

/// Sends copies to mirrors; their answers are thrown away.
pub(super) async fn mirror(
    from: &std::rc::Rc<Departure>,
    snapshot: &Snapshot,
    filters: &Filters,
    request: &mut Request<Relay>,
) -> Result<(), RequestError> {
    let wanted: Vec<&Mirror> = filters.mirrors.iter().filter(|mirror| chance(from, mirror.share_ppm)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let Some(body) = hold(request).await? else { return Ok(()) };
    for mirror in wanted {
        let Ok((destination, port)) = resolve(snapshot, &mirror.backend) else { continue };
        let Ok(picked) = from.pick(destination, None, &[]) else { continue };
        let connect = destination.service.policy.connect_timeout;
        let copy = copy(request, Relay::Full(body.clone()));
        let from = from.clone();
        let port = picked.endpoint.spec.target_port(port);
        tokio::task::spawn_local(async move {
            let endpoint = SocketAddr::new(picked.endpoint.spec.address, port);
            let sent = tokio::time::timeout(MIRROR_LIMIT, for_mirror(&from, &picked, endpoint, connect, copy)).await;
            if let Ok(Err(error)) = sent {
                tracing::debug!(%error, %endpoint, "mirrored request failed");
            }
        });
    }
    Ok(())
}

/// Holds a short body, so that it can be sent twice. `None`: it is too long.
async fn hold(request: &mut Request<Relay>) -> Result<Option<Bytes>, RequestError> {
    if request.body().is_end_stream() {
        return Ok(Some(Bytes::new()));
    }
    if request.body().size_hint().upper().is_none_or(|upper| upper > MIRROR_BODY) || request.version() > Version::HTTP_2
    {
        return Ok(None);
    }
    let body = std::mem::replace(request.body_mut(), Relay::Empty);
    let collected = tokio::time::timeout(MIRROR_LIMIT, body.collect()).await.map_err(|_| RequestError::Timeout)?;
    let bytes = collected.map_err(|_| RequestError::BadBody)?.to_bytes();
    *request.body_mut() = Relay::Full(bytes.clone());
    Ok(Some(bytes))
}
