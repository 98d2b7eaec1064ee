//! One authenticated connection to the controller: TLS 1.3 to its DNS name, a bearer token on each call.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use crate::Bootstrap;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One of several addresses; a Service of two families has one that may lead nowhere.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent controller is noticed after these two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the controller can't be called.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("{path}: not a PEM file of certificates: {error}")]
    Pem { path: PathBuf, error: rustls_pki_types::pem::Error },
    #[error("{0}: no usable root certificate")]
    Roots(PathBuf),
    #[error("{0}: a token is one line of visible ASCII")]
    Token(PathBuf),
    #[error("controller name: {0}")]
    Name(#[from] InvalidDnsNameError),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("controller {0:?}: {1}")]
    Connect(String, String),
}

/// Opens a connection. Roots are read again each time, so a rotated file needs no restart.
pub(crate) async fn connect(bootstrap: &Bootstrap) -> Result<Channel, ConnectError> {
    let tls = TlsConnector::from(Arc::new(tls_config(bootstrap)?));
    let name = ServerName::try_from(bootstrap.controller_name.clone())?;
    let address: Arc<str> = bootstrap.controller.as_str().into();
    let mark = bootstrap.mark;
    let open = move || {
        let (tls, name, address) = (tls.clone(), name.clone(), address.clone());
        async move {
            let tcp = dial(&address, mark).await?;
            tls.connect(name, tcp).await
        }
    };
    connect_over(bootstrap, open).await
}

/// A connection over the bytes that `open` leads to.
pub(crate) async fn connect_over<S, F>(
    bootstrap: &Bootstrap,
    open: impl Fn() -> F + Send + 'static,
) -> Result<Channel, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let failed = |error: tonic::transport::Error| ConnectError::Connect(bootstrap.controller.clone(), causes(&error));

    // The scheme is only what tonic calls it: `connect` always speaks TLS.
    let endpoint = Endpoint::from_shared(format!("http://{}", bootstrap.controller))
        .map_err(failed)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let connector = tower::service_fn(move |_| {
        let opening = open();
        async move { opening.await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.map_err(failed)
}

/// The first of the controller's addresses that answers.
async fn dial(address: &str, mark: Option<u32>) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in tokio::net::lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_nodelay(true)?;
        if let Some(mark) = mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        match timeout(ADDRESS_TIMEOUT, socket.connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// A call's message with the workload's token. The token is read again each time: it is rotated under us.
pub(crate) fn authorised<T>(bootstrap: &Bootstrap, message: T) -> Result<tonic::Request<T>, ConnectError> {
    let path = &bootstrap.token;
    // Blocking, but tiny and local.
    let token = std::fs::read_to_string(path).map_err(|error| ConnectError::File { path: path.clone(), error })?;
    let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim_end()))
        .map_err(|_| ConnectError::Token(path.clone()))?;
    value.set_sensitive(true);
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

fn tls_config(bootstrap: &Bootstrap) -> Result<ClientConfig, ConnectError> {
    let path = &bootstrap.root_cert;
    let pem = std::fs::read(path).map_err(|error| ConnectError::File { path: path.clone(), error })?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ConnectError::Pem { path: path.clone(), error })?;
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(certificates).0 == 0 {
        return Err(ConnectError::Roots(path.clone()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// tonic's errors print only their outermost layer.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
