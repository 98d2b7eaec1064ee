//! What is taken from a PKCS #10 request: the public key, and the proof that the caller holds its private half.
//! Subject, names and extensions in it are never looked at.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

/// Longest request in bytes.
const MAX_CSR: usize = 16 * 1024;

/// Why a request isn't signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("the request is longer than {MAX_CSR} bytes")]
    TooLong,
    #[error("the request is no DER of a PKCS #10 certification request")]
    Malformed,
    #[error("the key must be ECDSA P-256, ECDSA P-384 or Ed25519")]
    UnsupportedKey,
    #[error("the request isn't signed by the key that it holds")]
    Signature,
}

/// The request's public key, once its signature was verified.
pub(crate) fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if der.len() > MAX_CSR {
        return Err(CsrError::TooLong);
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let key = SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
        .ok()
        .filter(is_supported)
        .ok_or(CsrError::UnsupportedKey)?;
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(key)
}

fn is_supported(key: &SubjectPublicKeyInfo) -> bool {
    let algorithm = rcgen::PublicKeyData::algorithm(key);
    [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519].contains(&algorithm)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn csr(key: &KeyPair) -> Vec<u8> {
        let params = CertificateParams::new(["elsewhere.example".to_owned()]).unwrap();
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn supported_keys() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            public_key(&csr(&key)).unwrap();
        }
        for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P521_SHA512] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(public_key(&csr(&key)).unwrap_err(), CsrError::UnsupportedKey);
        }
    }

    #[test]
    fn a_signature_by_another_key_is_refused() {
        let key = KeyPair::generate().unwrap();
        let mut der = csr(&key);
        let own = key.public_key_raw().to_vec();
        let other = KeyPair::generate().unwrap().public_key_raw().to_vec();
        let at = der.windows(own.len()).position(|window| window == own).unwrap();
        der[at..at + other.len()].copy_from_slice(&other);
        assert_eq!(public_key(&der).unwrap_err(), CsrError::Signature);
    }

    #[test]
    fn too_long() {
        assert_eq!(public_key(&vec![0x30; MAX_CSR + 1]).unwrap_err(), CsrError::TooLong);
    }

    #[test]
    fn garbage_never_panics() {
        let der = csr(&KeyPair::generate().unwrap());
        for end in 0..der.len() {
            assert_eq!(public_key(&der[..end]).unwrap_err(), CsrError::Malformed, "cut at {end}");
        }
        let mut rng = SmallRng::seed_from_u64(7);
        let trailing = [&der[..], &[0]].concat();
        assert_eq!(public_key(&trailing).unwrap_err(), CsrError::Malformed);
        for _ in 0..20_000 {
            let mut mutated = der.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..mutated.len());
                mutated[at] = rng.random();
            }
            // A request that still verifies must be the one that was signed.
            if public_key(&mutated).is_ok() {
                assert_eq!(signed_part(&mutated), signed_part(&der));
            }
        }
    }

    fn signed_part(der: &[u8]) -> Vec<u8> {
        let (_, csr) = X509CertificationRequest::from_der(der).unwrap();
        csr.certification_request_info.raw.to_vec()
    }
}
