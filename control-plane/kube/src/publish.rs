//! What the leader publishes beside statuses: the mesh's roots, as a ConfigMap in each namespace whose pods mount it, and
//! in the webhook configurations, so that the API server trusts the webhooks. Looks again now and then, so that what
//! somebody has changed is put right.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        core::v1::ConfigMap,
        rbac::v1::ClusterRole,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use outrigger_model::inputs::Mode;
use outrigger_wire::names::{
    CONTROLLER_NAME, MODE_LABEL, ROOT_FILE, ROTATION_ANNOTATION, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP,
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    api::said,
    cluster::Derived,
    lease::Leadership,
    rotation::{Decided, annotation},
};

#[cfg(test)]
mod tests;

/// Between two looks at everything.
const SWEEP: Duration = Duration::from_secs(30);
/// After something has failed.
const RETRY: Duration = Duration::from_secs(2);
/// For one request.
const PATIENCE: Duration = Duration::from_secs(5);
/// Signs of a change are gathered for as long: namespaces come in bulk.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Field manager of the one field of webhook configurations that is ours.
const BUNDLE_MANAGER: &str = "outrigger-ca-bundle";
/// Name of both webhook configurations.
const WEBHOOKS: &str = "outrigger";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The work.
pub(crate) struct Publisher {
    pub(crate) client: Client,
    pub(crate) derived: watch::Receiver<Option<Arc<Derived>>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// PEM.
    pub(crate) roots: watch::Receiver<Arc<str>>,
    /// How far a change of them has come: published beside them in the mesh's own namespace, once it is decided in the own
    /// term.
    pub(crate) decided: watch::Receiver<Decided>,
    /// Whether webhooks show a certificate that the roots have signed.
    pub(crate) ca_bundle: bool,
}

/// What was published in this term.
#[derive(Default)]
struct Published {
    epoch: i64,
    namespaces: BTreeSet<String>,
    owner: Option<OwnerReference>,
}

/// A webhook of either configuration.
struct Webhook<'a> {
    name: &'a str,
    client: &'a WebhookClientConfig,
}

/// Namespaces whose pods need the roots: those that are enrolled or hold a pod that is, and the mesh's own.
fn needing(derived: &Derived) -> BTreeSet<String> {
    let enrolled = derived
        .namespaces
        .values()
        .filter(|namespace| matches!(namespace.labels.get(MODE_LABEL).map(String::as_str), Some("sidecar" | "shared")));
    let enrolled = enrolled.map(|namespace| namespace.name.clone());
    let pods = derived
        .pods
        .values()
        .filter(|pod| pod.has != Mode::None || matches!(pod.wish, Some(Mode::Sidecar | Mode::Shared)));
    let mut all: BTreeSet<String> = enrolled.chain(pods.map(|pod| pod.namespace.clone())).collect();
    all.insert(SYSTEM_NAMESPACE.to_owned());
    // Nothing can be created in one that is being deleted.
    all.retain(|name| !derived.namespaces.get(name.as_str()).is_some_and(|namespace| namespace.terminating));
    all
}

/// The roots in one namespace, as they should be.
struct Wanted {
    roots: Arc<str>,
    annotation: Option<String>,
}

fn is_current(found: &ConfigMap, wanted: &Wanted, owner: Option<&OwnerReference>) -> bool {
    let says = |map: &Option<BTreeMap<String, String>>, key: &str, value: &str| {
        map.as_ref().and_then(|map| map.get(key)).is_some_and(|found| found == value)
    };
    let owners = found.metadata.owner_references.as_deref().unwrap_or_default();
    let annotations = &found.metadata.annotations;
    says(&found.data, ROOT_FILE, &wanted.roots)
        && wanted.annotation.as_ref().is_none_or(|text| says(annotations, ROTATION_ANNOTATION, text))
        && says(&found.metadata.labels, MANAGED_BY, CONTROLLER_NAME)
        && owner.is_none_or(|owner| owners.iter().any(|other| other.uid == owner.uid))
}

/// What to apply to a webhook configuration, or `None` if all its webhooks have the bundle.
fn bundle(kind: &str, metadata: &ObjectMeta, webhooks: &[Webhook<'_>], pem: &str) -> Option<serde_json::Value> {
    let pem = ByteString(pem.as_bytes().to_vec());
    if webhooks.iter().all(|webhook| webhook.client.ca_bundle.as_ref() == Some(&pem)) {
        return None;
    }
    let webhooks: Vec<_> =
        webhooks.iter().map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": pem } })).collect();
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        // With the version that was read: applying must not bring back a webhook that has just been removed.
        "metadata": { "name": metadata.name, "resourceVersion": metadata.resource_version },
        "webhooks": webhooks,
    }))
}

// === impl Publisher ===

impl Publisher {
    /// Publishes while this replica leads; until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let epoch = self.leadership.borrow_and_update().epoch();
            if let Some(epoch) = epoch {
                if self.lead(epoch).await.is_break() {
                    return;
                }
            } else if self.leadership.changed().await.is_err() {
                return;
            }
        }
    }

    /// One term. Breaks if a source has ended.
    async fn lead(&mut self, epoch: i64) -> ControlFlow<()> {
        let mut published = Published { epoch, ..Published::default() };
        let (mut sweep_at, mut look_at) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                changed = self.leadership.changed() => {
                    if changed.is_err() {
                        return ControlFlow::Break(());
                    }
                    if self.leadership.borrow().epoch() != Some(epoch) {
                        return ControlFlow::Continue(());
                    }
                    continue;
                }
                changed = self.roots.changed() => {
                    if changed.is_err() {
                        return ControlFlow::Break(());
                    }
                    sweep_at = Instant::now();
                }
                changed = self.decided.changed() => {
                    if changed.is_err() {
                        return ControlFlow::Break(());
                    }
                    sweep_at = Instant::now();
                }
                changed = self.derived.changed() => {
                    if changed.is_err() {
                        return ControlFlow::Break(());
                    }
                    look_at = look_at.min(Instant::now() + DEBOUNCE);
                    continue;
                }
                () = sleep_until(sweep_at.min(look_at)) => {}
            }
            if self.leadership.borrow().epoch() != Some(epoch) {
                return ControlFlow::Continue(());
            }
            let now = Instant::now();
            let sweep = now >= sweep_at;
            let done = if sweep { self.sweep(&mut published).await } else { self.look(&mut published).await };
            look_at = now + SWEEP;
            if sweep || done.is_err() {
                sweep_at = Instant::now() + if done.is_ok() { SWEEP } else { RETRY };
            }
            if let Err(error) = done {
                tracing::warn!(error = said(&error), "the roots aren't published everywhere yet");
            }
        }
    }

    /// Puts everything right.
    async fn sweep(&self, published: &mut Published) -> Result<(), kube::Error> {
        let bundles = if self.ca_bundle { self.bundles().await } else { Ok(()) };
        if published.owner.is_none() {
            published.owner = self.owner().await;
        }
        let maps: Api<ConfigMap> = Api::all(self.client.clone());
        let by_name = ListParams::default().fields(&format!("metadata.name={TRUST_CONFIG_MAP}"));
        let found = within(maps.list(&by_name)).await?;
        let current = found.items.iter().filter_map(|map| {
            let namespace = map.metadata.namespace.as_deref()?;
            let wanted = self.wanted(namespace, published.epoch);
            // Until it is decided there, what is there stays.
            let current = wanted.is_none_or(|wanted| is_current(map, &wanted, published.owner.as_ref()));
            current.then(|| namespace.to_owned())
        });
        published.namespaces = current.collect();
        self.look(published).await.and(bundles)
    }

    /// Publishes where it is missing, as far as is known.
    async fn look(&self, published: &mut Published) -> Result<(), kube::Error> {
        let needing = match &*self.derived.borrow() {
            Some(derived) => needing(derived),
            None => BTreeSet::from([SYSTEM_NAMESPACE.to_owned()]),
        };
        let mut result = Ok(());
        let missing: Vec<String> = needing.difference(&published.namespaces).cloned().collect();
        for namespace in missing {
            let Some(wanted) = self.wanted(&namespace, published.epoch) else { continue };
            match self.publish(&namespace, &wanted, published.owner.as_ref()).await {
                Ok(()) => drop(published.namespaces.insert(namespace)),
                // Others don't wait for a namespace that is in trouble.
                Err(error) => {
                    tracing::debug!(namespace, error = said(&error), "the roots can't be published here");
                    result = Err(error);
                }
            }
        }
        result
    }

    async fn publish(
        &self,
        namespace: &str,
        wanted: &Wanted,
        owner: Option<&OwnerReference>,
    ) -> Result<(), kube::Error> {
        let annotation = wanted.annotation.iter().map(|text| (ROTATION_ANNOTATION, text));
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": TRUST_CONFIG_MAP,
                "labels": { MANAGED_BY: CONTROLLER_NAME },
                "annotations": annotation.collect::<BTreeMap<_, _>>(),
                "ownerReferences": owner.into_iter().collect::<Vec<_>>(),
            },
            "data": { ROOT_FILE: &*wanted.roots },
        });
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let ours = PatchParams::apply(CONTROLLER_NAME).force();
        within(maps.patch(TRUST_CONFIG_MAP, &ours, &Patch::Apply(map))).await?;
        tracing::info!(namespace, "the roots are published");
        Ok(())
    }

    /// The object whose removal removes what is published: of the chart, and cluster-scoped, as an owner of objects in
    /// every namespace must be.
    async fn owner(&self) -> Option<OwnerReference> {
        let roles: Api<ClusterRole> = Api::all(self.client.clone());
        match within(roles.get(CONTROLLER_NAME)).await {
            Ok(role) => Some(OwnerReference {
                api_version: "rbac.authorization.k8s.io/v1".to_owned(),
                kind: "ClusterRole".to_owned(),
                name: CONTROLLER_NAME.to_owned(),
                uid: role.metadata.uid.unwrap_or_default(),
                ..OwnerReference::default()
            }),
            Err(error) => {
                tracing::warn!(error = said(&error), "what is published has no owner and must be removed by hand");
                None
            }
        }
    }

    async fn bundles(&self) -> Result<(), kube::Error> {
        let (roots, ours) = (self.roots(), PatchParams::apply(BUNDLE_MANAGER).force());
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        if let Some(found) = within(mutating.get_opt(WEBHOOKS)).await? {
            let webhooks = found.webhooks.iter().flatten().map(|w| Webhook { name: &w.name, client: &w.client_config });
            let webhooks: Vec<_> = webhooks.collect();
            if let Some(patch) = bundle("MutatingWebhookConfiguration", &found.metadata, &webhooks, &roots) {
                within(mutating.patch(WEBHOOKS, &ours, &Patch::Apply(patch))).await?;
            }
        }
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        if let Some(found) = within(validating.get_opt(WEBHOOKS)).await? {
            let webhooks = found.webhooks.iter().flatten().map(|w| Webhook { name: &w.name, client: &w.client_config });
            let webhooks: Vec<_> = webhooks.collect();
            if let Some(patch) = bundle("ValidatingWebhookConfiguration", &found.metadata, &webhooks, &roots) {
                within(validating.patch(WEBHOOKS, &ours, &Patch::Apply(patch))).await?;
            }
        }
        Ok(())
    }

    /// `None`: nothing yet, for what this replica knows of a change may be older than what is there.
    fn wanted(&self, namespace: &str, epoch: i64) -> Option<Wanted> {
        let roots = self.roots();
        if namespace != SYSTEM_NAMESPACE {
            return Some(Wanted { roots, annotation: None });
        }
        let decided = self.decided.borrow();
        (decided.epoch == epoch)
            .then(|| Wanted { annotation: Some(annotation(&decided.progress, &roots)), roots: Arc::clone(&roots) })
    }

    fn roots(&self) -> Arc<str> {
        Arc::clone(&self.roots.borrow())
    }
}

/// A request that isn't answered fails like any other.
async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    timeout(PATIENCE, request).await.unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
}
