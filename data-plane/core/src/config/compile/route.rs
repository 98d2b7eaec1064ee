//! Compiles route tables: entries, rules, backends and filters.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode, header};
use outrigger_wire::{names::headers::PREFIX, proto::config as wire};

use super::{
    Checked, duration, each, hash_key, header_match, header_name, key_match, method, name, path_match, port, principal,
    problem, regexes, retry,
};
use crate::{
    config::{
        Answer, Backend, Fault, Filters, HeaderChange, Mirror, PathChange, Redirect, RouteEntry, RouteMatch,
        RouteTable, Rule,
    },
    path,
    route::MILLION,
};

pub(super) fn table(message: wire::RouteTable) -> Checked<RouteTable> {
    regexes::judge_table(&message)?;
    let rules: Vec<_> = message.rules.into_iter().map(|message| rule(message).map(Arc::new)).collect::<Checked<_>>()?;
    let entry = |message: wire::RouteEntry| match message.rule as usize {
        rule if rule < rules.len() => {
            Ok(RouteEntry { matches: route_match(message.r#match.unwrap_or_default())?, rule })
        }
        rule => Err(problem("route_tables.entries.rule", format_args!("there is no rule {rule}"))),
    };
    Ok(RouteTable {
        consumer_namespace: message.consumer_namespace.into(),
        port: match message.port {
            0 => None,
            number => Some(port("route_tables.port", number)?),
        },
        entries: message.entries.into_iter().map(entry).collect::<Checked<_>>()?,
        rules,
    })
}

fn route_match(message: wire::RouteMatch) -> Checked<RouteMatch> {
    let keys = |field, keys: Vec<wire::KeyMatch>| {
        keys.into_iter().map(|key| key_match(field, key)).collect::<Checked<Vec<_>>>()
    };
    Ok(RouteMatch {
        path: message.path.map(path_match).transpose()?,
        method: super::optional(&message.method, method)?,
        headers: message.headers.into_iter().map(header_match).collect::<Checked<_>>()?,
        query: keys("match.query", message.query)?,
        cookies: keys("match.cookies", message.cookies)?,
        callers: message.callers.into_iter().map(principal).collect::<Checked<_>>()?,
        share_ppm: share("match.share_ppm", message.share_ppm, MILLION)?,
    })
}

fn rule(message: wire::RouteRule) -> Checked<Rule> {
    let backends: Vec<_> = message.backends.into_iter().map(backend).collect::<Checked<_>>()?;
    let total_weight = backends.iter().try_fold(0_u32, |sum, backend: &Backend| sum.checked_add(backend.weight));
    Ok(Rule {
        name: message.name.into(),
        filters: filters(message.filters)?,
        backends,
        total_weight: total_weight.ok_or_else(|| problem("backends.weight", "together exceed 4294967295"))?,
        request_timeout: message.request_timeout_ms.map(Duration::from_millis),
        backend_timeout: duration(message.backend_timeout_ms),
        retry: message.retry.map(retry).transpose()?,
        grpc: message.grpc,
        stickiness: message.stickiness.map(hash_key).transpose()?,
    })
}

fn backend(message: wire::Backend) -> Checked<Backend> {
    // A reference that doesn't resolve may have neither name nor port; nothing is sent there anyhow.
    let invalid = message.invalid;
    Ok(Backend {
        service: if invalid { message.service.into() } else { name("backends.service", &message.service)? },
        port: if invalid { 0 } else { port("backends.port", message.port)? },
        weight: message.weight,
        filters: filters(message.filters)?,
        invalid,
    })
}

fn filters(messages: Vec<wire::Filter>) -> Checked<Filters> {
    use wire::filter::Kind;
    let mut filters = Filters::default();
    for message in messages {
        match message.kind.ok_or_else(|| problem("filters", "has a kind that is not known to this version"))? {
            Kind::RequestHeaders(change) => request_headers(change, &mut filters)?,
            Kind::ResponseHeaders(change) => filters.response_headers.push(header_change(change)?),
            Kind::Rewrite(rewrite) => {
                if !rewrite.hostname.is_empty() {
                    filters.rewrite_host = Some(host("filters.rewrite.hostname", &rewrite.hostname)?);
                }
                if let Some(path) = rewrite.path {
                    filters.rewrite_path = Some(path_change(path)?);
                }
            }
            Kind::Redirect(message) => answer(&mut filters, Answer::Redirect(redirect(message)?))?,
            Kind::DirectResponse(message) => answer(&mut filters, direct_response(message)?)?,
            Kind::Mirror(message) => filters.mirrors.push(mirror(message)?),
            Kind::Fault(message) if filters.fault.is_none() => filters.fault = Some(fault(&message)?),
            Kind::Fault(_) => return Err(problem("filters.fault", "is there twice")),
        }
    }
    Ok(filters)
}

fn answer(filters: &mut Filters, answer: Answer) -> Checked<()> {
    match filters.answer.replace(answer) {
        None => Ok(()),
        Some(_) => Err(problem("filters", "there are two that answer")),
    }
}

/// A new `host` is a rewrite: HTTP/2 has no such header.
fn request_headers(mut change: wire::HeaderChange, filters: &mut Filters) -> Checked<()> {
    let is_host = |header: &wire::Header| header.name.eq_ignore_ascii_case("host");
    if change.add.iter().any(is_host) || change.remove.iter().any(|name| name.eq_ignore_ascii_case("host")) {
        return Err(problem("filters.request_headers", "host can be set, not added or removed"));
    }
    if let Some(at) = change.set.iter().position(is_host) {
        filters.rewrite_host = Some(host("filters.request_headers.set", &change.set.remove(at).value)?);
    }
    filters.request_headers.push(header_change(change)?);
    Ok(())
}

fn header_change(message: wire::HeaderChange) -> Checked<HeaderChange> {
    let pair = |header: wire::Header| {
        let value = HeaderValue::from_str(&header.value)
            .map_err(|_| problem("filters.headers.value", format_args!("{:?} is no header value", header.value)))?;
        Ok((changeable(&header.name)?, value))
    };
    Ok(HeaderChange {
        set: message.set.into_iter().map(pair).collect::<Checked<_>>()?,
        add: message.add.into_iter().map(pair).collect::<Checked<_>>()?,
        remove: each(&message.remove, changeable)?,
    })
}

/// Refuses headers that frame a message (a changed one smuggles requests) and those by which proxies vouch for callers.
fn changeable(text: &str) -> Checked<HeaderName> {
    const FRAMING: [HeaderName; 5] =
        [header::CONNECTION, header::CONTENT_LENGTH, header::TE, header::TRANSFER_ENCODING, header::UPGRADE];
    let name = header_name("filters.headers.name", text)?;
    if name == header::HOST || FRAMING.contains(&name) || name.as_str().starts_with(PREFIX) {
        return Err(problem("filters.headers.name", format_args!("{name} can't be changed by a route")));
    }
    Ok(name)
}

fn path_change(message: wire::PathChange) -> Checked<PathChange> {
    use wire::path_change::Kind;
    let normal = |text: &str| match path::normalise(text) {
        Ok(path) if path != "*" => Ok(path.into_owned()),
        _ => Err(problem("filters.path", format_args!("{text:?} is no path"))),
    };
    match message.kind {
        Some(Kind::Full(text)) => Ok(PathChange::Full(normal(&text)?.into())),
        Some(Kind::Prefix(text)) => Ok(PathChange::Prefix(normal(&text)?.trim_end_matches('/').into())),
        None => Err(problem("filters.path", "has no kind")),
    }
}

fn redirect(message: wire::Redirect) -> Checked<Redirect> {
    let scheme = |text: &str| match text {
        "http" | "https" => Ok(text.into()),
        _ => Err(problem("filters.redirect.scheme", format_args!("{text:?} is neither http nor https"))),
    };
    let hostname = |text: &str| {
        host("filters.redirect.hostname", text)?;
        Ok(text.into())
    };
    Ok(Redirect {
        scheme: super::optional(&message.scheme, scheme)?,
        hostname: super::optional(&message.hostname, hostname)?,
        path: message.path.map(path_change).transpose()?,
        port: match message.port {
            0 => None,
            number => Some(port("filters.redirect.port", number)?),
        },
        status: match message.status {
            0 => StatusCode::FOUND,
            301 | 302 | 303 | 307 | 308 => status("filters.redirect.status", message.status)?,
            other => return Err(problem("filters.redirect.status", format_args!("{other} redirects nobody"))),
        },
    })
}

fn mirror(message: wire::Mirror) -> Checked<Mirror> {
    let backend = backend(message.backend.ok_or_else(|| problem("filters.mirror", "has no backend"))?)?;
    Ok(Mirror { backend, share_ppm: share("filters.mirror.share_ppm", message.share_ppm, MILLION)? })
}

fn fault(message: &wire::Fault) -> Checked<Fault> {
    Ok(Fault {
        delay: Duration::from_millis(message.delay_ms),
        delay_share_ppm: share("filters.fault.delay_share_ppm", message.delay_share_ppm, 0)?,
        abort: match message.abort_status {
            0 => None,
            number => Some(final_status("filters.fault.abort_status", number)?),
        },
        abort_share_ppm: share("filters.fault.abort_share_ppm", message.abort_share_ppm, 0)?,
    })
}

fn direct_response(message: wire::DirectResponse) -> Checked<Answer> {
    let content_type = match message.content_type.as_str() {
        "" => HeaderValue::from_static("text/plain; charset=utf-8"),
        text => HeaderValue::from_str(text).map_err(|error| problem("filters.direct_response.content_type", error))?,
    };
    let status = final_status("filters.direct_response.status", message.status)?;
    Ok(Answer::Direct { status, body: message.body.into(), content_type })
}

// === scalars ===

fn host(field: &'static str, text: &str) -> Checked<HeaderValue> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']');
    let value = text.bytes().all(allowed).then(|| HeaderValue::from_str(text).ok()).flatten();
    value.ok_or_else(|| problem(field, format_args!("{text:?} is no host")))
}

fn status(field: &'static str, number: u32) -> Checked<StatusCode> {
    let status = u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok());
    status.ok_or_else(|| problem(field, format_args!("{number} is no HTTP status")))
}

/// A status that ends an exchange.
fn final_status(field: &'static str, number: u32) -> Checked<StatusCode> {
    match number {
        200..=599 => status(field, number),
        _ => Err(problem(field, format_args!("{number} is not of 200 to 599"))),
    }
}

/// Parts per million; `unset` is what 0 means.
fn share(field: &'static str, number: u32, unset: u32) -> Checked<u32> {
    match number {
        0 => Ok(unset),
        1..=MILLION => Ok(number),
        _ => Err(problem(field, format_args!("{number} is more than {MILLION}"))),
    }
}
