//! The mesh's root in Kubernetes: a Secret that the chart ships empty, so that nobody here needs the permission to make
//! one, and removing the release removes it. Filled once, by whichever replica is first; what it holds is never
//! overwritten. Never decides what a usable root is; what becomes of another is [`Rotation`](crate::rotation)'s.

#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, time::Duration};

use http::{Request, StatusCode};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Client, Resource,
    api::PostParams,
    core::{self, params::GetParams, request},
};
use outrigger_ca::{Authority, AuthorityError, Material, MaterialError, Part, Signer};
use outrigger_kube::rotation::{Progress, Record};
use outrigger_wire::names::{SYSTEM_NAMESPACE, TRUST_CONFIG_MAP};
use serde::de::DeserializeOwned;
use tokio::time;

use crate::{
    confidential::{self, CallError},
    rotation::Offered,
};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const FURTHER: &str = "ca.crt";
/// Between two looks while there is no root.
const RETRY: Duration = Duration::from_secs(2);
/// For one call.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) type Data = BTreeMap<String, ByteString>;

/// The Secret, whatever it holds.
pub(crate) struct RootSecret {
    client: Client,
    name: String,
    trust_domain: String,
    /// Of the controller's own certificate.
    server_names: Vec<String>,
}

/// What the Secret held, and what is known of it.
pub(crate) struct Loaded {
    pub(crate) offered: Offered,
    pub(crate) data: Data,
    /// UID of the Secret.
    pub(crate) uid: String,
    /// What was decided of a change before this process began.
    pub(crate) progress: Progress,
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
    #[error("ConfigMap {SYSTEM_NAMESPACE}/{TRUST_CONFIG_MAP}: {0}")]
    Record(CallError),
    #[error("the API server doesn't answer in time")]
    Timeout(#[from] time::error::Elapsed),
}

// === impl RootSecret ===

impl RootSecret {
    pub(crate) fn new(client: Client, name: String, trust_domain: String, server_names: Vec<String>) -> Self {
        Self { client, name, trust_domain, server_names }
    }

    /// What signs, as soon as it can be had. What only a person can mend is waited for, too: it is logged.
    pub(crate) async fn wait(&self) -> (Authority, Loaded) {
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
    pub(crate) async fn load(&self) -> Result<(Authority, Loaded), RootError> {
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
        let offered = Offered::of(&signer);
        let uid = secret.metadata.uid.unwrap_or_default();
        let record = self.record(&uid).await?.unwrap_or_default();
        let progress = record.progress.unwrap_or_else(|| Progress {
            anchor: signer.anchor().to_owned(),
            secret: uid.clone(),
            ..Progress::default()
        });
        // What was given out stays trusted, and another root signs when that is decided: by whom others sign, a restarted
        // replica may not know any more.
        let authority = if progress.anchor == signer.anchor() {
            Authority::new(signer)
        } else {
            tracing::warn!(
                secret = self.name,
                "what the Secret holds doesn't sign yet: no certificates are issued here"
            );
            Authority::waiting(signer, &progress.anchor)
        };
        let trusted = authority.roots().into_iter().chain(record.roots).collect();
        authority.trust_only(&trusted);
        Ok((authority, Loaded { offered, data, uid, progress }))
    }

    pub(crate) async fn restore(&self, secret: Secret, good: Data) {
        match self.fill(secret, good).await {
            Ok(Some(_)) => tracing::warn!(secret = self.name, "the root's Secret was emptied; its content is back"),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the root's Secret was emptied, and can't be filled again"),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `None` if there is none.
    pub(crate) async fn get(&self) -> Result<Option<Secret>, RootError> {
        self.call(requests().get(&self.name, &GetParams::default()), StatusCode::NOT_FOUND).await
    }

    /// What is published of the Secret `uid`; `None`: nothing.
    pub(crate) async fn record(&self, uid: &str) -> Result<Option<Record>, RootError> {
        let maps = core::Request::new(ConfigMap::url_path(&(), Some(SYSTEM_NAMESPACE)));
        let request = maps.get(TRUST_CONFIG_MAP, &GetParams::default());
        let map = self.send(request, StatusCode::NOT_FOUND).await?.map_err(RootError::Record)?;
        Ok(map.map(|map: ConfigMap| Record::read(&map, uid)))
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
        let answer = self.send(request, none).await?;
        answer.map_err(|source| RootError::Call { name: self.name.clone(), source })
    }

    async fn send<T: DeserializeOwned>(
        &self,
        request: Result<Request<Vec<u8>>, request::Error>,
        none: StatusCode,
    ) -> Result<Result<Option<T>, CallError>, RootError> {
        Ok(match time::timeout(PATIENCE, confidential::call(&self.client, request)).await? {
            Ok(object) => Ok(Some(object)),
            Err(CallError::Refused { code, .. }) if code == none => Ok(None),
            Err(source) => Err(source),
        })
    }

    pub(crate) fn read(&self, data: &Data) -> Result<Signer, RootError> {
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

pub(crate) fn data(secret: &Secret) -> Data {
    secret.data.clone().unwrap_or_default()
}

/// A Secret of type `kubernetes.io/tls` must have its keys even when it holds nothing.
pub(crate) fn is_empty(data: &Data) -> bool {
    data.values().all(|value| value.0.is_empty())
}

/// "" if it isn't there, or no text; then it is no PEM either.
fn text<'a>(data: &'a Data, key: &str) -> &'a str {
    data.get(key).and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or_default()
}
