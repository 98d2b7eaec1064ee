//! Who a peer is: X.509-SVID validation (SPIFFE X509-SVID specification, section 5).
//!
//! A peer's chain is judged by the roots of the trust domain that its own certificate names, and by no others.

use std::sync::Arc;

use outrigger_wire::{IdentityError, SpiffeId};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::roots::{Root, Roots};

/// Why a certificate is no X.509-SVID of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    #[error("not a well-formed X.509 certificate")]
    Encoding,
    #[error("has {0} URI names, not exactly one")]
    UriNames(usize),
    #[error("its URI name is no SPIFFE ID of a workload: {0}")]
    SpiffeId(#[from] IdentityError),
    #[error("may not sign a handshake, or may sign certificates")]
    KeyUsage,
}

/// Judges the certificates of both servers and clients.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Arc<Roots>,
    algorithms: WebPkiSupportedAlgorithms,
    /// `None`: anybody of a known trust domain.
    peers: Option<Box<[SpiffeId]>>,
}

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Server,
    Client,
}

/// A longer chain isn't worth the work of building a path.
const MAX_INTERMEDIATES: usize = 4;

/// The SPIFFE ID that a certificate claims. Proves nothing: the chain is judged elsewhere.
///
/// # Errors
/// If it isn't a well-formed leaf certificate with exactly one URI name that is a workload's SPIFFE ID.
pub fn spiffe_id(certificate: &CertificateDer<'_>) -> Result<SpiffeId, SvidError> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| SvidError::Encoding)?;
    if !rest.is_empty() {
        return Err(SvidError::Encoding);
    }
    // Duplicates of an extension are errors here, so there is one list of names at most.
    let names = parsed.subject_alternative_name().map_err(|_| SvidError::Encoding)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(SvidError::Encoding);
    }
    let mut uris = names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(SvidError::UriNames(names.iter().filter(|name| matches!(name, GeneralName::URI(_))).count()));
    };
    let usage = parsed.key_usage().map_err(|_| SvidError::Encoding)?.ok_or(SvidError::KeyUsage)?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() || parsed.is_ca() {
        return Err(SvidError::KeyUsage);
    }
    Ok(uri.parse()?)
}

/// Whether this is the time of the certificate.
pub(super) fn still_valid(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.validity().is_valid())
}

/// Whether a leaf says that it is for this (RFC 5280, section 4.2.1.12). One that says nothing isn't.
fn is_for(leaf: &CertificateDer<'_>, part: Part) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return false };
    let Ok(Some(usage)) = parsed.extended_key_usage() else { return false };
    match part {
        Part::Server => usage.value.server_auth,
        Part::Client => usage.value.client_auth,
    }
}

/// webpki doesn't look at what keys of authorities between are for (RFC 5280, section 4.2.1.3). No usage is every usage.
fn authorities_may_sign(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    let may_sign = |certificate: &CertificateDer<'_>| {
        X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| {
            parsed.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()))
        })
    };
    let all = path.intermediate_certificates().all(|authority| may_sign(&authority.der()));
    if all { Ok(()) } else { Err(webpki::Error::UnknownIssuer) }
}

/// The root that has vouched for the peer of a handshake, by `roots`, which is over.
pub(super) fn root_of(
    roots: &Roots,
    algorithms: WebPkiSupportedAlgorithms,
    chain: &[CertificateDer<'_>],
    id: &SpiffeId,
    part: Part,
) -> Option<Arc<Root>> {
    let (leaf, intermediates) = chain.split_first()?;
    let by = |anchor: &TrustAnchor<'static>| {
        vouched(algorithms, std::slice::from_ref(anchor), leaf, intermediates, UnixTime::now(), part).is_ok()
    };
    roots.find(id.trust_domain(), by).cloned()
}

/// Whether a path leads from the leaf to one of the anchors.
fn vouched(
    algorithms: WebPkiSupportedAlgorithms,
    anchors: &[TrustAnchor<'_>],
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    part: Part,
) -> Result<(), webpki::Error> {
    // Of authorities between, webpki demands only what they say of themselves: most say nothing.
    let usage = match part {
        Part::Server => KeyUsage::server_auth(),
        Part::Client => KeyUsage::client_auth(),
    };
    let path = Some(&authorities_may_sign as &dyn Fn(&VerifiedPath<'_>) -> _);
    EndEntityCert::try_from(leaf)?.verify_for_usage(algorithms.all, anchors, intermediates, now, usage, None, path)?;
    Ok(())
}

// === impl Verifier ===

impl Verifier {
    /// Accepts everybody of a known trust domain.
    pub(super) fn any(roots: Arc<Roots>, provider: &CryptoProvider) -> Self {
        Self { roots, algorithms: provider.signature_verification_algorithms, peers: None }
    }

    /// Accepts `peers` alone.
    pub(super) fn only(roots: Arc<Roots>, provider: &CryptoProvider, peers: &[SpiffeId]) -> Self {
        Self { roots, algorithms: provider.signature_verification_algorithms, peers: Some(peers.into()) }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        part: Part,
    ) -> Result<(), Error> {
        let id = spiffe_id(leaf).map_err(other)?;
        if self.peers.as_ref().is_some_and(|peers| !peers.contains(&id)) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(CertificateError::UnknownIssuer.into());
        }
        if !is_for(leaf, part) {
            return Err(CertificateError::InvalidPurpose.into());
        }
        let anchors = self.roots.anchors(id.trust_domain()).ok_or(CertificateError::UnknownIssuer)?;
        vouched(self.algorithms, anchors, leaf, intermediates, now, part).map_err(refusal)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Part::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A workload has one certificate, so there is nothing to choose.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Part::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn no_tls12() -> Error {
    Error::General("TLS 1.2 was never offered".into())
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// The alert that fits; what has none of its own is told to our log alone.
fn refusal(error: webpki::Error) -> Error {
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding.into(),
        webpki::Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after }.into(),
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }.into()
        }
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        error => other(error),
    }
}
