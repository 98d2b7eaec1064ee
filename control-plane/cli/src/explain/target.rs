//! What a person may write for FROM and TO. Parses only; whether there is such a thing is asked elsewhere.

use std::net::IpAddr;

/// The caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    Pod { namespace: String, name: String },
    Deployment { namespace: String, name: String },
}

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct To {
    pub(crate) host: Host,
    /// `None`: the only port there is.
    pub(crate) port: Option<u16>,
    /// The host as an app would write it.
    pub(crate) authority: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Service {
        namespace: String,
        name: String,
    },
    Pod {
        namespace: String,
        name: String,
    },
    Address(IpAddr),
    /// A name that isn't the cluster's.
    Outside(String),
}

const FROM_FORMS: &str = "write pod/NAME, deploy/NAME, NAMESPACE/POD, or TYPE/NAMESPACE/NAME";
const TO_FORMS: &str = "write svc/NAME[:PORT], pod/NAME[:PORT], HOST:PORT or ADDRESS:PORT";

// === impl From ===

impl From {
    /// `default` is the namespace of what is named without one.
    pub(crate) fn parse(text: &str, default: &str) -> Result<Self, String> {
        let (kind, namespace, name) = split(text, default).ok_or_else(|| format!("{text:?}: {FROM_FORMS}"))?;
        match kind {
            Some("pod" | "pods" | "po" | "workload") | None => Ok(Self::Pod { namespace, name }),
            Some("deploy" | "deployment" | "deployments") => Ok(Self::Deployment { namespace, name }),
            Some(other) => Err(format!("{text:?}: nothing calls from {other}; {FROM_FORMS}")),
        }
    }
}

// === impl To ===

impl To {
    /// `default` is the namespace of what is named without one.
    pub(crate) fn parse(text: &str, default: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: {TO_FORMS}");
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            return Ok(Self::address(address.ip(), Some(address.port())));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::address(address, None));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') => {
                (name, Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?))
            }
            Some(_) => return Err(wrong()),
            None => (text, None),
        };
        if !name.contains('/') {
            return Self::host(name, default, port).ok_or_else(wrong);
        }
        let (kind, namespace, name) = split(name, default).ok_or_else(wrong)?;
        match kind {
            Some("svc" | "service" | "services") | None => Ok(Self::service(namespace, name, port)),
            Some("pod" | "pods" | "po" | "workload") => {
                let authority = name.clone();
                Ok(Self { host: Host::Pod { namespace, name }, port, authority })
            }
            Some(other) => Err(format!("{text:?}: {other} can't be called; {TO_FORMS}")),
        }
    }

    fn address(address: IpAddr, port: Option<u16>) -> Self {
        let authority = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        Self { host: Host::Address(address.to_canonical()), port, authority }
    }

    fn service(namespace: String, name: String, port: Option<u16>) -> Self {
        let authority = format!("{name}.{namespace}");
        Self { host: Host::Service { namespace, name }, port, authority }
    }

    /// `NAME`, `NAME.NAMESPACE` or `NAME.NAMESPACE.svc…`, as the cluster's DNS has it.
    fn host(host: &str, default: &str, port: Option<u16>) -> Option<Self> {
        let mut labels = host.trim_end_matches('.').split('.');
        let name = labels.next().filter(|label| is_name(label))?.to_owned();
        let namespace = labels.next().unwrap_or(default);
        if !is_name(namespace) || labels.next().is_some_and(|label| label != "svc") {
            return None;
        }
        let host_text = host.to_owned();
        Some(Self { authority: host_text, ..Self::service(namespace.to_owned(), name, port) })
    }
}

/// What a Service of type ExternalName stands for.
pub(crate) fn external(name: &str) -> Host {
    let mut labels = name.trim_end_matches('.').split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(name), Some(namespace), Some("svc")) => {
            Host::Service { namespace: namespace.to_owned(), name: name.to_owned() }
        }
        _ => Host::Outside(name.to_owned()),
    }
}

/// `[TYPE/][NAMESPACE/]NAME`: kind, namespace, name. Two parts are a known type and a name, or a namespace and a name.
fn split<'a>(text: &'a str, default: &str) -> Option<(Option<&'a str>, String, String)> {
    let parts: Vec<_> = text.split('/').collect();
    let found = match parts[..] {
        [name] => (None, default, name),
        [kind, name] if is_type(kind) => (Some(kind), default, name),
        [namespace, name] => (None, namespace, name),
        [kind, namespace, name] => (Some(kind), namespace, name),
        _ => return None,
    };
    let (kind, namespace, name) = found;
    (is_name(namespace) && is_name(name)).then(|| (kind, namespace.to_owned(), name.to_owned()))
}

/// Words of kubectl's, whether we take them or not.
fn is_type(word: &str) -> bool {
    const TYPES: [&str; 19] = [
        "pod",
        "pods",
        "po",
        "workload",
        "svc",
        "service",
        "services",
        "deploy",
        "deployment",
        "deployments",
        "sts",
        "statefulset",
        "ds",
        "daemonset",
        "job",
        "cronjob",
        "rs",
        "replicaset",
        "sa",
    ];
    TYPES.contains(&word)
}

/// A name as Kubernetes allows it, and so one that is safe in a query.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers() {
        let pod = |namespace: &str, name: &str| From::Pod { namespace: namespace.into(), name: name.into() };
        let deploy = |namespace: &str, name: &str| From::Deployment { namespace: namespace.into(), name: name.into() };
        for (text, want) in [
            ("pod/a-1", pod("here", "a-1")),
            ("a-1", pod("here", "a-1")),
            ("shop/a-1", pod("shop", "a-1")),
            ("pod/shop/a-1", pod("shop", "a-1")),
            ("deploy/a", deploy("here", "a")),
            ("deployment/shop/a", deploy("shop", "a")),
        ] {
            assert_eq!(From::parse(text, "here"), Ok(want), "{text}");
        }
        for text in ["svc/a", "job/a", "", "a/b/c/d", "shop/a?x=1"] {
            assert!(From::parse(text, "here").is_err(), "{text}");
        }
    }

    #[test]
    fn other_names() {
        let service = Host::Service { namespace: "shop".into(), name: "web".into() };
        assert_eq!(external("web.shop.svc.cluster.local."), service);
        for outside in ["example.com", "www.example.com", "web.shop"] {
            assert_eq!(external(outside), Host::Outside(outside.into()));
        }
    }

    #[test]
    fn destinations() {
        let service = |namespace: &str, name: &str| Host::Service { namespace: namespace.into(), name: name.into() };
        let pod = Host::Pod { namespace: "here".into(), name: "a-1".into() };
        for (text, host, port, authority) in [
            ("svc/a", service("here", "a"), None, "a.here"),
            ("svc/a:80", service("here", "a"), Some(80), "a.here"),
            ("svc/shop/a:80", service("shop", "a"), Some(80), "a.shop"),
            ("shop/a", service("shop", "a"), None, "a.shop"),
            ("a:80", service("here", "a"), Some(80), "a"),
            ("a.shop:80", service("shop", "a"), Some(80), "a.shop"),
            ("a.shop.svc.cluster.local:80", service("shop", "a"), Some(80), "a.shop.svc.cluster.local"),
            ("pod/a-1:8080", pod, Some(8080), "a-1"),
            ("10.0.0.1:80", Host::Address("10.0.0.1".parse().unwrap()), Some(80), "10.0.0.1"),
            ("[fd00::1]:80", Host::Address("fd00::1".parse().unwrap()), Some(80), "[fd00::1]"),
            ("fd00::1", Host::Address("fd00::1".parse().unwrap()), None, "[fd00::1]"),
        ] {
            let want = To { host, port, authority: authority.into() };
            assert_eq!(To::parse(text, "here"), Ok(want), "{text}");
        }
        for text in ["deploy/a", "a:0", "a:http", "example.com.:80x", "www.example.com:80", ""] {
            assert!(To::parse(text, "here").is_err(), "{text}");
        }
    }
}
