//! One simulated proxy: a connection of its own with TLS, a token of its own, and what it holds. Comes back when the stream
//! breaks, as the real client does.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use h2::{Ping, PingPong, client};
use http::Request;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpSocket,
    sync::{Semaphore, SemaphorePermit, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    ledger::Ledger,
    stream::{Held, Stream},
    world::Size,
};

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SERVER: &str = "outrigger-controller.outrigger-system.svc";
/// These as the real client has them.
const PATIENCE: Duration = Duration::from_secs(10);
const PINGS: Duration = Duration::from_secs(10);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Connections from one address: it has ports for twice as many, and those that have just ended count.
const PER_ADDRESS: usize = 1_000;

/// Where proxies are to be connected; another epoch means: anew.
#[derive(Clone, Default)]
pub(crate) struct Target {
    pub(crate) epoch: u64,
    /// `None`: nowhere.
    pub(crate) controller: Option<(SocketAddr, TlsConnector)>,
}

/// What all proxies share.
pub(crate) struct Common {
    pub(crate) size: Size,
    /// By proxy.
    pub(crate) tokens: Vec<String>,
    pub(crate) ledger: Ledger,
    /// For connections that are being made.
    pub(crate) turns: Semaphore,
}

pub(crate) struct Proxy {
    id: usize,
    common: Arc<Common>,
    held: Held,
    backoff: Duration,
}

// === impl Proxy ===

impl Proxy {
    pub(crate) fn new(id: usize, common: Arc<Common>) -> Self {
        Self { id, common, held: Held::default(), backoff: BACKOFF.0 }
    }

    /// Until nobody says any more where to.
    pub(crate) async fn run(mut self, mut targets: watch::Receiver<Target>) {
        loop {
            let target = targets.borrow_and_update().clone();
            tokio::select! {
                changed = targets.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.keep_following(target) => {}
            }
        }
    }

    async fn keep_following(&mut self, target: Target) {
        let Some((controller, tls)) = target.controller else { return std::future::pending().await };
        self.backoff = BACKOFF.0;
        // All begin at once, but nobody comes back at once.
        if target.epoch > 1 {
            self.pause().await;
        }
        loop {
            let Err(error) = self.follow(controller, &tls).await;
            self.common.ledger.note_failure(&error);
            self.pause().await;
            self.backoff = (self.backoff * 2).min(BACKOFF.1);
        }
    }

    async fn pause(&self) {
        sleep(self.backoff.mul_f64(rand::random())).await;
    }

    /// One connection, from its first byte to its last.
    async fn follow(&mut self, controller: SocketAddr, tls: &TlsConnector) -> Result<Infallible> {
        let common = Arc::clone(&self.common);
        let turn = common.turns.acquire().await?;
        let socket = TcpSocket::new_v4()?;
        socket.set_nodelay(true)?;
        let address = Ipv4Addr::from(0x7F01_0001 + (self.id / PER_ADDRESS) as u32);
        socket.bind((address, 0).into())?;
        let stream = timeout(PATIENCE, socket.connect(controller)).await??;
        let stream = timeout(PATIENCE, tls.connect(ServerName::try_from(SERVER)?, stream)).await??;
        let (client, mut connection) = client::handshake(stream).await?;
        let pings = connection.ping_pong().context("a connection without pings")?;
        tokio::select! {
            ended = connection => bail!("the connection has ended: {ended:?}"),
            ended = self.talk(client, turn) => ended,
            ended = ping(pings) => ended,
        }
    }

    async fn talk(
        &mut self,
        mut client: client::SendRequest<bytes::Bytes>,
        turn: SemaphorePermit<'_>,
    ) -> Result<Infallible> {
        let common = Arc::clone(&self.common);
        let request = Request::post(format!("https://{SERVER}{METHOD}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {}", common.tokens[self.id]))
            .body(())?;
        let (response, requests) = client.send_request(request, false)?;
        let mut stream = Stream::open(self.id, &common, &mut self.held, requests)?;
        let response = timeout(PATIENCE, response).await??;
        drop(turn);
        if response.status() != 200 || response.headers().contains_key("grpc-status") {
            bail!("refused: {response:?}");
        }
        self.backoff = BACKOFF.0;
        stream.follow(response.into_body()).await
    }
}

/// As every client of a server that may go silently.
async fn ping(mut pings: PingPong) -> Result<Infallible> {
    // Not all at the same moment.
    sleep(PINGS.mul_f64(rand::random())).await;
    loop {
        timeout(PATIENCE, pings.ping(Ping::opaque())).await??;
        sleep(PINGS).await;
    }
}
