//! The request as the proxies on its way see it: normalised, then changed by filters. Follows `http/forward.rs` and
//! `http/filters.rs` of the proxy step by step; what decides is core's code.

use http::{HeaderMap, HeaderValue, Method, header};
use outrigger_core::{
    access::HttpView,
    config::{Answer as Configured, Filters},
    path::{BadPath, normalise, split_target},
    route::{CallerView, RequestView},
};
use outrigger_wire::names::headers::PREFIX;

use super::report::Answer;

/// Of the whole, in parts per million.
const MILLION: u32 = 1_000_000;

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
}

// === impl Request ===

impl Request {
    /// As the caller's proxy takes it: one host, none of our own headers, the path's normal form.
    ///
    /// # Errors
    /// If the path could be read in more than one way; the proxy answers 400.
    pub(crate) fn new(method: Method, target: &str, mut headers: HeaderMap, host: &str) -> Result<Self, BadPath> {
        let (path, query) = split_target(target);
        let path = match path {
            "*" if method == Method::OPTIONS => path.to_owned(),
            path => normalise(path)?.into_owned(),
        };
        let internal: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
        for name in internal {
            headers.remove(name);
        }
        if !headers.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(host)
        {
            headers.insert(header::HOST, host);
        }
        Ok(Self { method, path, query: query.map(str::to_owned), headers })
    }

    /// What routes look at.
    pub(crate) fn view<'a>(&'a self, caller: CallerView<'a>) -> RequestView<'a> {
        RequestView {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            caller,
        }
    }

    /// What policies look at.
    pub(crate) fn http(&self) -> HttpView<'_> {
        HttpView { method: &self.method, path: &self.path, host: self.host(), headers: &self.headers }
    }

    pub(crate) fn host(&self) -> &str {
        self.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
    }

    /// Does what filters do before a request is sent. An answer means that no backend is asked.
    pub(crate) fn pass(&mut self, filters: &Filters, prefix: Option<&str>, port: u16) -> Option<Answer> {
        let aborted = filters.fault.as_ref().filter(|fault| fault.abort_share_ppm >= MILLION).and_then(|f| f.abort);
        if let Some(status) = aborted {
            let why = "a fault that the route asks for".to_owned();
            return Some(Answer { status: status.as_u16(), why, location: None, intended: true });
        }
        match &filters.answer {
            Some(Configured::Direct { status, .. }) => {
                let why = "the route answers by itself".to_owned();
                return Some(Answer { status: status.as_u16(), why, location: None, intended: true });
            }
            Some(Configured::Redirect(redirect)) => {
                let host = self.host();
                let host =
                    host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(it, _)| it);
                let location = redirect.location("http", host, port, &self.path, self.query.as_deref(), prefix);
                let why = "the route redirects".to_owned();
                let status = redirect.status.as_u16();
                return Some(Answer { status, why, location: Some(location), intended: true });
            }
            None => {}
        }
        for change in &filters.request_headers {
            change.apply(&mut self.headers);
        }
        if let Some(change) = &filters.rewrite_path {
            self.path = change.apply(&self.path, prefix);
        }
        if let Some(host) = &filters.rewrite_host {
            self.headers.insert(header::HOST, host.clone());
        }
        // The destination's proxy normalises again what a rewrite has made.
        if let Ok(normal) = normalise(&self.path) {
            self.path = normal.into_owned();
        }
        None
    }
}

/// What filters do, for people.
pub(crate) fn described(filters: &Filters) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(fault) = &filters.fault {
        if !fault.delay.is_zero() {
            said.push(format!("delays {} by {:?}", share(fault.delay_share_ppm), fault.delay));
        }
        if let Some(status) = fault.abort {
            said.push(format!("answers {} with {}", share(fault.abort_share_ppm), status.as_u16()));
        }
    }
    for change in &filters.request_headers {
        said.extend(change.set.iter().map(|(name, value)| format!("sets header {name}: {}", shown(value))));
        said.extend(change.add.iter().map(|(name, value)| format!("adds header {name}: {}", shown(value))));
        said.extend(change.remove.iter().map(|name| format!("removes header {name}")));
    }
    if let Some(change) = &filters.rewrite_path {
        use outrigger_core::config::PathChange;
        said.push(match change {
            PathChange::Full(path) => format!("rewrites the path to {path}"),
            PathChange::Prefix(prefix) => format!("rewrites the path's prefix to {prefix}"),
        });
    }
    if let Some(host) = &filters.rewrite_host {
        said.push(format!("rewrites the host to {}", shown(host)));
    }
    let mirrors = filters.mirrors.iter();
    said.extend(mirrors.map(|mirror| format!("mirrors {} to {}", share(mirror.share_ppm), mirror.backend.service)));
    said
}

fn shown(value: &HeaderValue) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// Parts per million as people say it.
pub(crate) fn share(ppm: u32) -> String {
    if ppm >= MILLION { "all".to_owned() } else { format!("{}%", f64::from(ppm) / 10_000.0) }
}
