//! What Prometheus scrapes. Read from where it is kept when it is asked for; nothing is counted twice.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use outrigger_ca::Authority;
use outrigger_kube::{
    Problem,
    cluster::{KindStatus, WatchStatus},
    lease::Leadership,
    rotation::Stage,
    unmeshed,
};
use outrigger_model::MeshSnapshot;
use outrigger_xds::Acks;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{token_review::TokenReviews, webhook::Admissions};

/// Everything of the controller that can be looked at.
#[derive(Clone)]
pub(crate) struct Observed {
    pub(crate) snapshots: watch::Receiver<Arc<MeshSnapshot>>,
    pub(crate) problems: watch::Receiver<Vec<Problem>>,
    pub(crate) acks: Arc<Acks>,
    /// Empty until there is a root.
    authority: Arc<OnceLock<Arc<Authority>>>,
    /// `None` in the embedded mode.
    pub(crate) cluster: Option<ClusterView>,
    /// Cancelled when this process is about to end.
    pub(crate) stop: CancellationToken,
    /// Why it must end, if it wasn't told to.
    pub(crate) failure: Arc<OnceLock<String>>,
}

/// What there is to see in Kubernetes only.
#[derive(Clone)]
pub(crate) struct ClusterView {
    pub(crate) watches: WatchStatus,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) unmeshed: watch::Receiver<Arc<unmeshed::Report>>,
    pub(crate) stage: watch::Receiver<Stage>,
    pub(crate) reviews: Arc<TokenReviews>,
    pub(crate) admissions: Arc<Admissions>,
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

impl Observed {
    pub(crate) fn new(
        snapshots: watch::Receiver<Arc<MeshSnapshot>>,
        problems: watch::Receiver<Vec<Problem>>,
        cluster: Option<ClusterView>,
    ) -> Self {
        Self {
            snapshots,
            problems,
            acks: Arc::default(),
            authority: Arc::default(),
            cluster,
            stop: CancellationToken::new(),
            failure: Arc::default(),
        }
    }

    /// There is a root, and this is it.
    pub(crate) fn sign_with(&self, authority: &Arc<Authority>) {
        // Once in a process's life.
        let _ = self.authority.set(Arc::clone(authority));
    }

    /// What is missing before this process can serve.
    pub(crate) fn missing(&self) -> Option<String> {
        if self.stop.is_cancelled() {
            return Some("draining".to_owned());
        }
        if self.authority.get().is_none() {
            return Some("there is no root to sign with yet".to_owned());
        }
        if self.snapshots.borrow().generation > 0 {
            return None;
        }
        let kinds = self.cluster.as_ref().map(|cluster| cluster.watches.missing()).unwrap_or_default();
        Some(match kinds.as_slice() {
            [] => "no configuration has been read yet".to_owned(),
            kinds => format!("no configuration has been read yet, for lack of {}", kinds.join(", ")),
        })
    }
}

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
        if let Some(authority) = self.authority.get() {
            let expires = authority.expires().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            encoder
                .encode_descriptor("trusted_roots", "Roots that are given out", None, MetricType::Gauge)?
                .encode_gauge(&(authority.roots().len() as u64))?;
            let help = "When what certificates are signed with ends";
            encoder
                .encode_descriptor("signer_expiry_timestamp_seconds", help, None, MetricType::Gauge)?
                .encode_gauge(&expires)?;
            encoder
                .encode_descriptor(
                    "certificates_issued",
                    "Certificates issued to workloads",
                    None,
                    MetricType::Counter,
                )?
                .encode_counter(&authority.issued(), NO_EXEMPLAR)?;
        }
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
        let help = "1 for where a change of the root is: at rest, before another signs, before the one before leaves";
        let mut stages = encoder.encode_descriptor("root_rotation", help, None, MetricType::Gauge)?;
        let now = *self.stage.borrow();
        for stage in [Stage::Rest, Stage::Distribute, Stage::Retire] {
            stages.encode_family(&[("stage", stage.as_str())])?.encode_gauge(&u64::from(stage == now))?;
        }
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
        self.calls(encoder)
    }

    /// What the API server and this process have asked each other.
    fn calls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Calls of proxies, by what became of their tokens";
        let mut reviews = encoder.encode_descriptor("token_checks", help, None, MetricType::Counter)?;
        for (result, count) in self.reviews.counts() {
            reviews.encode_family(&[("result", result)])?.encode_counter(&count, NO_EXEMPLAR)?;
        }
        let help = "Admission reviews, by what came of them";
        let mut admissions = encoder.encode_descriptor("admissions", help, None, MetricType::Counter)?;
        for ((page, verdict), count) in self.admissions.counts() {
            let labels = [("webhook", page), ("verdict", verdict)];
            admissions.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
        }
        let seconds = self.admissions.seconds();
        let help = "How long admission reviews took";
        seconds.encode(encoder.encode_descriptor("admission_duration_seconds", help, None, seconds.metric_type())?)
    }
}

/// `Service` of `type.googleapis.com/outrigger.config.v1alpha1.Service`.
pub(crate) fn short(type_url: &str) -> &str {
    type_url.rsplit_once('.').map_or(type_url, |(_, name)| name)
}
