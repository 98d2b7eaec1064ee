//! The mesh's root in Kubernetes: a Secret that the chart ships empty, so that nobody here needs the permission to make
//! one, and removing the release removes it. Filled once, by whichever replica is first; what it holds is never
//! overwritten. Owns when another root is trusted and when it signs; never decides what a usable one is.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use http::{Request, StatusCode};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Client, Resource,
    api::PostParams,
    core::{self, params::GetParams, request},
};
use outrigger_ca::{Authority, AuthorityError, Material, MaterialError, Part, Signer};
use outrigger_wire::names::SYSTEM_NAMESPACE;
use tokio::time::{self, Instant};

use crate::confidential::{self, CallError};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const FURTHER: &str = "ca.crt";
/// Between two looks while there is no root.
const RETRY: Duration = Duration::from_secs(2);
/// Between two looks for changes.
const LOOK: Duration = Duration::from_secs(30);
/// From when another root is trusted here until it may sign: the other replicas must have looked too, the trust bundle must
/// have reached every pod (the kubelet takes up to two minutes), and the API server the webhooks' caBundle. Nobody
/// acknowledges these; proxies do, and are waited for as long as it takes.
const SETTLE: Duration = Duration::from_secs(180);
/// For one call.
const PATIENCE: Duration = Duration::from_secs(10);

type Data = BTreeMap<String, ByteString>;

/// The Secret, whatever it holds.
pub(crate) struct RootSecret {
    client: Client,
    name: String,
    trust_domain: String,
    /// Of the controller's own certificate.
    server_names: Vec<String>,
}

/// What the Secret held, and the signer that was in it.
pub(crate) struct Loaded {
    pub(crate) signer: Signer,
    pub(crate) data: Data,
}

/// What has become of a changed Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// More roots are trusted.
    Trusted,
    /// Another signer signs.
    Signs,
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error(
        "there is no Secret {SYSTEM_NAMESPACE}/{0}: the chart ships it, so install or upgrade the release again, or \
         name another with --root-secret"
    )]
    Absent(String),
    #[error(
        "Secret {SYSTEM_NAMESPACE}/{name}, {}: {source}; {}. The controller fills it only if it is empty",
        field(source),
        remedy(source)
    )]
    Unusable { name: String, source: MaterialError },
    #[error("no root can be made: {0}")]
    Generate(#[from] AuthorityError),
    #[error("Secret {SYSTEM_NAMESPACE}/{name}: {source}")]
    Call { name: String, source: CallError },
    #[error("the API server doesn't answer in time")]
    Timeout(#[from] time::error::Elapsed),
}

// === impl RootSecret ===

impl RootSecret {
    pub(crate) fn new(client: Client, name: String, trust_domain: String, server_names: Vec<String>) -> Self {
        Self { client, name, trust_domain, server_names }
    }

    /// What signs, as soon as it can be had. What only a person can mend is waited for, too: it is logged.
    pub(crate) async fn wait(&self) -> Loaded {
        let mut told = String::new();
        loop {
            match self.load().await {
                Ok(loaded) => return loaded,
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        tracing::error!(error, "there is no root to sign with yet");
                        told = error;
                    }
                }
            }
            time::sleep(RETRY).await;
        }
    }

    /// As it is, filled first if it is empty.
    async fn load(&self) -> Result<Loaded, RootError> {
        let secret = loop {
            let found = self.get().await?.ok_or_else(|| RootError::Absent(self.name.clone()))?;
            if !is_empty(&data(&found)) {
                break found;
            }
            let (certificate, key) = Signer::generate(&self.trust_domain)?;
            let made = [(CERTIFICATE, certificate), (KEY, key)];
            let made = made.map(|(name, pem)| (name.to_owned(), ByteString(pem.into_bytes()))).into();
            // If somebody else was first, it was another replica, whose root is the mesh's, or somebody who has changed
            // a label.
            if let Some(written) = self.fill(found, made).await? {
                tracing::info!(secret = self.name, "made a root for the mesh");
                break written;
            }
        };
        let data = data(&secret);
        let signer = self.read(&data)?;
        Ok(Loaded { signer, data })
    }

    /// Follows the Secret for ever: `data` is what `authority` was made from. `missing` says why what is trusted here must not
    /// sign yet.
    pub(crate) async fn follow<M>(
        self,
        mut data: Data,
        authority: &Authority,
        news: impl Fn(News),
        missing: impl Fn() -> M,
    ) where
        M: Future<Output = Option<String>>,
    {
        let mut good = data.clone();
        let mut next: Option<(Instant, Signer)> = None;
        let mut gone = false;
        let mut told = None;
        loop {
            time::sleep(LOOK).await;
            if next.as_ref().is_some_and(|(due, _)| *due <= Instant::now()) {
                let missing = missing().await;
                if missing.is_none()
                    && let Some((_, signer)) = next.take()
                {
                    authority.take_over(signer);
                    tracing::info!(secret = self.name, "what the Secret holds signs from now on");
                    news(News::Signs);
                } else if missing != told {
                    tracing::warn!(secret = self.name, missing, "what the Secret holds doesn't sign yet");
                }
                told = missing;
            }
            let found = match self.get().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, "the root's Secret can't be looked at");
                    continue;
                }
            };
            let Some(secret) = found else {
                if !gone {
                    tracing::error!(secret = self.name, "the root's Secret is gone: a restart would find no root");
                }
                gone = true;
                continue;
            };
            gone = false;
            let now = self::data(&secret);
            if is_empty(&now) {
                // By mistake, surely: proxies still trust what was in it, and nothing that a new root would sign.
                self.restore(secret, good.clone()).await;
            } else if now != data {
                data = now;
                match self.read(&data) {
                    Ok(signer) => {
                        good.clone_from(&data);
                        if authority.trust(&signer) {
                            news(News::Trusted);
                        }
                        let seconds = SETTLE.as_secs();
                        tracing::info!(
                            secret = self.name,
                            seconds,
                            "the root has changed: it is trusted, and signs later"
                        );
                        next = Some((Instant::now() + SETTLE, signer));
                    }
                    Err(error) => {
                        tracing::error!(%error, "the root has changed; this process goes on with the one before")
                    }
                }
            }
        }
    }

    async fn restore(&self, secret: Secret, good: Data) {
        match self.fill(secret, good).await {
            Ok(Some(_)) => tracing::warn!(secret = self.name, "the root's Secret was emptied; its content is back"),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the root's Secret was emptied, and can't be filled again"),
        }
    }

    async fn get(&self) -> Result<Option<Secret>, RootError> {
        self.call(requests().get(&self.name, &GetParams::default()), StatusCode::NOT_FOUND).await
    }

    /// `None` if somebody else has written since `secret` was read.
    async fn fill(&self, mut secret: Secret, data: Data) -> Result<Option<Secret>, RootError> {
        secret.data = Some(data);
        // With the resourceVersion that was read: the API server refuses whoever is second.
        let body = serde_json::to_vec(&secret).map_err(request::Error::SerializeBody);
        let request = body.and_then(|body| requests().replace(&self.name, &PostParams::default(), body));
        self.call(request, StatusCode::CONFLICT).await
    }

    /// `None` if the API server answers `none`.
    async fn call(
        &self,
        request: Result<Request<Vec<u8>>, request::Error>,
        none: StatusCode,
    ) -> Result<Option<Secret>, RootError> {
        match time::timeout(PATIENCE, confidential::call(&self.client, request)).await? {
            Ok(secret) => Ok(Some(secret)),
            Err(CallError::Refused { code, .. }) if code == none => Ok(None),
            Err(source) => Err(RootError::Call { name: self.name.clone(), source }),
        }
    }

    fn read(&self, data: &Data) -> Result<Signer, RootError> {
        let material = Material { chain: text(data, CERTIFICATE), key: text(data, KEY), further: text(data, FURTHER) };
        let unusable = |source| RootError::Unusable { name: self.name.clone(), source };
        Signer::read(material, &self.trust_domain, &self.server_names).map_err(unusable)
    }
}

fn requests() -> core::Request {
    core::Request::new(Secret::url_path(&(), Some(SYSTEM_NAMESPACE)))
}

fn field(error: &MaterialError) -> &'static str {
    match error.part() {
        Part::Chain => CERTIFICATE,
        Part::Key => KEY,
        Part::Further => FURTHER,
    }
}

fn remedy(error: &MaterialError) -> &'static str {
    match error {
        MaterialError::NoCertificate => "put the certificate that signs there, PEM",
        MaterialError::Key | MaterialError::Mismatch => "put the key of the first certificate of tls.crt there",
        MaterialError::Certificate(_) => "put whole certificates there, PEM",
        MaterialError::NotCa => "bring one of a certificate authority, with the usage to sign certificates",
        MaterialError::TrustDomain { .. } => "bring one of this trust domain, or set --trust-domain",
        MaterialError::NoRoot | MaterialError::NoWay => {
            "put the root there that tls.crt leads to, and what is missing between them"
        }
        MaterialError::Expired { .. } => "bring one that is in force",
        MaterialError::Constrained => {
            "bring one that permits the names of the controller's service, and has no constraints on URIs"
        }
        MaterialError::Unacceptable(_) | MaterialError::Signing(_) => "bring another",
    }
}

fn data(secret: &Secret) -> Data {
    secret.data.clone().unwrap_or_default()
}

/// A Secret of type `kubernetes.io/tls` must have its keys even when it holds nothing.
fn is_empty(data: &Data) -> bool {
    data.values().all(|value| value.0.is_empty())
}

/// "" if it isn't there, or no text; then it is no PEM either.
fn text<'a>(data: &'a Data, key: &str) -> &'a str {
    data.get(key).and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or_default()
}
