//! Which charts there are.

use crate::{
    data::{Results, Spread},
    groups::traffic::{LOADS, OPEN},
    svg::{self, Bar, Line, Panel},
};

/// Name, title and SVG of each that there is data for.
pub(crate) fn all(results: &Results) -> Vec<(String, String, String)> {
    let cpu = "µs of CPU time per request, HTTP/1.1, 1 KB, 32 connections";
    let pair = "µs of CPU time per request, two proxies with mutual TLS between, 32 connections";
    let charts = [
        ("http1-cpu", cpu, bars(results, ("http1", "c32"), "cpu", cpu, 1)),
        ("pair-cpu", pair, bars(results, ("pair", "c32"), "cpu", pair, 1)),
        ("latency", LATENCY, latency(results)),
    ];
    charts.into_iter().filter_map(|(name, title, svg)| Some((name.to_owned(), title.to_owned(), svg?))).collect()
}

fn bars(results: &Results, (group, table): (&str, &str), figure: &str, title: &str, digits: usize) -> Option<String> {
    let rows = &results.table(group, table)?.0;
    let bars: Vec<_> = rows
        .iter()
        .filter_map(|row| {
            let spread = Spread::of(row.values.get(figure)?)?;
            let ours = ["sidecar", "guard"].iter().any(|name| row.name.contains(name));
            Some(Bar { name: row.name.clone(), spread, ours })
        })
        .collect();
    (!bars.is_empty()).then(|| svg::bars(title, &bars, digits))
}

const LATENCY: &str = "Latency over load, open loop, HTTP/1.1, 1 KB";

fn latency(results: &Results) -> Option<String> {
    results.0.get("open-loop")?;
    let panels: Vec<_> = [("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")]
        .map(|(figure, title)| {
            let line = |name: &str| Line {
                name: name.to_owned(),
                points: LOADS
                    .into_iter()
                    .filter_map(|percent| {
                        let values = results.of("open-loop", &format!("p{percent}"), name, figure)?;
                        Some((f64::from(percent), Spread::of(values)?.median))
                    })
                    .collect(),
            };
            Panel { title: title.to_owned(), lines: OPEN.iter().map(|way| line(way.name())).collect() }
        })
        .into();
    Some(svg::panels(LATENCY, "percent of what the slowest can do; the same rates for all", &panels))
}
