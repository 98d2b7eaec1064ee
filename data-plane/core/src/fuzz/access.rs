//! Access policies, compiled, against a naive reading of the same messages.

use outrigger_wire::proto::config::{self as wire, access_policy::Action};

use super::{
    draw::Draw,
    naive,
    rules::{self, METHODS, Request},
};
use crate::{
    access::{AccessRequest, HttpView},
    config::Inbound,
};

/// How a host is written, and which one is meant.
const HOSTS: [(&str, &str); 8] = [
    ("a", "a"),
    ("A", "a"),
    ("a:80", "a"),
    ("a.", "a"),
    ("b", "b"),
    ("b.:81", "b"),
    ("[::1]:80", "[::1]"),
    ("[::1]", "[::1]"),
];
const PORTS: [u32; 3] = [80, 81, 65535];

/// Policies say what a naive reading of them says.
pub fn access(data: &[u8]) {
    let mut draw = Draw(data);
    let message = wire::Inbound {
        workload: "shop/front".into(),
        identity: "spiffe://td/ns/shop/sa/front".into(),
        policies: draw.few(policy),
        ..wire::Inbound::default()
    };
    let request = rules::request(&mut draw);
    let (host, port) = (draw.pick(&HOSTS), draw.pick(&PORTS));
    let seen = draw.below(4) > 0;
    let Ok(inbound) = Inbound::compile(message.clone()) else { return };
    let view = HttpView { method: &request.method, path: &request.path, host: host.0, headers: &request.headers };
    let asked = AccessRequest { caller: request.caller(), port: port as u16, http: seen.then_some(view) };
    let verdict = inbound.authorise(&asked);

    let naive = Naive { request: &request, host: host.1, port, seen };
    let with = |action: Action| message.policies.iter().filter(move |policy| policy.action == i32::from(action));
    let first = |action| with(action).find(|policy| naive.matches(policy)).map(|policy| policy.name.as_str());
    let (denied, allowed) = (first(Action::Deny), first(Action::Allow));
    let open = allowed.is_some() || with(Action::Allow).next().is_none();
    assert_eq!(verdict.allowed, denied.is_none() && open, "{message:#?}");
    assert_eq!(verdict.policy.map(|name| &**name), denied.or(allowed), "{message:#?}");
    assert_eq!(verdict.audits.len(), with(Action::Audit).filter(|policy| naive.matches(policy)).count());
    if !inbound.needs_http(asked.port) {
        assert_eq!(inbound.authorise(&AccessRequest { http: None, ..asked }), verdict, "seeing changes nothing");
    }
}

fn policy(draw: &mut Draw<'_>) -> wire::AccessPolicy {
    let action = draw.pick(&[Action::Allow, Action::Deny, Action::Audit]);
    wire::AccessPolicy { name: draw.pick(&["p", "q", "r"]).into(), action: action.into(), rules: draw.few(rule) }
}

fn rule(draw: &mut Draw<'_>) -> wire::AccessRule {
    wire::AccessRule {
        from: draw.some(rules::principal),
        not_from: draw.some(rules::principal),
        ports: draw.some(|draw| draw.pick(&PORTS)),
        methods: draw.some(|draw| draw.text(METHODS)),
        paths: draw.some(rules::path),
        not_paths: draw.some(rules::path),
        hosts: draw.some(|draw| draw.pick(&HOSTS).0.into()),
        headers: draw.some(rules::key),
    }
}

struct Naive<'a> {
    request: &'a Request,
    host: &'static str,
    port: u32,
    seen: bool,
}

// === impl Naive ===

impl Naive<'_> {
    fn matches(&self, policy: &wire::AccessPolicy) -> bool {
        let action = Action::try_from(policy.action).expect("it was compiled");
        policy.rules.iter().any(|rule| self.meets(rule, action))
    }

    /// In doubt, what allows isn't met, and what denies is.
    fn meets(&self, rule: &wire::AccessRule, action: Action) -> bool {
        let by = |principals: &[wire::Principal]| {
            principals.iter().any(|principal| naive::principal(principal, self.request.caller()))
        };
        if (!rule.from.is_empty() && !by(&rule.from)) || by(&rule.not_from) {
            return false;
        }
        if !rule.ports.is_empty() && !rule.ports.contains(&self.port) {
            return false;
        }
        if !self.seen {
            let texts = rule.methods.len() + rule.hosts.len();
            return action == Action::Deny || texts + rule.paths.len() + rule.not_paths.len() + rule.headers.len() == 0;
        }
        let allows = action == Action::Allow;
        let meant = |host: &String| HOSTS.iter().any(|(text, meant)| text == host && *meant == self.host);
        (rule.methods.is_empty() || rule.methods.iter().any(|method| method == self.request.method.as_str()))
            && (rule.hosts.is_empty() || rule.hosts.iter().any(meant))
            && self.meets_paths(rule, allows)
            && rule.headers.iter().all(|key| {
                let values = self.request.headers.get_all(key.name.as_str());
                let values: Vec<_> = values.iter().map(|value| value.as_bytes().to_vec()).collect();
                naive::key(key, &values, allows)
            })
    }

    /// By each of its readings.
    fn meets_paths(&self, rule: &wire::AccessRule, allows: bool) -> bool {
        let mut readings = naive::readings(&self.request.path).into_iter();
        let meets = |path: String| {
            (rule.paths.is_empty() || rule.paths.iter().any(|pattern| naive::path(pattern, &path)))
                && !rule.not_paths.iter().any(|pattern| naive::path(pattern, &path))
        };
        if allows { readings.all(meets) } else { readings.any(meets) }
    }
}
