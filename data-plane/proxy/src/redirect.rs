//! The rules that bring a pod's traffic to its proxies: one nftables table, rendered as text by a pure function and
//! installed in one transaction. Knows nothing of what the proxies do with it.

use std::{
    fmt::{Display, Write as _},
    io::{self, Write as _},
    process::{Command, Stdio},
};

use outrigger_core::config::IpBlock;
use outrigger_wire::names::canary;

/// What is captured in one network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Where captured outbound connections go; see [`ports::OUTBOUND`](outrigger_wire::names::ports::OUTBOUND).
    pub outbound: u16,
    /// Where captured inbound connections go; see [`ports::INBOUND`](outrigger_wire::names::ports::INBOUND).
    pub inbound: u16,
    /// The port of the mesh, which is reached directly; see [`ports::MESH`](outrigger_wire::names::ports::MESH).
    pub mesh: u16,
    /// Ports of proxies that show health and metrics; neither the pod's own nor others' are captured.
    pub health: Vec<u16>,
    pub exempt: Exempt,
    /// Ports of the pod that are reached without a proxy.
    pub skip_inbound_ports: Vec<u16>,
    /// Ports that the pod's apps call without a proxy.
    pub skip_outbound_ports: Vec<u16>,
    /// Addresses that the pod's apps call without a proxy.
    pub skip_outbound_cidrs: Vec<IpBlock>,
    /// Whether IPv6 is captured as well.
    pub ipv6: bool,
}

/// How the proxies' own traffic is told from the apps'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exempt {
    /// It is sent by this user; apps must run as another.
    Uid(u32),
    /// It bears this socket mark (`SO_MARK`), which takes CAP_NET_ADMIN to set.
    Mark(u32),
}

#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    #[error("can't run nft (package nftables): {0}")]
    Run(#[from] io::Error),
    #[error(
        "the kernel forbids it: {0}\nnftables rules take the capability NET_ADMIN in this network namespace. In a pod: \
         securityContext.capabilities.add: [NET_ADMIN] and runAsUser: 0 for this init container alone, in a namespace \
         whose Pod Security level allows it (privileged)."
    )]
    Forbidden(String),
    #[error("nft refused the rules: {0}{hint}", hint = kernel_hint(.0))]
    Refused(String),
    #[error("the rules aren't in force: {0}")]
    Missing(&'static str),
}

const TABLE: &str = "inet outrigger";

/// The rules as input of `nft -f`. They replace earlier ones in the same transaction, so there is no moment without.
pub fn render(redirect: &Redirect) -> String {
    let mut out = String::with_capacity(2048);
    // `add` makes `delete` succeed whether or not the table is there.
    let _ = writeln!(out, "add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{");
    chain(&mut out, "output", &redirect.output());
    chain(&mut out, "prerouting", &redirect.prerouting());
    out.push_str("}\n");
    out
}

/// Installs the rules in this network namespace, and looks whether they are there.
///
/// # Errors
/// If nft can't be run or refuses them; then the earlier rules stay. If they aren't there afterwards.
pub fn apply(redirect: &Redirect) -> Result<(), RedirectError> {
    nft(&["-f", "-"], &render(redirect))?;
    check(redirect)
}

/// Looks whether this network namespace captures traffic as `redirect` has it.
///
/// # Errors
/// If nft can't be run or refuses, or the rules aren't there.
pub fn check(redirect: &Redirect) -> Result<(), RedirectError> {
    // Names no table, so that one that is missing is no error of nft's.
    let listed = nft(&["--numeric", "list", "ruleset", "inet"], "")?;
    let table = listed.split("table ").find(|table| table.starts_with(TABLE));
    let table = table.ok_or(RedirectError::Missing("there is no table inet outrigger in this network namespace"))?;
    let chain = |name: &str| table.split("\tchain ").find(|chain| chain.starts_with(name)).unwrap_or_default();
    let redirects = |name: &str, port: u16| {
        let end = format!("redirect to :{port}");
        chain(name).lines().any(|rule| rule.trim_start().starts_with("meta l4proto") && rule.ends_with(&end))
    };
    if !redirects("output ", redirect.outbound) {
        return Err(RedirectError::Missing("nothing captures outbound connections"));
    }
    if !redirects("prerouting ", redirect.inbound) {
        return Err(RedirectError::Missing("nothing captures inbound connections"));
    }
    Ok(())
}

/// Takes the rules out of this network namespace, if they are there.
///
/// # Errors
/// If nft can't be run or refuses.
pub fn remove() -> Result<(), RedirectError> {
    nft(&["-f", "-"], &format!("add table {TABLE}\ndelete table {TABLE}\n")).map(drop)
}

/// What nft prints.
fn nft(args: &[&str], input: &str) -> Result<String, RedirectError> {
    let mut child =
        Command::new("nft").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    // What nft says is worth more than that it closed its input.
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let forbidden = said.contains("Operation not permitted") || said.contains("Permission denied");
        return Err(if forbidden { RedirectError::Forbidden(said) } else { RedirectError::Refused(said) });
    }
    written?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A kernel without a part of nftables only says that something isn't there.
fn kernel_hint(said: &str) -> &'static str {
    let lacks = ["No such file or directory", "not supported"].iter().any(|text| said.contains(text));
    if lacks { "\nThe node's kernel needs nf_tables, nft_chain_nat and nft_redir: load these modules." } else { "" }
}

fn chain(out: &mut String, hook: &str, rules: &[String]) {
    // -100 is what nft calls dstnat, a name that it doesn't take on the output hook.
    let _ = writeln!(out, "\tchain {hook} {{\n\t\ttype nat hook {hook} priority -100; policy accept;");
    for rule in rules {
        let _ = writeln!(out, "\t\t{rule}");
    }
    out.push_str("\t}\n");
}

// === impl Redirect ===

impl Redirect {
    /// Connections that begin in the pod. The hook sees only the first packet of each.
    fn output(&self) -> Vec<String> {
        let mut rules = vec![
            // Whoever calls it wants to know whether it is captured.
            self.canary("ip daddr", &canary::V4),
            self.canary("ip6 daddr", &canary::V6),
            match self.exempt {
                Exempt::Uid(uid) => format!("meta skuid {uid} return"),
                Exempt::Mark(mark) => format!("meta mark {mark:#x} return"),
            },
            // The pod's own addresses are routed over loopback as well.
            "oifname \"lo\" return".to_owned(),
        ];
        rules.extend(self.only_ipv4());
        // Other pods' proxies refuse these to each other; a scraper in the mesh reaches them as one outside does.
        rules.extend(skip_ports(&self.health));
        rules.extend(skip_ports(&self.skip_outbound_ports));
        rules.extend(skip_addresses("ip", self.skip_outbound_cidrs.iter().filter(|block| block.base.is_ipv4())));
        rules.extend(skip_addresses("ip6", self.skip_outbound_cidrs.iter().filter(|block| block.base.is_ipv6())));
        rules.push(format!("meta l4proto tcp redirect to :{}", self.outbound));
        rules
    }

    /// Connections that come to the pod from outside.
    fn prerouting(&self) -> Vec<String> {
        let mut rules = vec!["iifname \"lo\" return".to_owned(), format!("tcp dport {} return", self.mesh)];
        rules.extend(skip_ports(&self.health));
        rules.extend(self.only_ipv4());
        rules.extend(skip_ports(&self.skip_inbound_ports));
        rules.push(format!("meta l4proto tcp redirect to :{}", self.inbound));
        rules
    }

    fn canary(&self, matched: &str, address: &dyn Display) -> String {
        format!("{matched} {address} tcp dport {} redirect to :{}", canary::PORT, self.outbound)
    }

    fn only_ipv4(&self) -> Option<String> {
        (!self.ipv6).then(|| "meta nfproto ipv6 return".to_owned())
    }
}

fn skip_ports(ports: &[u16]) -> Option<String> {
    let set = set(ports.iter())?;
    Some(format!("tcp dport {set} return"))
}

fn skip_addresses<'a>(family: &str, blocks: impl Iterator<Item = &'a IpBlock>) -> Option<String> {
    let set = set(blocks.map(|block| format!("{}/{}", block.base, block.prefix)))?;
    Some(format!("{family} daddr {set} return"))
}

/// An anonymous set, sorted and without duplicates; `None` if it would be empty, which nft doesn't take.
fn set(items: impl Iterator<Item = impl ToString>) -> Option<String> {
    let items: std::collections::BTreeSet<String> = items.map(|item| item.to_string()).collect();
    (!items.is_empty()).then(|| format!("{{ {} }}", items.into_iter().collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests;
