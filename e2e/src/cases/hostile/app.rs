//! An app that means harm: it speaks HTTP/2 to whoever calls, by hand, and answers as it is told to.

use std::{
    io::Write,
    iter,
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{net::Namespace, probe::wait_until};

use super::{
    backend::lock,
    frames::{ACK, Attack, Ended, Heard, attack, frame, kind},
    listening::Listening,
    peer::Peer,
};

pub(super) const PORT: u16 = 8083;

/// Bytes in one write.
const BATCH: usize = 8192;

/// What comes of a request.
pub(super) struct Script {
    pub(super) name: &'static str,
    /// For each request, by its stream.
    pub(super) each: fn(u32) -> Vec<u8>,
    /// Behind the first of them, over and over; nothing if it is empty.
    pub(super) flood: fn(u32) -> Vec<u8>,
    /// Whether it reads on meanwhile.
    pub(super) listens: bool,
}

/// Ends when it is dropped.
pub(super) struct App {
    shared: Arc<Shared>,
    _listening: Listening,
}

#[derive(Default)]
struct Shared {
    now: Mutex<Option<(&'static Script, Instant)>>,
    /// What has come of it, and how the first connection ended.
    done: Mutex<(Attack, Option<Ended>)>,
    /// Connections that are flooded.
    busy: AtomicUsize,
}

impl App {
    pub(super) fn start(namespace: &Arc<Namespace>) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let of_listener = shared.clone();
        let listening = Listening::start(namespace, PORT, move |stream| {
            if let Ok(ended) = of_listener.serve(stream) {
                lock(&of_listener.done).1.get_or_insert(ended);
            }
        })?;
        Ok(Self { shared, _listening: listening })
    }

    /// From now on, and no longer than that.
    pub(super) fn play(&self, script: &'static Script, limit: Duration) {
        *lock(&self.shared.done) = Default::default();
        *lock(&self.shared.now) = Some((script, Instant::now() + limit));
    }

    /// What has come of it, once no flood goes on.
    pub(super) fn done(&self) -> Result<Attack> {
        let is_over = || self.shared.busy.load(Ordering::Relaxed) == 0;
        wait_until("the app's floods have ended", Duration::from_secs(10), is_over)?;
        let (attack, ended) = *lock(&self.shared.done);
        Ok(Attack { ended: ended.unwrap_or(Ended::Open), ..attack })
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> Result<Ended> {
        stream.set_nodelay(true)?;
        let mut peer = Peer::Plain(stream);
        let mut heard = Heard::default();
        while !heard.skip_preface() {
            ensure!(heard.read(&mut peer)?, "closed before the preface");
        }
        peer.write_all(&[frame(kind::SETTINGS, 0, 0, &[]), frame(kind::SETTINGS, ACK, 0, &[])].concat())?;
        loop {
            while let Some((kind, stream, payload)) = heard.frame() {
                match kind {
                    kind::GOAWAY => return Ok(Ended::go_away(&payload)),
                    kind::HEADERS => {
                        if let Some(ended) = self.answer(&mut peer, stream)? {
                            return Ok(ended);
                        }
                    }
                    _ => {}
                }
            }
            if !heard.read(&mut peer)? {
                return Ok(Ended::Closed);
            }
        }
    }

    /// By the script; how its flood ended, if it has one.
    fn answer(&self, peer: &mut Peer, stream: u32) -> Result<Option<Ended>> {
        let (script, until) = lock(&self.now).context("nothing to play")?;
        let answer = (script.each)(stream);
        peer.write_all(&answer)?;
        self.count(1, answer.len());
        let flood = (script.flood)(stream);
        if flood.is_empty() {
            return Ok(None);
        }
        self.busy.fetch_add(1, Ordering::Relaxed);
        let batch = flood.repeat((BATCH / flood.len()).max(1));
        let batches = iter::repeat_with(|| batch.clone()).take_while(|_| Instant::now() < until);
        let attacked = attack(peer, batches, script.listens, Duration::ZERO);
        if let Ok(attack) = &attacked {
            self.count(attack.sent, attack.bytes);
            lock(&self.done).1.get_or_insert(attack.ended);
        }
        self.busy.fetch_sub(1, Ordering::Relaxed);
        Ok(Some(attacked?.ended))
    }

    fn count(&self, sent: usize, bytes: usize) {
        let done = &mut lock(&self.done).0;
        done.sent += sent;
        done.bytes += bytes;
    }
}
