//! A peer made by hand: a certificate got with a workload's token, and with it whatever bytes one likes.

use std::{fs, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_testbed::{Machine, Mesh, Pod, apps::store::GREETING};
use outrigger_wire::{
    SpiffeId,
    proto::ca::{IssueRequest, certificate_authority_client::CertificateAuthorityClient},
};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::question::Verdict;

const PATIENCE: Duration = Duration::from_secs(5);

/// Whom one can be between proxies.
#[derive(Debug)]
pub(super) struct Peer {
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

/// Believes every server: what it says of itself isn't what is tested.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

// === impl Peer ===

impl Peer {
    /// With the workload's own token, as its proxies do.
    pub(super) fn of(machine: &Machine, mesh: &Mesh, workload: &str) -> Result<Self> {
        let token = token(machine, workload)?;
        let (peer, _) = Self::issued(machine, mesh, Some(&token), &[])?.context("a certificate")?;
        Ok(peer)
    }

    /// With any token, asking for URI names of one's own choice. Also returns the leaf, to be looked at.
    pub(super) fn issued(
        machine: &Machine,
        mesh: &Mesh,
        token: Option<&str>,
        names: &[&str],
    ) -> Result<Result<(Self, String), Status>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        for name in names {
            params.subject_alt_names.push(SanType::URI((*name).try_into()?));
        }
        let csr = params.serialize_request(&key)?.der().to_vec();
        let answer = block_on(async {
            let mut authority = CertificateAuthorityClient::new(controller(machine, mesh).await?);
            let request = authorised(IssueRequest { csr: csr.into() }, token)?;
            anyhow::Ok(authority.issue(request).await)
        })??;
        Ok(answer.map(|issued| {
            let chain: Vec<_> = issued.into_inner().chain.into_iter().map(|der| der.to_vec().into()).collect();
            let leaf = chain.first().map(|leaf: &CertificateDer<'_>| String::from_utf8_lossy(leaf).into_owned());
            (Self { chain, key: key.serialize_der().into() }, leaf.unwrap_or_default())
        }))
    }

    /// Says that it is somebody, signed by itself.
    pub(super) fn self_signed(identity: &SpiffeId) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(identity.as_str().try_into()?));
        let leaf = params.self_signed(&key)?;
        Ok(Self { chain: vec![leaf.der().clone()], key: key.serialize_der().into() })
    }
}

/// The text of a workload's token file.
pub(super) fn token(machine: &Machine, workload: &str) -> Result<String> {
    let path = machine.dir.join("tokens").join(workload.replace('/', "."));
    Ok(fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim_end().to_owned())
}

pub(super) fn authorised<T>(message: T, token: Option<&str>) -> Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    }
    Ok(request)
}

/// A connection to the controller, verified.
pub(super) async fn controller(machine: &Machine, mesh: &Mesh) -> Result<Channel> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(machine.dir.join("controller/root.pem"))?)?;
    let mut tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(tls));
    let address = mesh.controller.as_ref().context("no controller")?.grpc;
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from("outrigger-controller.outrigger-system.svc").map_err(io::Error::other)?;
            connector.connect(name, tcp).await.map(TokioIo::new)
        }
    });
    Ok(Endpoint::from_static("http://controller").connect_with_connector(connect).await?)
}

/// Runs it to its end, which must come soon.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await }).context("it hangs")
}

/// Says `bytes` to a proxy's port from inside of the pod, and returns all that comes back. Nothing, if it is refused.
pub(super) fn say(pod: &Pod, peer: Option<&Peer>, to: SocketAddr, alpn: &[u8], bytes: &[u8]) -> Result<String> {
    let talk = async {
        let mut said = Vec::new();
        let Ok(mut stream) = dial(peer, to, alpn).await? else { return Ok(said) };
        // A refusal may come before all is written.
        if stream.write_all(bytes).await.is_err() || stream.flush().await.is_err() {
            return Ok(said);
        }
        let mut part = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = stream.read(&mut part).await {
            said.extend_from_slice(&part[..length]);
            // The store waits for us then.
            if said == format!("{GREETING}\n").as_bytes() {
                break;
            }
        }
        anyhow::Ok(said)
    };
    let said = pod.namespace.within(|| block_on(talk))???;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// One request as proxies send it to each other, with these headers.
pub(super) fn request(pod: &Pod, peer: &Peer, to: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Verdict> {
    let mut request = Request::builder().uri(format!("http://vault.shop{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let talk = async {
        let Ok(stream) = dial(Some(peer), to, b"h2").await? else { return Ok(Verdict::Denied(None)) };
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await?;
        let denied_by = answer.headers().get("outrigger-denied-by").and_then(|name| name.to_str().ok());
        anyhow::Ok(match answer.status().as_u16() {
            200 => Verdict::Allowed,
            400 => Verdict::BadRequest,
            403 => Verdict::Denied(denied_by.map(str::to_owned)),
            other => Verdict::Other(other.to_string()),
        })
    };
    pod.namespace.within(|| block_on(talk))??
}

/// The inner result is the other end's answer to the handshake; that its port doesn't answer at all is an error of ours.
async fn dial(peer: Option<&Peer>, to: SocketAddr, alpn: &[u8]) -> Result<io::Result<TlsStream<TcpStream>>> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    let mut tls = match peer {
        Some(peer) => builder.with_client_auth_cert(peer.chain.clone(), PrivateKeyDer::Pkcs8(peer.key.clone_key()))?,
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let tcp = match TcpStream::connect(to).await {
        Ok(tcp) => tcp,
        Err(error) => bail!("{to}: {error}"),
    };
    Ok(TlsConnector::from(Arc::new(tls)).connect(ServerName::IpAddress(to.ip().into()), tcp).await)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

// === impl Gullible ===

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
