//! The policies of the verdict table, as they are written and as they are meant: a second, naive evaluation that shares
//! nothing with the proxies'.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::question::{Ask, Caller, Question, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Deny,
    Audit,
}

#[derive(Debug, Clone)]
pub(super) enum Who {
    /// `NAMESPACE/NAME` of a service account.
    Account(&'static str),
    Identity(&'static str),
    Namespace(&'static str),
    Addresses(Vec<IpAddr>),
    Authenticated,
}

/// One rule with at most one operation. What is empty matches everything.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    pub(super) from: Vec<Who>,
    pub(super) not_from: Vec<Who>,
    pub(super) ports: &'static [u16],
    pub(super) methods: &'static [&'static str],
    pub(super) paths: &'static [&'static str],
    pub(super) not_paths: &'static [&'static str],
    pub(super) hosts: &'static [&'static str],
    /// Name and exact value.
    pub(super) header: Option<(&'static str, &'static str)>,
}

#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) name: &'static str,
    pub(super) action: Action,
    pub(super) rule: Rule,
}

/// A file of AccessPolicies of namespace `shop` for its service `vault`. JSON is YAML.
pub(super) fn file(policies: &[Policy]) -> String {
    policies.iter().map(|policy| format!("{}\n---\n", policy.object())).collect()
}

/// What must come of a question, and how many policies must record it.
pub(super) fn expected(policies: &[Policy], question: &Question) -> (Verdict, usize) {
    let matching = |action| {
        let of_action = policies.iter().filter(move |policy| policy.action == action);
        of_action.filter(move |policy| policy.rule.matches(question, action))
    };
    let audits = matching(Action::Audit).count();
    // The first by name is the one that is told.
    if let Some(denied) = matching(Action::Deny).map(|policy| policy.name).min() {
        let told = (!matches!(question.ask, Ask::Store | Ask::Grpc)).then(|| format!("AccessPolicy/shop/{denied}"));
        return (Verdict::Denied(told), audits);
    }
    let verdict = if matching(Action::Allow).next().is_some() { Verdict::Allowed } else { Verdict::Denied(None) };
    (verdict, audits)
}

// === impl Policy ===

impl Policy {
    fn object(&self) -> Value {
        let action = match self.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
            Action::Audit => "Audit",
        };
        json!({
            "apiVersion": "outrigger.dev/v1alpha1", "kind": "AccessPolicy",
            "metadata": { "namespace": "shop", "name": self.name },
            "spec": {
                "targetRefs": [{ "kind": "Service", "name": "vault" }],
                "action": action, "rules": [self.rule.object()],
            },
        })
    }
}

// === impl Rule ===

impl Rule {
    fn object(&self) -> Value {
        let sources = |who: &[Who]| who.iter().map(Who::object).collect::<Vec<_>>();
        let mut to = json!({
            "ports": self.ports, "methods": self.methods, "paths": self.paths, "notPaths": self.not_paths,
            "hosts": self.hosts,
        });
        if let Some((name, value)) = self.header {
            to["headers"] = json!([{ "type": "Exact", "name": name, "value": value }]);
        }
        let says_something = !self.ports.is_empty() || self.speaks_of_requests();
        let to = if says_something { vec![to] } else { Vec::new() };
        json!({ "from": sources(&self.from), "notFrom": sources(&self.not_from), "to": to })
    }

    fn speaks_of_requests(&self) -> bool {
        let lists = [self.methods, self.paths, self.not_paths, self.hosts];
        self.header.is_some() || lists.iter().any(|list| !list.is_empty())
    }

    fn matches(&self, question: &Question, action: Action) -> bool {
        let is = |who: &Who| who.is(&question.caller);
        let listed = |list: &[&str], value: &str| list.is_empty() || list.contains(&value);
        if !(self.from.is_empty() || self.from.iter().any(is)) || self.not_from.iter().any(is) {
            return false;
        }
        if !(self.ports.is_empty() || self.ports.contains(&question.port)) {
            return false;
        }
        let (method, path, host, headers) = match &question.ask {
            // Unseen: it may be what is denied, and may not be what is allowed.
            Ask::Store => return !self.speaks_of_requests() || action == Action::Deny,
            Ask::Grpc => ("POST", "/shop.Cart/Get", "", &[][..]),
            Ask::Http { method, plain_path, plain_host, headers, .. } => (*method, *plain_path, *plain_host, *headers),
        };
        let header = self.header.is_none_or(|(name, value)| {
            let mut values = headers.iter().filter(|(other, _)| *other == name).map(|(_, value)| *value).peekable();
            match action {
                Action::Allow => values.peek().is_some() && values.all(|other| other == value),
                Action::Deny | Action::Audit => values.any(|other| other == value),
            }
        });
        header
            && listed(self.methods, method)
            && listed(self.hosts, host)
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| covers(pattern, path)))
            && !self.not_paths.iter().any(|pattern| covers(pattern, path))
    }
}

/// `/a` is that path, `/a/*` is it and all below.
fn covers(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(above) => path == above || path.starts_with(&format!("{above}/")),
        None => path == pattern,
    }
}

// === impl Who ===

impl Who {
    fn object(&self) -> Value {
        match self {
            Self::Account(account) => json!({ "serviceAccounts": [account] }),
            Self::Identity(identity) => json!({ "identities": [identity] }),
            Self::Namespace(namespace) => json!({ "namespaces": [namespace] }),
            Self::Addresses(addresses) => {
                let block = |address: &IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
                json!({ "cidrs": addresses.iter().map(block).collect::<Vec<_>>() })
            }
            Self::Authenticated => json!({ "authenticated": true }),
        }
    }

    fn is(&self, caller: &Caller) -> bool {
        match self {
            Self::Account(account) => caller.meshed && caller.pod == *account,
            Self::Identity(identity) => {
                let own = caller.pod.replace('/', "/sa/");
                caller.meshed && *identity == format!("spiffe://cluster.local/ns/{own}")
            }
            Self::Namespace(namespace) => caller.meshed && caller.pod.starts_with(&format!("{namespace}/")),
            Self::Addresses(addresses) => caller.addresses.iter().any(|address| addresses.contains(address)),
            Self::Authenticated => caller.meshed,
        }
    }
}
