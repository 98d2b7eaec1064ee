use std::{
    fs,
    sync::{Mutex, mpsc},
};

use outrigger_ca::{Authority, Material, Signer};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{ServerName, UnixTime},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{certificate, tls::Tls};

const SERVICE: &str = "outrigger-controller.outrigger-system.svc";

fn own() -> Arc<OwnCertificate> {
    let (chain, key) = Signer::generate("cluster.local").unwrap();
    let signer = Signer::read(Material { chain: &chain, key: &key, further: "" }, "cluster.local", &[]).unwrap();
    OwnCertificate::new(Arc::new(Authority::new(signer)), certificate::names(None)).unwrap()
}

/// Writes what cert-manager would; gives the certificate.
fn bring(dir: &Path) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([SERVICE.to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(dir.join("tls.crt"), certificate.pem()).unwrap();
    fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
    certificate.der().clone()
}

/// What a client that names the server so is shown.
async fn shown(certificate: &Arc<WebhookCertificate>, name: &'static str) -> CertificateDer<'static> {
    let tls = Tls::new(Arc::clone(certificate) as _, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Note(Mutex::new(sender))))
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let client = async {
        let stream = TcpStream::connect(address).await.unwrap();
        connector.connect(name.try_into().unwrap(), stream).await
    };
    let server = async {
        let (stream, peer) = listener.accept().await.unwrap();
        tls.handshake(stream, peer).await
    };
    // It fails, by design.
    let _ = tokio::join!(client, server);
    receiver.try_recv().unwrap()
}

/// Notes a certificate and refuses it.
#[derive(Debug)]
struct Note(Mutex<mpsc::Sender<CertificateDer<'static>>>);

// === impl Note ===

impl ServerCertVerifier for Note {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.lock().unwrap().send(leaf.clone().into_owned()).unwrap();
        Err(Error::General("noted".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("the certificate is refused before")
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[tokio::test]
async fn files_are_for_api_servers_and_the_own_one_for_replicas() {
    let dir = tempfile::tempdir().unwrap();
    let brought = bring(dir.path());
    let both = WebhookCertificate::new(own(), Some(dir.path().to_owned())).unwrap();
    assert_eq!(shown(&both, SERVICE).await, brought);
    assert_ne!(shown(&both, "outrigger-controller.outrigger-system").await, brought);
    let alone = WebhookCertificate::new(own(), None).unwrap();
    assert_ne!(shown(&alone, SERVICE).await, brought);
}

#[tokio::test]
async fn renewed_files_are_shown_and_broken_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    bring(dir.path());
    let certificate = WebhookCertificate::new(own(), Some(dir.path().to_owned())).unwrap();
    let next = bring(dir.path());
    let (files, mut told) = (certificate.files.as_ref().unwrap(), None);
    files.look(&mut told);
    assert_eq!(shown(&certificate, SERVICE).await, next);
    // A key of another certificate, then none at all.
    fs::write(dir.path().join("tls.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    files.look(&mut told);
    fs::remove_file(dir.path().join("tls.crt")).unwrap();
    files.look(&mut told);
    assert_eq!(shown(&certificate, SERVICE).await, next);
}

#[test]
fn wrong_files_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let error = WebhookCertificate::new(own(), Some(dir.path().to_owned())).unwrap_err();
    assert!(format!("{error:#}").contains("tls.crt"), "{error:#}");
}
