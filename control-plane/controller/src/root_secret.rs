//! The mesh's root in Kubernetes: a Secret that the chart ships empty, so that making one isn't permitted to anybody
//! here, and removing the release removes it. Filled once, by whichever replica is first; never overwritten.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams};
use outrigger_ca::{Authority, AuthorityError};
use outrigger_wire::names::SYSTEM_NAMESPACE;
use tokio::time;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";
/// Between two looks, while there is no root, and for changes of it later.
const RETRY: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_secs(30);

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error("there is no Secret {SYSTEM_NAMESPACE}/{0}: the chart ships it; install it again, or set --root-secret")]
    Absent(String),
    #[error("Secret {SYSTEM_NAMESPACE}/{name}: {source}")]
    Authority { name: String, source: AuthorityError },
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
}

/// The authority, as soon as it can be had. Only what a restart can't mend either is waited for, too: it is logged.
pub(crate) async fn wait(client: &Client, name: &str, trust_domain: &str) -> (Authority, Secret) {
    loop {
        match load_or_fill(client, name, trust_domain).await {
            Ok(found) => return found,
            Err(error) => tracing::error!(error = format!("{error:#}"), "no root yet"),
        }
        time::sleep(RETRY).await;
    }
}

async fn load_or_fill(client: &Client, name: &str, trust_domain: &str) -> Result<(Authority, Secret), RootError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let ours = |source| RootError::Authority { name: name.to_owned(), source };
    let mut secret = api.get_opt(name).await?.ok_or_else(|| RootError::Absent(name.to_owned()))?;
    if is_empty(&secret) {
        let (certificate, key) = Authority::generate(trust_domain).map_err(ours)?;
        let data = [(CERTIFICATE, certificate), (KEY, key)];
        let data: BTreeMap<_, _> = data.map(|(name, pem)| (name.to_owned(), ByteString(pem.into_bytes()))).into();
        secret.data = Some(data);
        // It has the version that was read: whoever is second is refused, and reads what the first has written.
        secret = match api.replace(name, &PostParams::default(), &secret).await {
            Ok(written) => {
                tracing::info!(secret = name, "made a root for the mesh");
                written
            }
            Err(kube::Error::Api(status)) if status.code == 409 => api.get(name).await?,
            Err(error) => return Err(error.into()),
        };
    }
    let authority =
        Authority::brought(text(&secret, CERTIFICATE), text(&secret, KEY), text(&secret, ROOTS), trust_domain);
    Ok((authority.map_err(ours)?, secret))
}

/// Says so when the Secret no longer holds what this process signs with.
pub(crate) async fn watch(client: Client, name: String, loaded: Secret) {
    let api: Api<Secret> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let mut data = loaded.data;
    loop {
        time::sleep(LOOK).await;
        // What can't be read now may be read later.
        let Ok(Some(now)) = api.get_opt(&name).await else { continue };
        if now.data != data {
            tracing::error!(
                secret = name,
                "the root has changed; this process goes on with the one before. To take over the new one: kubectl -n \
                 {SYSTEM_NAMESPACE} rollout restart deployment/outrigger-controller, with both roots in ca.crt until every \
                 proxy has a new certificate"
            );
            data = now.data;
        }
    }
}

fn is_empty(secret: &Secret) -> bool {
    secret.data.iter().flatten().all(|(_, value)| value.0.is_empty())
}

/// "" if it isn't there, or no text; then it is no PEM either.
fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or_default()
}
