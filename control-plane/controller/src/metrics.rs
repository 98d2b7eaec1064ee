//! What Prometheus scrapes. Read from where it is kept when it is asked for; nothing is counted twice.

use std::{fmt, sync::Arc};

use outrigger_ca::Authority;
use outrigger_kube::{
    Problem,
    cluster::{KindStatus, WatchStatus},
    lease::Leadership,
    unmeshed,
};
use outrigger_model::MeshSnapshot;
use outrigger_xds::Acks;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Everything of the controller that can be looked at.
#[derive(Clone)]
pub(crate) struct Observed {
    pub(crate) snapshots: watch::Receiver<Arc<MeshSnapshot>>,
    pub(crate) problems: watch::Receiver<Vec<Problem>>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) authority: Arc<Authority>,
    /// `None` in the embedded mode.
    pub(crate) cluster: Option<ClusterView>,
    /// Cancelled when this process is about to end.
    pub(crate) stop: CancellationToken,
}

/// What there is to see in Kubernetes only.
#[derive(Clone)]
pub(crate) struct ClusterView {
    pub(crate) watches: WatchStatus,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) unmeshed: watch::Receiver<Arc<unmeshed::Report>>,
}

const NO_EXEMPLAR: Option<&Exemplar<[(&str, &str); 0], u64>> = None;

/// The registry of one controller.
pub(crate) fn registry(observed: Observed) -> Registry {
    let mut registry = Registry::with_prefix("outrigger");
    registry.register_collector(Box::new(observed));
    registry
}

/// The text format.
pub(crate) fn render(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    text::encode(&mut text, registry)?;
    Ok(text)
}

// === impl Observed ===

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("generation", &self.snapshots.borrow().generation).finish_non_exhaustive()
    }
}

impl Collector for Observed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let counts = self.acks.counts();
        let mut gauge = |name: &str, help: &str, value: u64| {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
        };
        gauge("connected_proxies", "Streams of configuration that are open", self.acks.connected() as u64)?;
        gauge("snapshot_generation", "Times that the configuration was derived anew", snapshot.generation)?;
        gauge("config_problems", "Problems in the resources as written", self.problems.borrow().len() as u64)?;
        let mut resources =
            encoder.encode_descriptor("resources", "Resources that are served", None, MetricType::Gauge)?;
        for (type_url, set) in &snapshot.types {
            resources.encode_family(&[("type", short(type_url))])?.encode_gauge(&(set.resources.len() as u64))?;
        }
        let mut pushes = encoder.encode_descriptor("pushes", "Responses sent to proxies", None, MetricType::Counter)?;
        for (type_url, counts) in &counts {
            pushes.encode_family(&[("type", short(type_url))])?.encode_counter(&counts.pushes, NO_EXEMPLAR)?;
        }
        let mut nacks =
            encoder.encode_descriptor("nacks", "Responses that proxies rejected", None, MetricType::Counter)?;
        for (type_url, counts) in &counts {
            nacks.encode_family(&[("type", short(type_url))])?.encode_counter(&counts.nacks, NO_EXEMPLAR)?;
        }
        encoder
            .encode_descriptor("certificates_issued", "Certificates issued to workloads", None, MetricType::Counter)?
            .encode_counter(&self.authority.issued(), NO_EXEMPLAR)?;
        self.cluster.as_ref().map_or(Ok(()), |cluster| cluster.encode(&mut encoder))
    }
}

// === impl ClusterView ===

impl ClusterView {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let leads = matches!(*self.leadership.borrow(), Leadership::Leader { .. });
        let unmeshed = Arc::clone(&self.unmeshed.borrow());
        let mut gauge = |name: &str, help: &str, value: u64| {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
        };
        gauge("leader", "1 if this replica writes statuses", u64::from(leads))?;
        gauge("unmeshed_pods", "Pods that should have proxies and have none", unmeshed.unmeshed.len() as u64)?;
        gauge("outdated_pods", "Pods with proxies of another version", unmeshed.outdated.len() as u64)?;
        let kinds = self.watches.kinds();
        let mut family = |name: &str, help: &str, value: fn(&KindStatus) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for kind in &kinds {
                family.encode_family(&[("kind", kind.kind)])?.encode_gauge(&value(kind))?;
            }
            Ok::<_, fmt::Error>(())
        };
        family("watch_synced", "1 if a kind's objects have been listed", |kind| u64::from(kind.synced))?;
        family("watch_objects", "Objects of a kind", |kind| kind.objects as u64)?;
        family("watch_silence_seconds", "Since the API server last told anything of a kind", |kind| {
            kind.silence().map_or(0, |silence| silence.as_secs())
        })?;
        let mut failures =
            encoder.encode_descriptor("watch_failures", "Lists and watches that failed", None, MetricType::Counter)?;
        for kind in &kinds {
            failures.encode_family(&[("kind", kind.kind)])?.encode_counter(&kind.failures, NO_EXEMPLAR)?;
        }
        Ok(())
    }
}

/// `Service` of `type.googleapis.com/outrigger.config.v1alpha1.Service`.
pub(crate) fn short(type_url: &str) -> &str {
    type_url.rsplit_once('.').map_or(type_url, |(_, name)| name)
}
