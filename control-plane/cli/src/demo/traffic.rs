//! Who talks to whom, from what the pods' own metrics say. Callees count: they know their callers by certificate, and
//! it shows there whichever proxy spoke for the caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_testbed::{
    net::Namespace,
    probe::{self, Metric},
};
use outrigger_wire::names::ports;

/// All pods' metrics of one moment.
#[derive(Debug, Clone)]
pub(crate) struct Scrape {
    at: Instant,
    pods: BTreeMap<String, PodMetrics>,
}

/// Empty where nobody answers.
#[derive(Debug, Clone, Default)]
struct PodMetrics {
    sidecar: Vec<Metric>,
    guard: Vec<Metric>,
}

/// Calls of one caller to one pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Edge {
    /// SPIFFE ID that the caller proved, or what stands in its place.
    pub(crate) caller: String,
    pub(crate) callee: String,
    /// Requests (or connections, of opaque TCP) per second.
    pub(crate) rate: f64,
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
    /// Answers of 4xx and 5xx per second.
    pub(crate) errors: f64,
}

/// What carries a pod's traffic.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Carrier {
    pub(crate) pod: String,
    pub(crate) sidecar: bool,
    pub(crate) guard: bool,
    /// Connections through a shared proxy so far.
    pub(crate) fallback: f64,
    pub(crate) reasons: BTreeSet<String>,
}

// === impl Scrape ===

impl Scrape {
    pub(crate) fn take(pods: &[(String, Arc<Namespace>)]) -> Self {
        let look = |namespace: &Namespace, port| {
            let page = probe::get(namespace, port, "/metrics");
            page.map(|page| probe::metrics(&page.body)).unwrap_or_default()
        };
        let one = |(name, namespace): &(String, Arc<Namespace>)| {
            let guard = look(namespace, ports::GUARD_ADMIN);
            (name.clone(), PodMetrics { sidecar: look(namespace, ports::ADMIN), guard })
        };
        Self { at: Instant::now(), pods: pods.iter().map(one).collect() }
    }

    pub(crate) fn carriers(&self) -> Vec<Carrier> {
        let carrier = |(pod, metrics): (&String, &PodMetrics)| {
            let all = metrics.guard.iter().chain(&metrics.sidecar);
            let used = all.filter(|metric| metric.name == "outrigger_fallback_connections_total" && metric.value > 0.0);
            let used: Vec<_> = used.collect();
            Carrier {
                pod: pod.clone(),
                sidecar: !metrics.sidecar.is_empty(),
                guard: !metrics.guard.is_empty(),
                fallback: used.iter().map(|metric| metric.value).sum(),
                reasons: used.iter().filter_map(|metric| metric.labels.get("reason").cloned()).collect(),
            }
        };
        self.pods.iter().map(carrier).collect()
    }

    /// What happened since `before`.
    pub(crate) fn edges(&self, before: &Self) -> Vec<Edge> {
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(0.001);
        // A callee's calls are counted by its own sidecar, and by the shared proxies that stand in for it.
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for (pod, metrics) in &self.pods {
            let old = before.pods.get(pod).map(|metrics| metrics.sidecar.as_slice()).unwrap_or_default();
            for metric in inbound(&metrics.sidecar) {
                if let (Some(caller), Some(callee)) = (metric.labels.get("peer"), metric.labels.get("service")) {
                    all.entry((caller, callee)).or_default().push((metric, grown(metric, old)));
                }
            }
        }
        let edges = all.iter().map(|((caller, callee), grown)| edge(caller, callee, grown, seconds));
        edges.filter(|edge| edge.rate > 0.0).collect()
    }
}

fn inbound(metrics: &[Metric]) -> impl Iterator<Item = &Metric> {
    metrics.iter().filter(|metric| metric.labels.get("direction").is_some_and(|direction| direction == "inbound"))
}

/// Growth of a series. A sidecar that began anew counts from zero.
fn grown(metric: &Metric, old: &[Metric]) -> f64 {
    let before = old.iter().find(|one| one.name == metric.name && one.labels == metric.labels);
    metric.value - before.map(|one| one.value).filter(|value| *value <= metric.value).unwrap_or_default()
}

fn edge(caller: &str, callee: &str, grown: &[(&Metric, f64)], seconds: f64) -> Edge {
    let sum = |which: &dyn Fn(&Metric) -> bool| {
        // An empty sum of floats is -0.
        grown.iter().filter(|(metric, _)| which(metric)).fold(0.0, |sum, (_, by)| sum + by)
    };
    let calls = |metric: &Metric| {
        matches!(metric.name.as_str(), "outrigger_http_requests_total" | "outrigger_tcp_connections_opened_total")
    };
    let failed = |metric: &Metric| {
        metric.name == "outrigger_http_requests_total"
            && metric.labels.get("code").is_some_and(|code| code.starts_with(['4', '5']))
    };
    let mut buckets = BTreeMap::<u64, f64>::new();
    for (metric, by) in grown {
        if metric.name == "outrigger_http_request_duration_seconds_bucket"
            && let Some(le) = metric.labels.get("le").and_then(|le| le.parse::<f64>().ok())
        {
            // A float-to-integer cast saturates, so "+Inf" comes last.
            *buckets.entry((le * 1e6).round() as u64).or_default() += by;
        }
    }
    Edge {
        caller: caller.to_owned(),
        callee: callee.to_owned(),
        rate: sum(&calls) / seconds,
        p50: quantile(&buckets, 0.5),
        p99: quantile(&buckets, 0.99),
        errors: sum(&failed) / seconds,
    }
}

/// Of cumulative buckets by their upper bounds in microseconds: the bound that the quantile lies below.
fn quantile(buckets: &BTreeMap<u64, f64>, quantile: f64) -> Option<Duration> {
    let all = *buckets.last_key_value()?.1;
    let bound = buckets.iter().find(|(_, count)| all > 0.0 && **count >= all * quantile)?.0;
    (*bound < u64::MAX).then(|| Duration::from_micros(*bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(at: Instant, text: &str) -> Scrape {
        let metrics = PodMetrics { sidecar: probe::metrics(text), guard: Vec::new() };
        Scrape { at, pods: BTreeMap::from([("shop/cart".to_owned(), metrics)]) }
    }

    #[test]
    fn an_edge_is_what_has_grown() {
        let text = |ok: u32, bad: u32| {
            let labels = "direction=\"inbound\",service=\"shop/cart\",route=\"\",peer=\"spiffe://x/ns/a/sa/b\"";
            format!(
                "outrigger_http_requests_total{{{labels},code=\"200\"}} {ok}\n\
                 outrigger_http_requests_total{{{labels},code=\"503\"}} {bad}\n\
                 outrigger_http_request_duration_seconds_bucket{{{labels},le=\"0.001\"}} {ok}\n\
                 outrigger_http_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {}\n",
                ok + bad
            )
        };
        let start = Instant::now();
        let later = scrape(start + Duration::from_secs(2), &text(110, 10));
        let want = Edge {
            caller: "spiffe://x/ns/a/sa/b".to_owned(),
            callee: "shop/cart".to_owned(),
            rate: 10.0,
            p50: Some(Duration::from_millis(1)),
            p99: None,
            errors: 5.0,
        };
        assert_eq!(later.edges(&scrape(start, &text(100, 0))), std::slice::from_ref(&want));
        // One that has restarted begins at zero.
        assert_eq!(later.edges(&scrape(start, &text(500, 500)))[0].rate, 60.0);
        assert!(later.edges(&later).is_empty());
    }
}
