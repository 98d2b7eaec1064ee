//! SPIFFE IDs of workloads: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`
//! (SPIFFE-ID specification, section 2).

use std::{fmt, str::FromStr, sync::Arc};

/// Longest SPIFFE ID in bytes (SPIFFE-ID section 2.3).
const MAX_LEN: usize = 2048;

/// Identity of a workload. Parsed once; only well-formed IDs exist.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain_end: u32,
    namespace_end: u32,
}

/// Why a text is no SPIFFE ID of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("not a spiffe:// URI")]
    Scheme,
    #[error("longer than {MAX_LEN} bytes")]
    TooLong,
    #[error("trust domain must be of a-z, 0-9, '.', '-', '_' and not empty")]
    TrustDomain,
    #[error("path must be /ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Path,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Identity of a service account.
    ///
    /// # Errors
    /// If a part has a character that a SPIFFE ID can't hold.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    pub fn as_str(&self) -> &str {
        &self.uri
    }

    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.trust_domain_end as usize]
    }

    pub fn namespace(&self) -> &str {
        &self.uri[self.trust_domain_end as usize + "/ns/".len()..self.namespace_end as usize]
    }

    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_end as usize + "/sa/".len()..]
    }
}

// === impl SpiffeId ===

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_LEN {
            return Err(IdentityError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(IdentityError::Path)?;
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if trust_domain.is_empty() || trust_domain.len() > 255 || !trust_domain.bytes().all(lower) {
            return Err(IdentityError::TrustDomain);
        }
        let segment = |s: &str| {
            !s.is_empty()
                && s != "."
                && s != ".."
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None)
                if segment(namespace) && segment(account) =>
            {
                let trust_domain_end = SCHEME.len() + trust_domain.len();
                let namespace_end = trust_domain_end + "/ns/".len() + namespace.len();
                // Both fit: the whole is at most MAX_LEN.
                Ok(Self {
                    uri: text.into(),
                    trust_domain_end: trust_domain_end as u32,
                    namespace_end: namespace_end as u32,
                })
            }
            _ => Err(IdentityError::Path),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let id = SpiffeId::new("cluster.local", "shop", "front").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/front");
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("cluster.local", "shop", "front"));
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe:///ns/a/sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://td:80/ns/a/sa/b",
            "spiffe://u@td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?q",
            "spiffe://td/ns/a/sa/b#f",
            "spiffe://td/ns/a/sa/%62",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/a/sa/b\0",
            "spiffe://td/ns/a",
            "spiffe://td/workload/x",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was accepted");
        }
    }
}
