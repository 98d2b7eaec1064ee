//! What one workload says to a call: the verdict is [`Inbound::authorise`]'s, as in its proxy. For the reasons each
//! policy, and each of its rules, is asked alone by the same code.

use outrigger_core::{
    access::{AccessRequest, HttpView},
    config::Inbound,
    route::CallerView,
};
use outrigger_wire::{
    names::ports,
    proto::config::{self as wire, access_policy::Action},
};

use super::report::{Consulted, Verdict};

/// What a workload is asked; without HTTP where nobody looks at the bytes.
pub(crate) type Question<'a> = AccessRequest<'a>;

/// The destination's side of one endpoint in the mesh.
pub(crate) fn of(message: &wire::Inbound, inbound: &Inbound, asked: &Question<'_>) -> Verdict {
    let policies = consulted(message, asked);
    let mtls = Some(mode(inbound));
    let verdict = |allowed, reason: String, policy| Verdict { allowed, reason, policy, mtls, policies };
    // The order of `deliver` and `tcp::inbound` in the proxy.
    if ports::is_own(asked.port) {
        return verdict(false, format!("port {} belongs to the proxies", asked.port), None);
    }
    if inbound.strict && asked.caller.identity.is_none() {
        return verdict(false, "mTLS is strict and the caller has no identity".to_owned(), None);
    }
    let said = inbound.authorise(asked);
    let policy = said.policy.map(|name| name.to_string());
    let reason = match (said.allowed, &policy) {
        (true, Some(policy)) => format!("allowed by {policy}"),
        (true, None) => "no policy speaks of it".to_owned(),
        (false, Some(policy)) => format!("denied by {policy}"),
        (false, None) => {
            let allowing = inbound.policies.iter().filter(|policy| policy.action == Action::Allow);
            let names: Vec<_> = allowing.map(|policy| &*policy.name).collect();
            format!("none of the policies that allow matches: {}", names.join(", "))
        }
    };
    let reason = match (&asked.http, said.allowed) {
        (None, false) if inbound.needs_http(asked.port) => {
            format!("{reason} (a rule wants to see requests, and nobody looks at the bytes of this connection)")
        }
        _ => reason,
    };
    verdict(said.allowed, reason, policy)
}

/// What the kubelet asks about health is let in whatever mode and policies say.
pub(crate) fn probe(inbound: &Inbound) -> Verdict {
    Verdict { reason: "the kubelet asks this about health".to_owned(), mtls: Some(mode(inbound)), ..outside() }
}

fn mode(inbound: &Inbound) -> &'static str {
    if inbound.strict { "strict" } else { "permissive" }
}

/// An endpoint without a proxy: nobody asks anything.
pub(crate) fn outside() -> Verdict {
    Verdict {
        allowed: true,
        reason: "not in the mesh: nobody asks".to_owned(),
        policy: None,
        mtls: None,
        policies: Vec::new(),
    }
}

fn consulted(message: &wire::Inbound, asked: &Question<'_>) -> Vec<Consulted> {
    let consult = |policy: &wire::AccessPolicy| {
        let matches = |rule: &wire::AccessRule| alone(message, policy, rule).is_some_and(|one| met(&one, asked));
        let matching = policy.rules.iter().enumerate().filter(|(_, rule)| matches(rule)).map(|(at, _)| at);
        Consulted {
            name: policy.name.clone(),
            action: action(policy.action()),
            matching_rules: matching.collect(),
            rules: policy.rules.len(),
        }
    };
    message.policies.iter().map(consult).collect()
}

/// The workload as if this were the only rule.
fn alone(message: &wire::Inbound, policy: &wire::AccessPolicy, rule: &wire::AccessRule) -> Option<Inbound> {
    let policy = wire::AccessPolicy { rules: vec![rule.clone()], ..policy.clone() };
    Inbound::compile(wire::Inbound { policies: vec![policy], ..message.clone() }).ok()
}

/// Whether the only rule there is matches.
fn met(one: &Inbound, asked: &Question<'_>) -> bool {
    let verdict = one.authorise(asked);
    verdict.policy.is_some() || !verdict.audits.is_empty()
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Audit => "audit",
    }
}

/// A request as the destination's proxy sees it.
pub(crate) fn question<'a>(caller: CallerView<'a>, port: u16, http: Option<HttpView<'a>>) -> Question<'a> {
    AccessRequest { caller, port, http }
}
