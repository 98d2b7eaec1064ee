//! An attacker's connection: plain, or TLS with a certificate of the mesh. Verifies nothing: it has nothing to lose.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use prost::Message;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};

/// What a proxy has saved of its certificate: a magic line, a checksum and this message.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Credentials {
    #[prost(bytes = "vec", repeated, tag = "2")]
    chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
}

pub(super) enum Peer {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

const CHECKSUM: usize = 32;

// === impl Credentials ===

impl Credentials {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let line = bytes.iter().position(|&byte| byte == b'\n').context("no magic line")? + 1;
        Self::decode(bytes.get(line + CHECKSUM..).context("cut short")?).context("a saved certificate")
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().map(|der| CertificateDer::from(der.clone())).collect()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

/// A client session that offers `protocol`, with a certificate if there are `credentials`.
pub(super) fn session(credentials: Option<&Credentials>, protocol: &[u8]) -> Result<ClientConnection> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(schemes)));
    let mut config = match credentials {
        Some(credentials) => builder.with_client_auth_cert(credentials.chain(), credentials.key())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(ClientConnection::new(Arc::new(config), ServerName::from(Ipv4Addr::LOCALHOST))?)
}

// === impl Peer ===

impl Peer {
    pub(super) fn mesh(tcp: TcpStream, credentials: &Credentials, protocol: &[u8]) -> Result<Self> {
        Self::tls(tcp, session(Some(credentials), protocol)?)
    }

    /// Completes the handshake.
    pub(super) fn tls(mut tcp: TcpStream, mut session: ClientConnection) -> Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
        while session.is_handshaking() {
            session.complete_io(&mut tcp).context("handshake")?;
        }
        Ok(Self::Tls(Box::new(StreamOwned::new(session, tcp))))
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(stream) => &stream.sock,
        }
    }

    /// Whether the other end closes the connection, one way or another, within `limit`. What it says is passed over.
    pub(super) fn is_closed_within(&mut self, limit: Duration) -> Result<bool> {
        let start = std::time::Instant::now();
        let mut buffer = [0; 4096];
        while let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            self.tcp().set_read_timeout(Some(left))?;
            match self.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if is_silence(&error) => return Ok(false),
                Err(_) => return Ok(true),
            }
        }
        Ok(false)
    }
}

/// Whether a read or write has only timed out.
pub(super) fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

// === impl Anyone ===

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
