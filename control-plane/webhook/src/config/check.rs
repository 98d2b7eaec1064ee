//! What settings may be: the same for the file and for pods' annotations.

use std::{ops::RangeInclusive, str::FromStr};

use outrigger_core::config::IpBlock;

use super::{ContainerResources, InjectorConfig};
use crate::{quantity, refusal::Problems};

/// A proxy that needs more than these should be several pods.
const MAX_WORKERS: usize = 64;

/// Nobody waits for longer than a day.
const MAX_DRAIN_SECONDS: u64 = 24 * 3600;

/// Acknowledgements that haven't come within an hour won't.
const MAX_DEPARTURE_SECONDS: u64 = 3600;

/// What is wrong with a value, and what to do about it.
type Fault = (String, &'static str);

pub(super) fn check(config: &InjectorConfig, problems: &mut Problems) {
    fn add<T>(problems: &mut Problems, field: &str, checked: Result<T, Fault>) {
        if let Err((problem, remedy)) = checked {
            problems.add(field, problem, remedy);
        }
    }
    add(problems, "image", image(&config.image));
    add(problems, "controller", address(&config.controller));
    add(problems, "log", log(&config.log));
    add(problems, "workers", workers(&config.workers.to_string()));
    add(problems, "drainSeconds", seconds(&config.drain_seconds.to_string()));
    add(problems, "departureSeconds", departure(&config.departure_seconds.to_string()));
    for (field, ports) in
        [("skipInboundPorts", &config.skip_inbound_ports), ("skipOutboundPorts", &config.skip_outbound_ports)]
    {
        for (index, number) in ports.iter().enumerate() {
            add(problems, &format!("{field}[{index}]"), port(&number.to_string()));
        }
    }
    for (index, block) in config.skip_outbound_cidrs.iter().enumerate() {
        add(problems, &format!("skipOutboundCidrs[{index}]"), cidr(block));
    }
    if config.version.is_empty() {
        problems.add("version", "it is empty", "leave it out, or write the mesh's version");
    }
    let resources = &config.resources;
    for (name, resources) in
        [("sidecar", &resources.sidecar), ("guard", &resources.guard), ("redirect", &resources.redirect)]
    {
        check_resources(resources, problems, |kind, amount| format!("resources.{name}.{kind}s.{amount}"));
    }
}

/// `field` names a field by `request` or `limit`, and `cpu` or `memory`.
pub(crate) fn check_resources(
    resources: &ContainerResources,
    problems: &mut Problems,
    field: impl Fn(&str, &str) -> String,
) {
    let pairs = resources.requests.named().into_iter().zip(resources.limits.named());
    for ((name, request), (_, limit)) in pairs {
        let mut value = |kind: &str, text: Option<&str>| {
            let text = text?.to_owned();
            let value = quantity::parse(&text);
            if value.is_none() {
                let remedy = if name == "cpu" { "write it as 100m or 0.5" } else { "write it as 64Mi or 1Gi" };
                problems.add(field(kind, name), format!("{text:?} is no quantity"), remedy);
            } else if name == "memory" && text.ends_with(['m', 'u', 'n']) {
                problems.add(field(kind, name), format!("{text:?} is a fraction of a byte"), "write it as 64Mi or 1Gi");
            }
            value.map(|value| (value, text))
        };
        if let (Some((request, text)), Some((limit, least))) = (value("request", request), value("limit", limit))
            && request > limit
        {
            let problem = format!("{text} is more than the limit, which is {least}");
            problems.add(field("request", name), problem, "request less, or raise the limit too");
        }
    }
}

fn image(text: &str) -> Result<(), Fault> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err((format!("{text:?} is no image"), "write it as registry.example/outrigger:0.1.0"));
    }
    Ok(())
}

fn address(text: &str) -> Result<(), Fault> {
    let good = text.rsplit_once(':').is_some_and(|(host, number)| {
        !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/') && port(number).is_ok()
    });
    if good { Ok(()) } else { Err((format!("{text:?} is no address"), "write HOST:PORT, without a scheme")) }
}

pub(crate) fn log(text: &str) -> Result<String, Fault> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err((format!("{text:?} is no log filter"), "write it as info or outrigger_dataplane=debug,info"));
    }
    Ok(text.to_owned())
}

pub(crate) fn workers(text: &str) -> Result<usize, Fault> {
    number(text, 1..=MAX_WORKERS, "number of workers", "write a number from 1 to 64")
}

pub(crate) fn seconds(text: &str) -> Result<u64, Fault> {
    number(text, 0..=MAX_DRAIN_SECONDS, "number of seconds", "write a number from 0 to 86400")
}

pub(crate) fn departure(text: &str) -> Result<u64, Fault> {
    number(text, 0..=MAX_DEPARTURE_SECONDS, "number of seconds", "write a number from 0 to 3600")
}

pub(crate) fn port(text: &str) -> Result<u16, Fault> {
    number(text, 1..=u16::MAX, "port", "write a number from 1 to 65535")
}

fn number<T: FromStr + PartialOrd>(
    text: &str,
    range: RangeInclusive<T>,
    what: &str,
    remedy: &'static str,
) -> Result<T, Fault> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| (format!("{text:?} is no {what}"), remedy))
}

pub(crate) fn cidr(text: &str) -> Result<String, Fault> {
    match text.parse::<IpBlock>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err((format!("{text:?} is no address block"), "write it as 10.0.0.0/8 or fd00::/8")),
    }
}
