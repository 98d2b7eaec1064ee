//! From what was gathered to what is shown. Pure.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::report::{Controller, Fallback, Mode, Part, Proxy, Report, Summary, Sync};

/// What was gathered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Unix seconds.
    pub(crate) now: i64,
    pub(crate) controllers: Vec<ControllerFacts>,
    /// None where nobody knows of pods.
    pub(crate) pods: Option<Vec<PodFacts>>,
}

#[derive(Debug, Clone)]
pub(crate) struct ControllerFacts {
    pub(crate) name: String,
    pub(crate) ready: bool,
    /// Its pages, or why there are none.
    pub(crate) pages: Result<Pages, String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Pages {
    /// `/debug/proxies`
    pub(crate) proxies: Value,
    /// `/debug/resources`
    pub(crate) resources: Value,
    /// `/debug/leader`; null if it has none.
    pub(crate) leader: Value,
}

/// A pod that has proxies.
#[derive(Debug, Clone)]
pub(crate) struct PodFacts {
    pub(crate) workload: String,
    pub(crate) mode: Mode,
    pub(crate) version: Option<String>,
    /// By name of the part: its configuration dump, or why there is none.
    pub(crate) dumps: Vec<(&'static str, Result<Value, String>)>,
}

/// A stream of configuration as a controller sees it.
#[derive(Debug, Clone)]
struct Stream<'a> {
    controller: &'a str,
    node: &'a str,
    workload: &'a str,
    generation: Option<u64>,
    sync: Sync,
    reason: Option<String>,
    current: usize,
    held: usize,
}

pub(crate) fn report(facts: &Facts) -> Report {
    let streams: Vec<Stream<'_>> = facts.controllers.iter().flat_map(streams).collect();
    let controllers = facts.controllers.iter().map(controller).collect();
    let mut proxies: Vec<Proxy> = match &facts.pods {
        Some(pods) => pods.iter().map(|pod| proxy(pod, &streams, facts.now)).collect(),
        None => unseen(&streams),
    };
    proxies.sort_by(|a, b| a.workload.cmp(&b.workload));
    let mut report = Report { controllers, proxies, summary: Summary::default() };
    report.summary = summary(&report);
    report
}

fn controller(facts: &ControllerFacts) -> Controller {
    let pages = facts.pages.as_ref().ok();
    Controller {
        name: facts.name.clone(),
        ready: facts.ready,
        leader: pages.and_then(|pages| pages.leader["leader"].as_bool()),
        generation: pages.and_then(|pages| pages.resources["generation"].as_u64()),
        streams: pages.and_then(|pages| pages.proxies.as_array()).map_or(0, Vec::len),
        error: facts.pages.as_ref().err().cloned(),
    }
}

/// A controller's streams, each judged by what that controller serves.
fn streams(facts: &ControllerFacts) -> Vec<Stream<'_>> {
    let Ok(pages) = &facts.pages else { return Vec::new() };
    let all = pages.proxies.as_array().into_iter().flatten();
    all.map(|entry| stream(&facts.name, entry, &pages.resources["types"])).collect()
}

fn stream<'a>(controller: &'a str, entry: &'a Value, served: &Value) -> Stream<'a> {
    let (mut held, mut current, mut behind, mut nacks) = (0, 0, Vec::new(), Vec::new());
    for (url, of_type) in entry["types"].as_object().into_iter().flatten() {
        for (name, version) in of_type["resources"].as_object().into_iter().flatten() {
            held += 1;
            if served[url][name] == *version {
                current += 1;
            } else {
                behind.push(format!("{} {name}", short(url)));
            }
        }
        if let Some(reason) = of_type["nack"]["reason"].as_str() {
            nacks.push(reason.to_owned());
        }
    }
    let (sync, reason) = match (nacks.is_empty(), behind.is_empty()) {
        (false, _) => (Sync::Rejected, Some(nacks.join("; "))),
        (true, false) => (Sync::Stale, Some(format!("behind in {}", some_of(&behind)))),
        (true, true) => (Sync::Synced, None),
    };
    Stream {
        controller,
        node: entry["node"].as_str().unwrap_or_default(),
        workload: entry["workload"].as_str().unwrap_or_default(),
        generation: entry["generation"].as_u64(),
        sync,
        reason,
        current,
        held,
    }
}

/// Proxies of which only streams are known.
fn unseen(streams: &[Stream<'_>]) -> Vec<Proxy> {
    let mut by_workload = BTreeMap::<&str, Vec<&Stream<'_>>>::new();
    for stream in streams {
        by_workload.entry(stream.workload).or_default().push(stream);
    }
    let proxy = |(workload, streams): (&str, Vec<&Stream<'_>>)| {
        let parts = streams.iter().map(|stream| part(part_of(stream.node), Some(stream), None)).collect();
        whole(workload.to_owned(), Mode::Unknown, None, None, parts)
    };
    by_workload.into_iter().map(proxy).collect()
}

fn proxy(pod: &PodFacts, streams: &[Stream<'_>], now: i64) -> Proxy {
    let own: Vec<_> = streams.iter().filter(|stream| stream.workload == pod.workload).collect();
    let parts: Vec<_> = pod
        .dumps
        .iter()
        .map(|(name, dump)| {
            // A part's newest stream: an old one may take a moment to be seen to have ended.
            let stream = own.iter().rev().find(|stream| part_of(stream.node) == *name);
            part(name, stream.copied(), Some(dump))
        })
        .collect();
    let guard = pod.dumps.iter().find_map(|(_, dump)| dump.as_ref().ok()?.get("guard"));
    let fallback = guard.and_then(|guard| fallback(guard, pod.mode, now));
    let mut proxy = whole(pod.workload.clone(), pod.mode, pod.version.clone(), fallback, parts);
    proxy.certificate_seconds =
        proxy.certificate_expires.as_ref().and_then(|it| it.parse::<Timestamp>().ok()).map(|it| it.as_second() - now);
    proxy
}

fn whole(workload: String, mode: Mode, version: Option<String>, fallback: Option<Fallback>, parts: Vec<Part>) -> Proxy {
    let worst = parts.iter().max_by_key(|part| part.sync);
    // Certificates of one process are all of the same zone and form: they sort as text.
    let ends = parts.iter().filter_map(|part| part.certificate_expires.clone()).min();
    Proxy {
        workload,
        mode,
        version: version.or_else(|| parts.iter().find_map(|part| part.version.clone())),
        sync: worst.map_or(Sync::Disconnected, |part| part.sync),
        reason: worst.and_then(|part| part.reason.clone()),
        fallback,
        certificate_expires: ends,
        certificate_seconds: None,
        parts,
    }
}

fn part(name: &'static str, stream: Option<&Stream<'_>>, dump: Option<&Result<Value, String>>) -> Part {
    let shown = dump.and_then(|dump| dump.as_ref().ok());
    let error = dump.and_then(|dump| dump.as_ref().err().cloned());
    let refusals = shown.map(refusals).unwrap_or_default();
    let (sync, reason) = match stream {
        _ if !refusals.is_empty() => (Sync::Rejected, Some(refusals.join("; "))),
        Some(stream) => (stream.sync, stream.reason.clone()),
        None => {
            let last = shown.and_then(|dump| dump["status"]["last_error"].as_str());
            let why = last.or(error.as_deref()).map(|why| format!(": {why}")).unwrap_or_default();
            let closed = match shown.and_then(|dump| dump["status"]["closed"].as_u64()) {
                None | Some(0) => "",
                Some(_) => "; it refuses calls meanwhile (onControlPlaneLoss: Closed)",
            };
            (Sync::Disconnected, Some(format!("no controller has a stream of its {name}{why}{closed}")))
        }
    };
    Part {
        name,
        version: shown.and_then(|dump| dump["version"].as_str()).map(str::to_owned),
        sync,
        reason,
        controller: stream.map(|stream| stream.controller.to_owned()),
        generation: stream.and_then(|stream| stream.generation),
        current: stream.map_or(0, |stream| stream.current),
        held: stream.map_or(0, |stream| stream.held),
        certificate_expires: shown.and_then(|dump| time(&dump["certificate"]["not_after"])),
        error,
    }
}

fn refusals(dump: &Value) -> Vec<String> {
    let all = dump["status"]["refusals"].as_array().into_iter().flatten();
    all.map(|it| {
        let text = |name: &str| it[name].as_str().unwrap_or_default();
        format!("{} {}: {}", short(text("type_url")), text("name"), text("reason"))
    })
    .collect()
}

/// Who carries the pod, unless it is as it should be.
fn fallback(guard: &Value, mode: Mode, now: i64) -> Option<Fallback> {
    let state = guard["state"].as_str()?;
    if matches!(state, "standby" | "starting") {
        return None;
    }
    Some(Fallback {
        state: state.to_owned(),
        reason: guard["reason"].as_str().map(str::to_owned),
        since: time(&guard["since"]),
        seconds: guard["since"].as_i64().map(|since| now - since),
        connections: guard["carried"]["now"].as_u64().unwrap_or_default(),
        intended: mode == Mode::Shared && state == "carrying",
    })
}

fn summary(report: &Report) -> Summary {
    let count = |sync: Sync| report.proxies.iter().filter(|proxy| proxy.sync == sync).count();
    let in_fallback = |proxy: &&Proxy| proxy.fallback.as_ref().is_some_and(|fallback| !fallback.intended);
    let unreachable = |proxy: &&Proxy| proxy.parts.iter().any(|part| part.error.is_some());
    Summary {
        proxies: report.proxies.len(),
        synced: count(Sync::Synced),
        stale: count(Sync::Stale),
        rejected: count(Sync::Rejected),
        disconnected: count(Sync::Disconnected),
        in_fallback: report.proxies.iter().filter(in_fallback).count(),
        unreachable: report.proxies.iter().filter(unreachable).count(),
        controllers: report.controllers.len(),
        controllers_ready: report.controllers.iter().filter(|it| it.ready && it.error.is_none()).count(),
        leader: report.controllers.iter().find(|it| it.leader == Some(true)).map(|it| it.name.clone()),
    }
}

/// The process of a pod that a stream's node (`NAMESPACE/POD/ROLE`) stands for.
fn part_of(node: &str) -> &'static str {
    match node.rsplit('/').next().unwrap_or(node) {
        "sidecar" => "sidecar",
        "guard" => "guard",
        "shared" => "shared",
        _ => "proxy",
    }
}

/// `Service` of `type.googleapis.com/outrigger.config.v1alpha1.Service`.
fn short(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{}{more}", names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", "))
}

/// Unix seconds as RFC 3339.
fn time(seconds: &Value) -> Option<String> {
    Timestamp::from_second(seconds.as_i64()?).ok().map(|time| time.to_string())
}

#[cfg(test)]
mod tests;
