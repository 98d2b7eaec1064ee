//! Who a caller is, in the embedded mode: a file for each workload holds its bearer token.
//!
//! A token is `NAMESPACE/NAME:SECRET`, and so is the text of the file `NAMESPACE.NAME`. The token proves the workload;
//! the identity comes from the mesh's own record of that workload. No token is ever logged or answered.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use outrigger_model::MeshSnapshot;
use outrigger_wire::SpiffeId;
use outrigger_xds::Principal;
use tokio::sync::watch;

/// Longest token in bytes.
const MAX_TOKEN: usize = 4096;
/// Shortest secret in bytes: an empty file must never let anyone in.
const MIN_SECRET: usize = 16;

/// Checks tokens against the folder, afresh for each call: a token that was replaced or removed is void at once.
#[derive(Debug)]
pub(crate) struct TokenFiles {
    dir: PathBuf,
    snapshots: watch::Receiver<Arc<MeshSnapshot>>,
}

/// Why a caller isn't let in. For our log; the caller hears nothing of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token isn't NAMESPACE/NAME:SECRET")]
    Malformed,
    #[error("no token of workload {workload} can be read")]
    Unreadable { workload: String, source: io::Error },
    #[error("wrong token for workload {workload}")]
    Wrong { workload: String },
    #[error("workload {workload} isn't in the mesh")]
    UnknownWorkload { workload: String },
}

// === impl TokenFiles ===

impl TokenFiles {
    pub(crate) fn new(dir: PathBuf, snapshots: watch::Receiver<Arc<MeshSnapshot>>) -> Self {
        Self { dir, snapshots }
    }

    /// The workload whose token this is.
    pub(crate) fn authenticate(&self, token: &str) -> Result<Principal, TokenError> {
        let (workload, file) = parse(token).ok_or(TokenError::Malformed)?;
        let expected =
            self.read(&file).map_err(|source| TokenError::Unreadable { workload: workload.into(), source })?;
        verify_slices_are_equal(expected.trim_ascii_end(), token.as_bytes())
            .map_err(|_| TokenError::Wrong { workload: workload.into() })?;
        let snapshot = self.snapshots.borrow();
        let unknown = || TokenError::UnknownWorkload { workload: workload.into() };
        let (name, identity) = snapshot.workloads.get_key_value(workload).ok_or_else(unknown)?;
        let shared = snapshot.shared_identities.contains(identity);
        let identity: SpiffeId = identity.parse().map_err(|_| unknown())?;
        Ok(Principal { workload: Arc::clone(name), identity, shared })
    }

    /// A small local file: not worth another thread.
    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        // One byte more than a token may have, for the newline.
        File::open(self.dir.join(file))?.take(MAX_TOKEN as u64 + 1).read_to_end(&mut text)?;
        Ok(text)
    }
}

/// Workload and file name of a token. Both parts are DNS names, so the file name can't lead out of the folder.
fn parse(token: &str) -> Option<(&str, String)> {
    let (workload, secret) = token.split_once(':')?;
    let (namespace, name) = workload.split_once('/')?;
    let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let well_formed = (1..=63).contains(&namespace.len())
        && namespace.bytes().all(label)
        && (1..=253).contains(&name.len())
        && name.split('.').all(|part| !part.is_empty() && part.bytes().all(label))
        && token.len() <= MAX_TOKEN
        && secret.len() >= MIN_SECRET;
    well_formed.then(|| (workload, format!("{namespace}.{name}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn tokens(dir: &std::path::Path) -> TokenFiles {
        let mut snapshot = MeshSnapshot { generation: 1, ..MeshSnapshot::default() };
        let shared: Arc<str> = "spiffe://cluster.local/ns/outrigger-system/sa/outrigger-shared".into();
        snapshot.workloads.insert("shop/web".into(), "spiffe://cluster.local/ns/shop/sa/front".into());
        snapshot.workloads.insert("outrigger-system/shared-1".into(), Arc::clone(&shared));
        snapshot.shared_identities.push(shared);
        TokenFiles::new(dir.to_owned(), watch::channel(Arc::new(snapshot)).1)
    }

    #[test]
    fn the_identity_comes_from_the_mesh() {
        let dir = tempfile::tempdir().unwrap();
        for (file, workload, shared) in
            [("shop.web", "shop/web", false), ("outrigger-system.shared-1", "outrigger-system/shared-1", true)]
        {
            let token = format!("{workload}:{SECRET}");
            fs::write(dir.path().join(file), format!("{token}\n")).unwrap();
            let principal = tokens(dir.path()).authenticate(&token).unwrap();
            assert_eq!((&*principal.workload, principal.shared), (workload, shared));
        }
        let principal = tokens(dir.path()).authenticate(&format!("shop/web:{SECRET}")).unwrap();
        assert_eq!(principal.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/front");
    }

    #[test]
    fn refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("shop.web"), format!("shop/web:{SECRET}")).unwrap();
        fs::write(dir.path().join("shop.stranger"), format!("shop/stranger:{SECRET}")).unwrap();
        fs::write(dir.path().join("shop.empty"), "").unwrap();
        let tokens = tokens(dir.path());
        let long = format!("shop/web:{}", "x".repeat(MAX_TOKEN));
        for token in [
            "",
            "shop/web",
            "shop/web:",
            "shop/empty:",
            &format!("shop/web:{SECRET}x"),
            &format!("shop/web:{SECRET}\n"),
            &format!("shop/web:{}", &SECRET[1..]),
            &format!("shop/web:1{}", &SECRET[1..]),
            &format!("shop/stranger:{SECRET}"),
            &format!("shop/nobody:{SECRET}"),
            &format!("shop/../shop.web:{SECRET}"),
            &format!("../shop.web:{SECRET}"),
            &format!("/shop.web:{SECRET}"),
            &format!("shop.web:{SECRET}"),
            &format!("shop/web\0:{SECRET}"),
            &long,
        ] {
            assert!(tokens.authenticate(token).is_err(), "{token:?} was accepted");
        }
        assert!(tokens.authenticate(&format!("shop/web:{SECRET}")).is_ok());
    }

    #[test]
    fn errors_hold_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("shop.web"), "shop/web:another-secret-of-it").unwrap();
        let error = tokens(dir.path()).authenticate(&format!("shop/web:{SECRET}")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
        assert!(!format!("{error} {error:?}").contains(SECRET));
    }
}
