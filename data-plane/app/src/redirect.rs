//! Captures a pod's traffic, then ends.

use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use outrigger_dataplane::redirect::{self, Exempt, Redirect};
use outrigger_wire::names::{PROXY_UID, ports};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// User whose traffic isn't captured: the proxies'.
    #[arg(long, env = "OUTRIGGER_PROXY_UID", conflicts_with = "proxy_mark")]
    proxy_uid: Option<u32>,
    /// SO_MARK of traffic that isn't captured, where the proxies can't have a user of their own.
    #[arg(long, env = "OUTRIGGER_PROXY_MARK")]
    proxy_mark: Option<u32>,
    /// Ports of the pod that are reached without a proxy.
    #[arg(long, env = "OUTRIGGER_SKIP_INBOUND_PORTS", value_delimiter = ',')]
    skip_inbound_ports: Vec<u16>,
    /// Ports that the pod's apps call without a proxy.
    #[arg(long, env = "OUTRIGGER_SKIP_OUTBOUND_PORTS", value_delimiter = ',')]
    skip_outbound_ports: Vec<u16>,
    /// Address blocks (CIDR) that the pod's apps call without a proxy.
    #[arg(long, env = "OUTRIGGER_SKIP_OUTBOUND_CIDRS", value_delimiter = ',')]
    skip_outbound_cidrs: Vec<String>,
    /// Leave IPv6 alone.
    #[arg(long, env = "OUTRIGGER_NO_IPV6")]
    no_ipv6: bool,
    /// Print the rules, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take the rules away.
    #[arg(long, conflicts_with = "dry_run")]
    remove: bool,
    /// Change nothing; fail if the rules aren't there.
    #[arg(long, conflicts_with_all = ["dry_run", "remove"])]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.remove {
        return Ok(redirect::remove()?);
    }
    let mut cidrs = Vec::new();
    for text in &args.skip_outbound_cidrs {
        match text.parse() {
            Ok(block) => cidrs.push(block),
            Err(_) => bail!("--skip-outbound-cidrs: {text:?} is no address block; write it as 10.0.0.0/8"),
        }
    }
    let rules = Redirect {
        outbound: ports::OUTBOUND,
        inbound: ports::INBOUND,
        mesh: ports::MESH,
        health: vec![ports::HEALTH, ports::GUARD_HEALTH],
        exempt: args.proxy_mark.map_or(Exempt::Uid(args.proxy_uid.unwrap_or(PROXY_UID)), Exempt::Mark),
        skip_inbound_ports: args.skip_inbound_ports.clone(),
        skip_outbound_ports: args.skip_outbound_ports.clone(),
        skip_outbound_cidrs: cidrs,
        ipv6: !args.no_ipv6,
    };
    if args.dry_run {
        print!("{}", redirect::render(&rules));
        return Ok(());
    }
    if args.check {
        return Ok(redirect::check(&rules)?);
    }
    Ok(redirect::apply(&rules)?)
}
