//! Filters of all route kinds. A filter that isn't supported must not be skipped (Gateway API): it becomes an answer of
//! 500, or makes its backend invalid.

use outrigger_crds::{
    Fault, MeshRouteFilter, MeshRouteFilterType,
    gateway::{
        BackendObjectRef, GrpcFilter, GrpcFilterType, HeaderModifier, HttpFilter, HttpFilterType, PathModifier,
        PathModifierType, RequestMirror, RequestRedirect, UrlRewrite,
    },
};
use outrigger_wire::proto::config as wire;
use wire::{filter::Kind, path_change};

use super::{number, ppm, qualified};

/// A filter that has no effect is `Ok(None)`; one that isn't supported or complete is an error.
pub(super) type Converted = Result<Option<Kind>, Unsupported>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unsupported;

/// What answers in place of a filter that isn't supported.
pub(super) fn refusal() -> wire::Filter {
    let response = wire::DirectResponse {
        status: 500,
        body: "unsupported filter\n".to_owned(),
        content_type: "text/plain".to_owned(),
    };
    wire::Filter { kind: Some(Kind::DirectResponse(response)) }
}

pub(super) fn http(filter: &HttpFilter, own: &str) -> Converted {
    match filter.r#type {
        HttpFilterType::RequestHeaderModifier => request_headers(filter.request_header_modifier.as_ref()),
        HttpFilterType::ResponseHeaderModifier => response_headers(filter.response_header_modifier.as_ref()),
        HttpFilterType::RequestMirror => gateway_mirror(filter.request_mirror.as_ref(), own),
        HttpFilterType::RequestRedirect => redirect(filter.request_redirect.as_ref()),
        HttpFilterType::UrlRewrite => rewrite(filter.url_rewrite.as_ref()),
        HttpFilterType::Cors | HttpFilterType::ExtensionRef => Err(Unsupported),
    }
}

pub(super) fn grpc(filter: &GrpcFilter, own: &str) -> Converted {
    match filter.r#type {
        GrpcFilterType::RequestHeaderModifier => request_headers(filter.request_header_modifier.as_ref()),
        GrpcFilterType::ResponseHeaderModifier => response_headers(filter.response_header_modifier.as_ref()),
        GrpcFilterType::RequestMirror => gateway_mirror(filter.request_mirror.as_ref(), own),
        GrpcFilterType::ExtensionRef => Err(Unsupported),
    }
}

pub(super) fn mesh(filter: &MeshRouteFilter, own: &str) -> Converted {
    match filter.r#type {
        MeshRouteFilterType::RequestHeaderModifier => request_headers(filter.request_header_modifier.as_ref()),
        MeshRouteFilterType::ResponseHeaderModifier => response_headers(filter.response_header_modifier.as_ref()),
        MeshRouteFilterType::UrlRewrite => rewrite(filter.url_rewrite.as_ref()),
        MeshRouteFilterType::RequestRedirect => redirect(filter.request_redirect.as_ref()),
        MeshRouteFilterType::RequestMirror => {
            let mirror = filter.request_mirror.as_ref().ok_or(Unsupported)?;
            let to = &mirror.backend_ref;
            let service = qualified(to.namespace.as_ref(), own, &to.name);
            let backend = wire::Backend { service, port: number(to.port), weight: 1, ..wire::Backend::default() };
            Ok(copies(backend, ppm(mirror.percent)))
        }
        MeshRouteFilterType::Fault => Ok(Some(fault(filter.fault.as_ref().ok_or(Unsupported)?))),
        MeshRouteFilterType::DirectResponse => {
            let response = filter.direct_response.as_ref().ok_or(Unsupported)?;
            let content_type = response.content_type.clone().unwrap_or_else(|| "text/plain; charset=utf-8".to_owned());
            Ok(Some(Kind::DirectResponse(wire::DirectResponse {
                status: number(response.status),
                body: response.body.clone().unwrap_or_default(),
                content_type,
            })))
        }
    }
}

/// A backend of a Gateway API route; invalid if it is no Service.
pub(super) fn gateway_backend(to: &BackendObjectRef, weight: u32, own: &str) -> wire::Backend {
    let core = to.group.as_deref().is_none_or(str::is_empty);
    let service = to.kind.as_deref().is_none_or(|kind| kind == "Service");
    wire::Backend {
        service: qualified(to.namespace.as_ref(), own, &to.name),
        port: to.port.map_or(0, number),
        weight,
        filters: Vec::new(),
        invalid: !core || !service,
    }
}

fn gateway_mirror(mirror: Option<&RequestMirror>, own: &str) -> Converted {
    let mirror = mirror.ok_or(Unsupported)?;
    let share = match &mirror.fraction {
        None => ppm(mirror.percent),
        Some(fraction) => {
            let denominator = i64::from(fraction.denominator.unwrap_or(100)).max(1);
            number((i64::from(fraction.numerator) * 1_000_000 / denominator).clamp(0, 1_000_000))
        }
    };
    let backend = gateway_backend(&mirror.backend_ref, 1, own);
    if backend.invalid {
        return Err(Unsupported);
    }
    Ok(copies(backend, share))
}

/// On the wire a share of 0 means all; a mirror of nothing is no mirror.
fn copies(backend: wire::Backend, share_ppm: u32) -> Option<Kind> {
    (share_ppm > 0).then_some(Kind::Mirror(wire::Mirror { backend: Some(backend), share_ppm }))
}

fn request_headers(modifier: Option<&HeaderModifier>) -> Converted {
    Ok(Some(Kind::RequestHeaders(header_change(modifier.ok_or(Unsupported)?))))
}

fn response_headers(modifier: Option<&HeaderModifier>) -> Converted {
    Ok(Some(Kind::ResponseHeaders(header_change(modifier.ok_or(Unsupported)?))))
}

fn header_change(modifier: &HeaderModifier) -> wire::HeaderChange {
    let headers = |list: &[outrigger_crds::gateway::Header]| {
        let headers = list.iter();
        headers.map(|h| wire::Header { name: h.name.to_ascii_lowercase(), value: h.value.clone() }).collect()
    };
    wire::HeaderChange {
        set: headers(&modifier.set),
        add: headers(&modifier.add),
        remove: modifier.remove.iter().map(|name| name.to_ascii_lowercase()).collect(),
    }
}

fn rewrite(rewrite: Option<&UrlRewrite>) -> Converted {
    let rewrite = rewrite.ok_or(Unsupported)?;
    let path = rewrite.path.as_ref().map(path_change).transpose()?;
    Ok(Some(Kind::Rewrite(wire::Rewrite { hostname: rewrite.hostname.clone().unwrap_or_default(), path })))
}

fn redirect(redirect: Option<&RequestRedirect>) -> Converted {
    let redirect = redirect.ok_or(Unsupported)?;
    Ok(Some(Kind::Redirect(wire::Redirect {
        scheme: redirect.scheme.clone().unwrap_or_default(),
        hostname: redirect.hostname.clone().unwrap_or_default(),
        path: redirect.path.as_ref().map(path_change).transpose()?,
        port: redirect.port.map_or(0, number),
        status: redirect.status_code.map_or(302, number),
    })))
}

fn path_change(modifier: &PathModifier) -> Result<wire::PathChange, Unsupported> {
    let kind = match modifier.r#type {
        PathModifierType::ReplaceFullPath => modifier.replace_full_path.clone().map(path_change::Kind::Full),
        PathModifierType::ReplacePrefixMatch => modifier.replace_prefix_match.clone().map(path_change::Kind::Prefix),
    };
    Ok(wire::PathChange { kind: Some(kind.ok_or(Unsupported)?) })
}

/// A delay or abort of no share is none.
fn fault(fault: &Fault) -> Kind {
    let delay = fault.delay.as_ref().filter(|delay| delay.percent != Some(0));
    let abort = fault.abort.as_ref().filter(|abort| abort.percent != Some(0));
    Kind::Fault(wire::Fault {
        delay_ms: delay.map_or(0, |delay| delay.duration.as_millis()),
        delay_share_ppm: delay.map_or(0, |delay| ppm(delay.percent)),
        abort_status: abort.map_or(0, |abort| number(abort.status)),
        abort_share_ppm: abort.map_or(0, |abort| ppm(abort.percent)),
    })
}
