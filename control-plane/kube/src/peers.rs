//! What proxies of other replicas hold: each replica counts its own, the leader asks the others. Owns the question's way
//! over HTTPS and how an answer is made; the server side is mounted by the controller.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, api::ListParams};
use outrigger_model::{
    Affects, Departure, Effects, Holdings, MeshSnapshot, Reach, departures,
    held::{Answer, Counted, Marks, Question, Signed},
};
use outrigger_wire::names::{CONTROLLER_NAME, SYSTEM_NAMESPACE, ports::WEBHOOK, type_url};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    net::TcpStream,
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore},
};

use crate::{api::said, cluster::Derived};

#[cfg(test)]
mod tests;

/// Path of the page, on [`WEBHOOK`].
pub const PATH: &str = "/peer/acks";
/// Among objects: not one of them, but the roots that are served.
pub(crate) const ROOTS: &str = "Trust";
/// Before a workload's name, among objects: all that leads to it.
pub(crate) const DEPARTURE: &str = "Departure/";
/// For one peer, from connecting to the last byte.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long addresses of others are good.
const FOUND: Duration = Duration::from_secs(5);
/// Longest answer in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// The other replicas of the controller.
pub(crate) struct Peers {
    slices: Api<EndpointSlice>,
    /// Name of this replica's pod, which isn't asked.
    own: String,
    /// PEM.
    roots: watch::Receiver<Arc<str>>,
    token_file: PathBuf,
    port: u16,
    /// When they were last looked up, and what was found.
    known: Mutex<Option<(Instant, Found)>>,
}

/// Addresses by pod, and whether each should answer.
type Found = BTreeMap<String, (IpAddr, bool)>;

/// Why a peer has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("it doesn't answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("the own token can't be read from {0}")]
    Token(PathBuf, #[source] std::io::Error),
    #[error("it can't be reached: {0}")]
    Connect(#[from] std::io::Error),
    #[error("the mesh's roots can't be used: {0}")]
    Roots(#[from] rustls::Error),
    #[error("the exchange broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("it answers {0}")]
    Refused(StatusCode),
    #[error("its answer is too long or broken")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Answers another replica's question from what is served here, and signed by the root `signs`. It may take milliseconds for
/// each thousand proxies: not for a thread that serves others.
///
/// # Errors
/// If the question isn't one.
pub fn answer(
    question: &[u8],
    snapshot: &MeshSnapshot,
    affects: &Affects,
    holdings: &dyn Holdings,
    signs: &str,
) -> Result<Vec<u8>, serde_json::Error> {
    let question: Question = serde_json::from_slice(question)?;
    let objects = question.objects.iter().map(String::as_str).collect::<Vec<_>>();
    let signed = |anchor: &str| Signed { by: signs.to_owned(), certificates: holdings.certificates(anchor) };
    let certificates = question.anchor.as_deref().map(signed);
    serde_json::to_vec(&Answer { objects: count(&objects, snapshot, affects, holdings), certificates })
}

/// This replica's own counts.
pub(crate) fn count(
    objects: &[&str],
    snapshot: &MeshSnapshot,
    affects: &Affects,
    holdings: &dyn Holdings,
) -> BTreeMap<String, Counted> {
    let leaving: Vec<&str> = objects.iter().filter_map(|object| object.strip_prefix(DEPARTURE)).collect();
    let mut leaving = departures(snapshot, &leaving).into_iter();
    let asked = objects.iter().map(|object| match *object {
        ROOTS => (Cow::Owned(Effects::from([(type_url::TRUST, Reach::All)])), false),
        _ if object.starts_with(DEPARTURE) => {
            let Departure { effects, called } = leaving.next().unwrap_or_default();
            (Cow::Owned(effects), called)
        }
        _ => (Cow::Borrowed(affects.of(object)), false),
    });
    let asked: Vec<(Cow<'_, Effects>, bool)> = asked.collect();
    let effects: Vec<&Effects> = asked.iter().map(|(effects, _)| effects.as_ref()).collect();
    let mut marks = Marks::new(snapshot);
    let counted = holdings.held(snapshot, &effects).into_iter().zip(&asked);
    let counted = counted.map(|(held, (effects, called))| Counted { mark: marks.of(effects), held, called: *called });
    objects.iter().map(|object| (*object).to_owned()).zip(counted).collect()
}

// === impl Peers ===

impl Peers {
    pub(crate) fn new(client: Client, own: String, roots: watch::Receiver<Arc<str>>, token_file: PathBuf) -> Self {
        let slices = Api::namespaced(client, SYSTEM_NAMESPACE);
        Self { slices, own, roots, token_file, port: WEBHOOK, known: Mutex::new(None) }
    }

    /// All answers that can be had, and how many can't although they should.
    pub(crate) async fn ask(&self, question: &Question) -> (Vec<Answer>, usize) {
        let peers = match timeout(PATIENCE, self.addresses()).await {
            Ok(Ok(peers)) => peers,
            Ok(Err(error)) => {
                tracing::warn!(error = said(&error), "other replicas can't be found: their proxies aren't counted");
                return (Vec::new(), 1);
            }
            Err(_) => return (Vec::new(), 1),
        };
        let asked = peers.iter().map(|(pod, (address, ready))| async move {
            let result = self.exchange(SocketAddr::new(*address, self.port), question).await;
            result.map_err(|error| {
                tracing::debug!(pod, %error, "a replica's proxies aren't counted");
                *ready
            })
        });
        let mut answers = Vec::new();
        let mut missing = 0;
        for result in join_all(asked).await {
            match result {
                Ok(answer) => answers.push(answer),
                Err(expected) => missing += usize::from(expected),
            }
        }
        (answers, missing)
    }

    /// Counts here and at the others: what this replica has counted, what they say, and how many don't although they should.
    pub(crate) async fn everywhere(
        &self,
        question: Question,
        view: Arc<Derived>,
        holdings: Arc<dyn Holdings>,
    ) -> (BTreeMap<String, Counted>, Vec<Answer>, usize) {
        let objects = question.objects.clone();
        let own = spawn_blocking(move || {
            let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
            count(&objects, &view.snapshot, &view.affects, &*holdings)
        });
        let ((answers, unreachable), own) = tokio::join!(self.ask(&question), own);
        (own.unwrap_or_default(), answers, unreachable)
    }

    async fn addresses(&self) -> Result<Found, kube::Error> {
        let mut known = self.known.lock().await;
        if let Some((at, peers)) = &*known
            && at.elapsed() < FOUND
        {
            return Ok(peers.clone());
        }
        let peers = self.find().await?;
        *known = Some((Instant::now(), peers.clone()));
        Ok(peers)
    }

    async fn find(&self) -> Result<Found, kube::Error> {
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={CONTROLLER_NAME}"));
        let slices = self.slices.list(&of_service).await?;
        let mut peers = BTreeMap::new();
        for endpoint in slices.items.into_iter().flat_map(|slice| slice.endpoints) {
            let ready = endpoint.conditions.and_then(|conditions| conditions.ready) != Some(false);
            let pod = endpoint.target_ref.and_then(|target| target.name).unwrap_or_default();
            let address = endpoint.addresses.first().and_then(|text| text.parse().ok());
            // A pod may be in a slice of each address family; it must count once.
            if let Some(address) = address.filter(|_| pod != self.own) {
                peers.insert(pod, (address, ready));
            }
        }
        Ok(peers)
    }

    async fn exchange(&self, peer: SocketAddr, question: &Question) -> Result<Answer, PeerError> {
        timeout(PATIENCE, async {
            let token = std::fs::read_to_string(&self.token_file);
            let token = token.map_err(|error| PeerError::Token(self.token_file.clone(), error))?;
            let connector = TlsConnector::from(self.tls()?);
            let stream = connector.connect(server_name(), TcpStream::connect(peer).await?).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let body = serde_json::to_vec(question).map_err(|error| PeerError::Body(error.into()))?;
            let request = Request::post(PATH)
                .header(header::HOST, CONTROLLER_NAME)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
                .body(Full::<Bytes>::from(body))
                .map_err(|error| PeerError::Body(error.into()))?;
            let exchange = async {
                let response = sender.send_request(request).await?;
                if response.status() != StatusCode::OK {
                    return Err(PeerError::Refused(response.status()));
                }
                let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(PeerError::Body)?;
                serde_json::from_slice(&body.to_bytes()).map_err(|error| PeerError::Body(error.into()))
            };
            tokio::pin!(connection);
            tokio::pin!(exchange);
            tokio::select! {
                result = &mut exchange => result,
                // It has ended; what it has read may still be enough.
                _ = &mut connection => exchange.await,
            }
        })
        .await?
    }

    /// For one exchange: roots may have changed since the last.
    fn tls(&self) -> Result<Arc<ClientConfig>, PeerError> {
        let pem = Arc::clone(&self.roots.borrow());
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(pem.as_bytes()).flatten() {
            roots.add(root)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}

/// Under this name a replica shows the certificate that the mesh's own root has signed.
fn server_name() -> ServerName<'static> {
    let name = format!("{CONTROLLER_NAME}.{SYSTEM_NAMESPACE}");
    ServerName::try_from(name).expect("names of ours are DNS names")
}
