//! The port of an app that is made by hand: a thread for each connection.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use outrigger_testbed::net::Namespace;

/// Takes nothing more when it is dropped.
pub(super) struct Listening {
    namespace: Arc<Namespace>,
    port: u16,
    over: Arc<AtomicBool>,
}

impl Listening {
    pub(super) fn start(
        namespace: &Arc<Namespace>,
        port: u16,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = namespace.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        let listener = listener.with_context(|| format!("an app's port {port}"))?;
        let (over, serve) = (Arc::<AtomicBool>::default(), Arc::new(serve));
        let is_over = over.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let serve = serve.clone();
                thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { namespace: namespace.clone(), port, over })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // One more connection, so that the listener comes round to seeing it.
        let _ = self.namespace.connect((Ipv4Addr::LOCALHOST, self.port).into(), Duration::from_secs(1));
    }
}
