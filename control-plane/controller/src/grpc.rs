//! The proxies' port: TLS 1.3, HTTP/2, and no call without a valid token.
//!
//! Authentication happens here and nowhere else. What it finds is left in the request's extensions, where the services
//! look for it; a service that finds nothing refuses.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, header};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, service::Routes};
use tower::ServiceExt;

use crate::{
    authenticate::{Authenticator, Refusal},
    certificate::OwnCertificate,
    listener::{self, Guest, Room},
    tls::Tls,
};

/// A proxy that is gone is noticed after this and [`KEEPALIVE_ANSWER`].
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// Calls at once on one connection; a proxy needs two.
const MAX_STREAMS: u32 = 32;
/// Bytes of headers of one call.
const MAX_HEADERS: u32 = 16 * 1024;

/// What every connection needs.
pub(crate) struct Server {
    tls: Tls,
    http2: http2::Builder<TokioExecutor>,
    authenticator: Arc<Authenticator>,
    routes: Routes,
}

// === impl Server ===

impl Server {
    pub(crate) fn new(
        certificate: Arc<OwnCertificate>,
        authenticator: Arc<Authenticator>,
        routes: Routes,
    ) -> anyhow::Result<Arc<Self>> {
        let tls = Tls::new(certificate, &[b"h2"])?;
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS);
        Ok(Arc::new(Self { tls, http2, authenticator, routes }))
    }

    /// Serves until `stop`, then drains.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, room: Room, stop: CancellationToken) {
        listener::accept(listener, room, stop.clone(), |stream, peer, guest| {
            let (server, stop) = (Arc::clone(&self), stop.clone());
            async move { server.serve(stream, peer, guest, stop).await }
        })
        .await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, guest: Guest, stop: CancellationToken) {
        let stream = tokio::select! {
            stream = self.tls.handshake(stream, peer) => stream,
            () = stop.cancelled() => None,
        };
        let Some(stream) = stream else { return };
        let service = service_fn(|request| {
            guest.has_asked_now();
            Arc::clone(&self).call(request, peer, guest.clone())
        });
        let mut connection = std::pin::pin!(self.http2.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = guest.silence() => return tracing::debug!(%peer, "nothing was asked for in time"),
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection ended");
        }
    }

    async fn call(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        guest: Guest,
    ) -> Result<Response<Body>, Infallible> {
        let principal = match self.authenticator.authenticate(request.headers(), peer).await {
            Ok(principal) => principal,
            // The same answer whatever was wrong: it tells a guesser nothing.
            Err(Refusal::Denied) => {
                return Ok(Status::unauthenticated("a valid token of a workload of this mesh is needed").into_http());
            }
            Err(Refusal::Unavailable) => {
                return Ok(Status::unavailable("tokens can't be checked for now").into_http());
            }
        };
        guest.is_known_now();
        request.headers_mut().remove(header::AUTHORIZATION);
        request.extensions_mut().insert(principal.identity.clone());
        request.extensions_mut().insert(principal);
        self.routes.clone().oneshot(request).await
    }
}

#[cfg(test)]
mod tests {
    use outrigger_ca::{Authority, Material, Signer};
    use rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, pem::PemObject},
    };
    use tokio::{
        io::AsyncReadExt,
        sync::watch,
        time::{self, Instant},
    };
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::{certificate, tokens::TokenFiles};

    #[tokio::test]
    async fn a_peer_that_asks_for_nothing_is_given_up() {
        let (chain, key) = Signer::generate("cluster.local").unwrap();
        let signer = Signer::read(Material { chain: &chain, key: &key, further: "" }, "cluster.local", &[]).unwrap();
        let own = OwnCertificate::new(Arc::new(Authority::new(signer)), certificate::names(None)).unwrap();
        let tokens = tempfile::tempdir().unwrap();
        let tokens = TokenFiles::new(tokens.path().to_owned(), watch::channel(Arc::default()).1);
        let server = Server::new(own, Arc::new(Authenticator::Files(tokens)), Routes::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(server.run(
            listener,
            Room { known: 1, strangers: 1, grace: Duration::from_secs(1) },
            CancellationToken::new(),
        ));

        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();

        // From here on nobody sends anything: the clock jumps to what is waited for.
        time::pause();
        let begun = Instant::now();
        let ended = time::timeout(Duration::from_secs(3600), stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok() && begun.elapsed() <= Duration::from_secs(11), "{:?}", begun.elapsed());
    }
}
