//! Roots of trust, and the sessions that hang on each: whom a root has vouched for has no say any more once that root is
//! trusted no more (ADR 23).

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::sys::socket::{Shutdown, shutdown};
use outrigger_core::config::Trust;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use tokio::net::TcpStream;

/// Trust anchors by trust domain.
#[derive(Debug)]
pub(super) struct Roots(HashMap<Box<str>, Domain>);

#[derive(Debug, Default)]
pub(super) struct Domain {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    /// The same, as what outlives a change of the others.
    roots: Vec<Arc<Root>>,
}

/// One root, for as long as it is trusted.
#[derive(Debug, Default)]
pub(crate) struct Root(Mutex<Sessions>);

#[derive(Debug, Default)]
struct Sessions {
    retired: bool,
    /// By their sockets, which are open for as long as they are here.
    open: HashMap<RawFd, Manner>,
}

/// How a session is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// At once: what is said on it nobody sees, and it has no end of its own.
    AtOnce,
    /// Requests may be under way on it. Who serves them ends it, or the limit does.
    InTime,
}

/// Keeps a session among those of its root.
#[derive(Debug)]
pub(super) struct Bond {
    root: Arc<Root>,
    socket: RawFd,
}

// === impl Roots ===

impl Roots {
    /// Roots that were trusted `before` stay the same. A root that is no certificate is left out, so that it doesn't hold up
    /// the others: what it would vouch for is refused.
    pub(super) fn new(trust: &[Trust], before: Option<&Self>) -> Self {
        let mut domains: HashMap<Box<str>, Domain> = HashMap::new();
        for said in trust {
            let known = before.and_then(|before| before.0.get(&said.trust_domain));
            let domain = domains.entry(said.trust_domain.clone()).or_default();
            for root in &said.roots {
                match webpki::anchor_from_trusted_cert(&CertificateDer::from(root.as_ref())) {
                    Ok(anchor) if domain.anchors.contains(&anchor) => {}
                    Ok(anchor) => {
                        let root = known.and_then(|known| known.root(&anchor)).cloned().unwrap_or_default();
                        domain.anchors.push(anchor.to_owned());
                        domain.roots.push(root);
                    }
                    Err(error) => tracing::error!(%error, trust_domain = %said.trust_domain, "root left out"),
                }
            }
        }
        Self(domains)
    }

    pub(super) fn anchors(&self, trust_domain: &str) -> Option<&[TrustAnchor<'static>]> {
        self.0.get(trust_domain).map(|domain| &*domain.anchors)
    }

    /// The root of a chain that all of a domain's together have vouched for; which of them, says `vouches`.
    pub(super) fn find(
        &self,
        trust_domain: &str,
        mut vouches: impl FnMut(&TrustAnchor<'static>) -> bool,
    ) -> Option<&Arc<Root>> {
        let domain = self.0.get(trust_domain)?;
        // While roots aren't being changed there is one.
        if let [root] = &domain.roots[..] {
            return Some(root);
        }
        domain.anchors.iter().zip(&domain.roots).find(|(anchor, _)| vouches(anchor)).map(|(_, root)| root)
    }

    /// Those that aren't among `others`.
    pub(super) fn without(&self, others: &Self) -> Vec<Arc<Root>> {
        let kept =
            |root: &Arc<Root>| others.0.values().any(|domain| domain.roots.iter().any(|it| Arc::ptr_eq(it, root)));
        self.0.values().flat_map(|domain| &domain.roots).filter(|root| !kept(root)).cloned().collect()
    }
}

impl Domain {
    fn root(&self, anchor: &TrustAnchor<'_>) -> Option<&Arc<Root>> {
        self.anchors.iter().position(|it| it == anchor).and_then(|at| self.roots.get(at))
    }
}

// === impl Root ===

impl Root {
    /// It is trusted no more. Ends what nobody sees the end of, and says how much is left.
    pub(super) fn retire(&self) -> usize {
        let mut sessions = self.sessions();
        sessions.retired = true;
        sessions.end(|manner| manner == Manner::AtOnce);
        sessions.open.values().filter(|manner| **manner == Manner::InTime).count()
    }

    /// Ends what has stayed, and says how much that was.
    pub(super) fn cut(&self) -> usize {
        let sessions = self.sessions();
        sessions.end(|_| true);
        sessions.open.len()
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.sessions().retired
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Whoever reads from such a socket sees its end, and closes it.
    fn end(&self, which: impl Fn(Manner) -> bool) {
        for (socket, _) in self.open.iter().filter(|(_, manner)| which(**manner)) {
            // One that the peer has ended already is as good.
            let _ = shutdown(*socket, Shutdown::Both);
        }
    }
}

// === impl Bond ===

impl Bond {
    /// # Errors
    /// When the root was retired while the handshake went on.
    pub(super) fn new(root: &Arc<Root>, socket: &TcpStream, manner: Manner) -> io::Result<Self> {
        let socket = socket.as_raw_fd();
        let mut sessions = root.sessions();
        if sessions.retired {
            return Err(io::Error::other("the root of the peer's certificate is trusted no more"));
        }
        sessions.open.insert(socket, manner);
        drop(sessions);
        Ok(Self { root: root.clone(), socket })
    }

    pub(super) fn root(&self) -> &Arc<Root> {
        &self.root
    }
}

impl Drop for Bond {
    fn drop(&mut self) {
        let mut sessions = self.root.sessions();
        sessions.open.remove(&self.socket);
        // After many sessions it would keep the room of all of them.
        if sessions.open.capacity() > ROOM && sessions.open.len() < sessions.open.capacity() / 8 {
            sessions.open.shrink_to_fit();
        }
    }
}

/// Sessions whose room is kept.
const ROOM: usize = 256;
