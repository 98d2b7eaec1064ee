//! What a pod's proxies and those of its callers count as failed, and whether it has become more. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Of one process since it started, or the difference of two such.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests, opaque connections, and connections that a guard carried.
    pub(super) tried: u64,
    /// By what went wrong.
    pub(super) failed: BTreeMap<String, u64>,
}

/// What callers' apps were answered, by caller: what a proxy breaks without noticing it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Callers(pub(super) BTreeMap<String, Counts>);

/// Counters of what was tried.
const TRIED: [&str; 3] =
    ["outrigger_http_requests_total", "outrigger_tcp_connections_opened_total", "outrigger_fallback_connections_total"];

/// Counters of what went wrong, whatever their labels, and what to call it.
const FAILED: [(&str, &str); 4] = [
    ("outrigger_upstream_connect_failures_total", "connections to endpoints failed"),
    ("outrigger_tls_handshake_failures_total", "TLS handshakes failed"),
    ("outrigger_fallback_failures_total", "connections that no shared proxy took"),
    ("outrigger_connections_shed_total", "connections shed"),
];

/// gRPC's words for what a proxy answers if it can't do its work.
const GRPC_FAILED: [&str; 2] = ["8", "14"];

// === impl Counts ===

impl Counts {
    /// Reads a page of metrics. What isn't understood isn't counted.
    pub(super) fn read(page: &str) -> Self {
        Self::of(page, |_| true)
    }

    /// Of a caller's page, what these services have answered it.
    pub(super) fn of_services(page: &str, services: &BTreeSet<String>) -> Self {
        Self::of(page, |labels| {
            label(labels, "direction") == Some("outbound")
                && label(labels, "peer").is_some_and(|peer| services.contains(peer))
        })
    }

    fn of(page: &str, counts_if: impl Fn(&str) -> bool) -> Self {
        let mut counts = Self::default();
        for (name, labels, value) in lines(page).filter(|(_, labels, _)| counts_if(labels)) {
            if TRIED.contains(&name) {
                counts.tried += value;
            }
            let what = match name {
                "outrigger_http_requests_total" => {
                    label(labels, "code").filter(|code| code.starts_with('5')).map(|code| format!("answered {code}"))
                }
                "outrigger_grpc_requests_total" => label(labels, "grpc_status")
                    .filter(|status| GRPC_FAILED.contains(status))
                    .map(|status| format!("gRPC status {status}")),
                _ => FAILED.iter().find(|(counter, _)| *counter == name).map(|(_, what)| (*what).to_owned()),
            };
            if let Some(what) = what.filter(|_| value > 0) {
                *counts.failed.entry(what).or_default() += value;
            }
        }
        counts
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        sum.tried += other.tried;
        for (what, count) in &other.failed {
            *sum.failed.entry(what.clone()).or_default() += count;
        }
        sum
    }

    /// What has come since; from a process that began anew, all that it has.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        if self.tried < earlier.tried {
            return self.clone();
        }
        let fresh = |(what, count): (&String, &u64)| {
            let more = count.saturating_sub(earlier.failed.get(what).copied().unwrap_or_default());
            (more > 0).then(|| (what.clone(), more))
        };
        Self { tried: self.tried - earlier.tried, failed: self.failed.iter().filter_map(fresh).collect() }
    }

    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Says what has failed if that is more than in as many tries before, and by more than `allowed`.
    pub(super) fn risen(&self, before: &Self, allowed: u64) -> Option<String> {
        let usual = (u128::from(before.failures()) * u128::from(self.tried)).div_ceil(u128::from(before.tried.max(1)));
        let failures = self.failures();
        if u128::from(failures) <= usual + u128::from(allowed) {
            return None;
        }
        let all: Vec<_> = self.failed.iter().map(|(what, count)| format!("{what}: {count}")).collect();
        Some(format!("{failures} failures in {} tries, where {usual} were usual ({})", self.tried, all.join(", ")))
    }
}

// === impl Callers ===

impl Callers {
    /// What has come since, to those who were there already.
    pub(super) fn since(&self, earlier: &Self) -> Counts {
        let both = self.0.iter().filter_map(|(name, counts)| Some(counts.since(earlier.0.get(name)?)));
        both.fold(Counts::default(), |sum, counts| sum.plus(&counts))
    }

    pub(super) fn all(&self) -> Counts {
        self.0.values().fold(Counts::default(), |sum, counts| sum.plus(counts))
    }
}

/// Who has called, by a callee's page: the identities that it was shown.
pub(super) fn identities(page: &str) -> BTreeSet<&str> {
    let inbound = lines(page).filter(|(_, labels, _)| label(labels, "direction") == Some("inbound"));
    inbound.filter_map(|(_, labels, _)| label(labels, "peer")).collect()
}

/// Counters of a page of metrics: name, labels, value.
fn lines(page: &str) -> impl Iterator<Item = (&str, &str, u64)> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        Some((name, labels, value.parse().ok()?))
    })
}

/// The value of a label, as `name="value"` among others. Values that we look for hold no quotes.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.rsplit_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP outrigger_http_requests Requests that have ended
# TYPE outrigger_http_requests counter
outrigger_http_requests_total{direction=\"outbound\",service=\"shop/cart\",route=\"-\",peer=\"x\",code=\"200\"} 90
outrigger_http_requests_total{direction=\"outbound\",service=\"shop/cart\",route=\"-\",peer=\"x\",code=\"503\"} 7
outrigger_http_requests_total{direction=\"inbound\",service=\"shop/cart\",route=\"-\",peer=\"x\",code=\"404\"} 3
outrigger_grpc_requests_total{direction=\"inbound\",service=\"shop/cart\",route=\"-\",peer=\"x\",grpc_status=\"14\"} 2
outrigger_grpc_requests_total{direction=\"inbound\",service=\"shop/cart\",route=\"-\",peer=\"x\",grpc_status=\"0\"} 50
outrigger_http_request_duration_seconds_bucket{le=\"+Inf\"} 100
outrigger_tcp_connections_opened_total{direction=\"inbound\",service=\"shop/db\",peer=\"x\"} 5
outrigger_upstream_connect_failures_total{service=\"shop/cart\"} 1
outrigger_tls_handshake_failures_total{side=\"server\"} 0
outrigger_fallback_connections_total{direction=\"outbound\",reason=\"sidecar_down\"} 4
outrigger_connections_shed_total 6
what is this
# EOF
";

    fn counts(tried: u64, failed: &[(&str, u64)]) -> Counts {
        Counts { tried, failed: failed.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect() }
    }

    #[test]
    fn what_a_page_of_metrics_says() {
        let wanted = counts(
            109,
            &[
                ("answered 503", 7),
                ("gRPC status 14", 2),
                ("connections to endpoints failed", 1),
                ("connections shed", 6),
            ],
        );
        assert_eq!(Counts::read(PAGE), wanted);
        assert_eq!(Counts::read(""), Counts::default());
    }

    #[test]
    fn what_a_callers_page_says_of_some_services() {
        let page = "\
outrigger_http_requests_total{direction=\"outbound\",service=\"shop/cart\",route=\"-\",peer=\"shop/cart\",code=\"200\"} 90
outrigger_http_requests_total{direction=\"outbound\",service=\"shop/all\",route=\"-\",peer=\"shop/cart\",code=\"502\"} 7
outrigger_http_requests_total{direction=\"outbound\",service=\"shop/cart\",route=\"-\",peer=\"shop/cart-v2\",code=\"503\"} 1
outrigger_http_requests_total{direction=\"inbound\",service=\"shop/cart\",route=\"-\",peer=\"shop/cart\",code=\"503\"} 3
outrigger_http_requests_total{direction=\"inbound\",service=\"-\",route=\"-\",peer=\"spiffe://x/ns/a/sa/b\",code=\"200\"} 3
outrigger_tcp_connections_opened_total{direction=\"outbound\",service=\"shop/cart\",peer=\"shop/cart\"} 5
outrigger_upstream_connect_failures_total{service=\"shop/cart\"} 1
";
        let services = BTreeSet::from(["shop/cart".to_owned()]);
        assert_eq!(Counts::of_services(page, &services), counts(102, &[("answered 502", 7)]));
        assert_eq!(identities(page), BTreeSet::from(["shop/cart", "spiffe://x/ns/a/sa/b"]));
    }

    #[test]
    fn what_has_come_to_callers_that_were_there_already() {
        let callers = |list: &[(&str, u64, u64)]| {
            let each =
                |(name, tried, failed): &(&str, u64, u64)| ((*name).to_owned(), counts(*tried, &[("x", *failed)]));
            Callers(list.iter().map(each).collect())
        };
        let before = callers(&[("a", 10, 1), ("b", 20, 2), ("gone", 5, 5)]);
        let now = callers(&[("a", 15, 3), ("b", 4, 1), ("new", 9, 9)]);
        assert_eq!(now.since(&before), counts(9, &[("x", 3)]), "b has begun anew");
        assert_eq!(before.all(), counts(35, &[("x", 8)]));
    }

    #[test]
    fn errors_have_risen_if_there_are_more_of_them_than_in_as_many_tries_before() {
        let before = |failed| counts(1000, &[("answered 500", failed)]);
        let after = |tried, failed| counts(tried, &[("answered 500", failed)]);
        for (before, after, allowed, risen) in [
            (before(0), after(100, 0), 0, false),
            (before(0), after(100, 1), 0, true),
            (before(0), after(100, 5), 5, false),
            (before(0), after(100, 6), 5, true),
            // An app that fails by itself does so before and after.
            (before(100), after(100, 10), 0, false),
            (before(100), after(100, 11), 0, true),
            (before(100), after(100, 15), 5, false),
            // Part of an error is one.
            (before(1), after(1, 1), 0, false),
            // Nothing was tried before, or only now nothing is.
            (counts(0, &[]), after(10, 1), 0, true),
            (counts(0, &[]), counts(0, &[]), 0, false),
            (before(100), after(0, 1), 0, true),
        ] {
            let found = after.risen(&before, allowed);
            assert_eq!(found.is_some(), risen, "{before:?} {after:?} {allowed}: {found:?}");
        }
        let text = counts(40, &[("answered 503", 10), ("TLS handshakes failed", 2)]).risen(&before(100), 3);
        let wanted = "12 failures in 40 tries, where 4 were usual (TLS handshakes failed: 2, answered 503: 10)";
        assert_eq!(text.as_deref(), Some(wanted));
    }

    #[test]
    fn the_difference_of_two_looks_is_what_has_come_between() {
        let earlier = counts(10, &[("a", 1), ("b", 2)]);
        let later = counts(30, &[("a", 4), ("b", 2), ("c", 1)]);
        assert_eq!(later.since(&earlier), counts(20, &[("a", 3), ("c", 1)]));
        // A process that was restarted counts from nothing.
        assert_eq!(counts(3, &[("a", 1)]).since(&earlier), counts(3, &[("a", 1)]));
        assert_eq!(earlier.plus(&later), counts(40, &[("a", 5), ("b", 4), ("c", 1)]));
    }
}
