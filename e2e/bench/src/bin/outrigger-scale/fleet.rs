//! All proxies, on a few threads, and what moves them.

use std::{net::SocketAddr, sync::Arc, thread};

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, pem::PemObject},
    version::TLS13,
};
use tokio::{
    sync::{Semaphore, watch},
    task::LocalSet,
};
use tokio_rustls::TlsConnector;

use crate::{
    ledger::Ledger,
    proxy::{Common, Proxy, Target},
    world::Size,
};

/// The proxies. They end when it is dropped.
pub(crate) struct Fleet {
    common: Arc<Common>,
    target: watch::Sender<Target>,
    threads: Vec<thread::JoinHandle<()>>,
}

// === impl Fleet ===

impl Fleet {
    /// `at_once` connections are made at a time.
    pub(crate) fn start(size: Size, tokens: Vec<String>, threads: usize, at_once: usize) -> Result<Self> {
        let common = Arc::new(Common { size, tokens, ledger: Ledger::default(), turns: Semaphore::new(at_once) });
        let (target, targets) = watch::channel(Target::default());
        let thread = |thread: usize| {
            let (common, targets) = (Arc::clone(&common), targets.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = move || {
                let proxies = LocalSet::new();
                for id in (thread..common.size.proxies).step_by(threads) {
                    proxies.spawn_local(Proxy::new(id, Arc::clone(&common)).run(targets.clone()));
                }
                drop((common, targets));
                runtime.block_on(proxies);
            };
            thread::Builder::new().name(format!("proxies-{thread}")).spawn(work).context("a thread for proxies")
        };
        let threads = (0..threads).map(thread).collect::<Result<_>>()?;
        Ok(Self { common, target, threads })
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.common.ledger
    }

    /// Connects all, or cuts all connections and connects anew. A session is never resumed, as if each were a process of
    /// its own that has just begun.
    pub(crate) fn connect(&self, controller: SocketAddr, root: &[u8]) -> Result<()> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root).context("the root")?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        let tls = TlsConnector::from(Arc::new(config));
        self.ledger().forget_synced();
        self.target.send_modify(|target| {
            target.epoch += 1;
            target.controller = Some((controller, tls));
        });
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // The proxies end once nobody can tell them any more.
        self.target = watch::channel(Target::default()).0;
        for thread in self.threads.drain(..) {
            // A panic was told by its own message.
            let _ = thread.join();
        }
    }
}
