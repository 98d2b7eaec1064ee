//! Which of two matches is tried first, as one `Ord`. Greater is more specific and is tried before.
//!
//! Gateway API (HTTPRoute `matches`): exact path, then longest prefix, then method, then most headers, then most query
//! parameters; the rest (age, name, order) is the order in which entries are merged. Ours on top of it: a regular
//! expression is between exact path and prefix; cookies, callers and a share count after query parameters.
//! GRPCRoute: a service and method is an exact path, a service is a prefix of two segments, a method alone is less than
//! any service and more than nothing.

use outrigger_wire::proto::config as wire;
use wire::path_match::Pattern;

use crate::inputs::GrpcMethod;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Specificity {
    path: PathRank,
    method: bool,
    headers: usize,
    query: usize,
    others: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    /// Characters before the trailing slash.
    Prefix(usize),
    Regex,
    Exact,
}

// === impl Specificity ===

impl Specificity {
    pub(crate) fn of(matches: &wire::RouteMatch, grpc: Option<&GrpcMethod>) -> Self {
        let pattern = matches.path.as_ref().and_then(|path| path.pattern.as_ref());
        let path = match (pattern, grpc) {
            (_, Some(GrpcMethod { service: None, method: Some(_), regex: false })) => PathRank::Prefix(1),
            (None, _) => PathRank::Prefix(0),
            (Some(Pattern::Exact(_)), _) => PathRank::Exact,
            (Some(Pattern::Regex(_)), _) => PathRank::Regex,
            (Some(Pattern::Prefix(prefix)), _) => PathRank::Prefix(prefix.trim_end_matches('/').chars().count()),
        };
        Self {
            path,
            method: !matches.method.is_empty(),
            headers: matches.headers.len(),
            query: matches.query.len(),
            others: matches.cookies.len()
                + usize::from(!matches.callers.is_empty())
                + usize::from(matches.share_ppm != 0),
        }
    }
}

/// The request path of a gRPC method: `/SERVICE/METHOD`. `None`: any.
pub(crate) fn grpc_path(grpc: &GrpcMethod) -> Option<wire::PathMatch> {
    let pattern = match (&grpc.service, &grpc.method, grpc.regex) {
        (None, None, _) => return None,
        (Some(service), Some(method), false) => Pattern::Exact(format!("/{service}/{method}")),
        (Some(service), None, false) => Pattern::Prefix(format!("/{service}")),
        (None, Some(method), false) => Pattern::Regex(format!("/[^/]+/{}", escape(method))),
        (service, method, true) => {
            let part = |part: &Option<String>| part.as_ref().map_or("[^/]+".to_owned(), |p| format!("(?:{p})"));
            Pattern::Regex(format!("/{}/{}", part(service), part(method)))
        }
    };
    Some(wire::PathMatch { pattern: Some(pattern) })
}

/// The literal as a regular expression. gRPC methods are identifiers; this holds for whatever else was written.
fn escape(literal: &str) -> String {
    let mut escaped = String::with_capacity(literal.len());
    for c in literal.chars() {
        // Escaped, '<' and '>' would be word boundaries.
        if c.is_ascii_punctuation() && !matches!(c, '_' | '<' | '>') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
