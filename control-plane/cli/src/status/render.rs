//! The status for people.

use std::fmt::Write as _;

use super::report::{Controller, Fallback, Mode, Proxy, Report, Sync};
use crate::terminal::{Paint, columns, span};

/// Certificates are renewed at half of their 24 hours: one that has less left isn't.
const SHORT: i64 = 6 * 3600;

pub(super) fn text(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    if !report.proxies.is_empty() {
        let head =
            ["PROXY", "MODE", "VERSION", "CONFIG", "CURRENT", "GENERATION", "FALLBACK", "CERTIFICATE", "CONTROLLER"];
        let head = head.iter().map(ToString::to_string).collect();
        let rows: Vec<_> = std::iter::once(head).chain(report.proxies.iter().map(|proxy| row(proxy, paint))).collect();
        out.push_str(&columns(&rows));
        out.push('\n');
    }
    let head = ["CONTROLLER", "READY", "LEADER", "GENERATION", "STREAMS"].iter().map(ToString::to_string).collect();
    let rows: Vec<_> =
        std::iter::once(head).chain(report.controllers.iter().map(|one| controller(one, paint))).collect();
    out.push_str(&columns(&rows));
    out.push_str(&details(report));
    out.push_str(&summary(report, paint));
    out
}

fn row(proxy: &Proxy, paint: Paint) -> Vec<String> {
    let first = proxy.parts.first();
    let (current, held) = proxy.parts.iter().fold((0, 0), |sum, part| (sum.0 + part.current, sum.1 + part.held));
    vec![
        proxy.workload.clone(),
        match proxy.mode {
            Mode::Sidecar => "sidecar".to_owned(),
            Mode::Shared => "shared".to_owned(),
            Mode::SharedProxy => "shared proxy".to_owned(),
            Mode::Unknown => proxy.parts.iter().map(|part| part.name).collect::<Vec<_>>().join("+"),
        },
        or_dash(proxy.version.as_deref()),
        match proxy.sync {
            Sync::Synced => paint.green("SYNCED"),
            Sync::Stale => paint.yellow("STALE"),
            Sync::Disconnected => paint.yellow("DISCONNECTED"),
            Sync::Rejected => paint.red("REJECTED"),
        },
        format!("{current}/{held}"),
        or_dash(first.and_then(|part| part.generation).map(|generation| generation.to_string()).as_deref()),
        proxy.fallback.as_ref().map_or("-".to_owned(), |fallback| carried(fallback, paint)),
        certificate(proxy, paint),
        or_dash(first.and_then(|part| part.controller.as_deref())),
    ]
}

fn carried(fallback: &Fallback, paint: Paint) -> String {
    let since = fallback.seconds.map(|it| format!(" {}", span(it.max(0).cast_unsigned()))).unwrap_or_default();
    let why = fallback.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let text = format!("{}{since}{why}", fallback.state);
    match (fallback.intended, fallback.state.as_str()) {
        (true, _) => text,
        (false, "carrying") => paint.yellow(&text),
        (false, _) => paint.red(&text),
    }
}

fn certificate(proxy: &Proxy, paint: Paint) -> String {
    match proxy.certificate_seconds {
        None => "-".to_owned(),
        Some(left) if left <= 0 => paint.red("expired"),
        Some(left) if left < SHORT => paint.yellow(&span(left.cast_unsigned())),
        Some(left) => span(left.cast_unsigned()),
    }
}

fn controller(controller: &Controller, paint: Paint) -> Vec<String> {
    vec![
        controller.name.clone(),
        if controller.ready { paint.green("yes") } else { paint.red("no") },
        match controller.leader {
            Some(true) => "yes".to_owned(),
            Some(false) => "no".to_owned(),
            None => "-".to_owned(),
        },
        or_dash(controller.generation.map(|generation| generation.to_string()).as_deref()),
        controller.streams.to_string(),
    ]
}

/// A line for each thing that is not as it should be.
fn details(report: &Report) -> String {
    let mut lines = String::new();
    // Writing to a string can't fail.
    for controller in &report.controllers {
        if let Some(error) = &controller.error {
            let _ = writeln!(lines, "{}: can't be asked: {error}", controller.name);
        }
    }
    for proxy in &report.proxies {
        if let Some(reason) = &proxy.reason {
            let _ = writeln!(lines, "{}: {reason}", proxy.workload);
        }
        for part in &proxy.parts {
            if let Some(error) = &part.error {
                let _ = writeln!(lines, "{}: its {} can't be asked: {error}", proxy.workload, part.name);
            }
        }
    }
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

fn summary(report: &Report, paint: Paint) -> String {
    let it = &report.summary;
    let mut said = vec![format!("{} of {} proxies synced", it.synced, it.proxies)];
    let others = [
        (it.stale, "stale"),
        (it.rejected, "with something rejected"),
        (it.disconnected, "disconnected"),
        (it.in_fallback, "in fallback"),
        (it.unreachable, "not reachable"),
    ];
    said.extend(others.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
    said.push(format!("{} of {} controllers ready", it.controllers_ready, it.controllers));
    said.extend(it.leader.as_ref().map(|leader| format!("leader {leader}")));
    let line = format!("{}.", said.join(", "));
    let line = if report.has_findings() { paint.yellow(&line) } else { paint.green(&line) };
    format!("\n{line}\n")
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}
