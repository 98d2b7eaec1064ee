//! Handshakes, as all ports of ours do them: TLS 1.3, bounded in number and time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use rustls::{ServerConfig, server::ResolvesServerCert, version::TLS13};
use tokio::{net::TcpStream, sync::Semaphore, time};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Handshakes at once: each costs us a signature, and a peer that stalls only keeps its place for [`HANDSHAKE`].
const MAX_HANDSHAKES: usize = 512;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// One port's.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    handshakes: Semaphore,
}

// === impl Tls ===

impl Tls {
    pub(crate) fn new(certificate: Arc<dyn ResolvesServerCert>, alpn: &[&[u8]]) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .context("TLS 1.3")?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), handshakes: Semaphore::new(MAX_HANDSHAKES) })
    }

    pub(crate) async fn handshake(&self, stream: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let handshake = async {
            // Never closed, so there is always a permit to wait for.
            let _permit = self.handshakes.acquire().await;
            self.acceptor.accept(stream).await
        };
        match time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "TLS handshake took too long");
                None
            }
        }
    }
}
