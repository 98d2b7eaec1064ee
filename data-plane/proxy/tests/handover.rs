//! The sockets outlive the process: whatever dies, hangs or is replaced, nobody who connects is refused.
//! Real processes, real signals; the guard and the sidecars answer each connection with one letter.

#![allow(clippy::unwrap_used)] // A test that can't go on has failed.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outrigger_dataplane::{
    guard::{Authority, Cause, Patience},
    handover::{Host, Names, Session, join},
    listeners::{Listeners, Ports},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, MutexGuard, watch},
    task::JoinSet,
    time::timeout,
};

const ANY: Ports = Ports { outbound: 0, inbound: 0, mesh: 0 };

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const CHILD: &str = "OUTRIGGER_TEST_SIDECAR";

/// Held while a process begins: until it runs its own program, it holds this one's sockets, whichever test they are of.
static BEGINNING: Mutex<()> = Mutex::const_new(());

/// Names that no other test of this machine uses.
fn names() -> Names {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    Names { guard: format!("test-guard-{unique}"), sidecar: format!("test-sidecar-{unique}") }
}

struct Guard {
    authority: watch::Receiver<Option<Authority>>,
    port: u16,
    tasks: JoinSet<()>,
}

impl Guard {
    async fn start(names: &Names) -> Self {
        let quick = Patience {
            hold: Duration::from_millis(50),
            longest_hold: Duration::from_millis(50),
            ..Patience::default()
        };
        let host = timeout(PATIENCE, Host::start(names, ANY, 2, quick)).await.unwrap().unwrap();
        let (published, authority) = watch::channel(None);
        let port = host.listeners().ports().unwrap().outbound;
        let mut tasks = JoinSet::new();
        answer(&mut tasks, host.listeners(), b'G', &authority, |now| matches!(now, Some(Authority::Guard(_))));
        tasks.spawn(host.run(published));
        Self { authority, port, tasks }
    }

    /// As if it had died: its sockets are closed.
    /// As long as what it returns is held, its names are free.
    async fn end(mut self) -> MutexGuard<'static, ()> {
        let nobody_begins = BEGINNING.lock().await;
        self.tasks.shutdown().await;
        nobody_begins
    }

    async fn until(&mut self, authority: Authority) {
        timeout(PATIENCE, self.authority.wait_for(|now| *now == Some(authority))).await.expect("in time").unwrap();
    }
}

/// Answers with `letter` on every outbound socket, while it may.
fn answer<T: Send + Sync + 'static>(
    tasks: &mut JoinSet<()>,
    listeners: &Listeners,
    letter: u8,
    state: &watch::Receiver<T>,
    may: fn(&T) -> bool,
) {
    for socket in listeners.try_clone().unwrap().outbound {
        let mut state = state.clone();
        tasks.spawn(async move {
            while state.wait_for(may).await.is_ok() {
                let listener = TcpListener::from_std(socket.try_clone().unwrap()).unwrap();
                loop {
                    let (mut stream, _) = tokio::select! {
                        biased;
                        _ = state.wait_for(|now| !may(now)) => break,
                        accepted = listener.accept() => accepted.unwrap(),
                    };
                    let _ = stream.write_all(&[letter]).await;
                }
            }
        });
    }
}

/// A sidecar that ends when it is dropped, or when a newer one has taken over.
async fn sidecar(session: Session, letter: u8) {
    let (accept, accepting) = watch::channel(false);
    let (_ready, ready) = watch::channel(true);
    let mut tasks = JoinSet::new();
    answer(&mut tasks, &session.listeners, letter, &accepting, |may| *may);
    session.run(ready, accept, watch::Sender::new(false), || async {}).await;
    // The flag's sender is gone, so each ends once it has answered what it has accepted.
    drop(accepting);
    while tasks.join_next().await.is_some() {}
}

/// Not a test of its own: the process that is started below.
#[tokio::test]
async fn sidecar_process() {
    let Ok(child) = std::env::var(CHILD) else { return };
    let [guard, sidecar_name, letter]: [&str; 3] = child.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let names = Names { guard: guard.to_owned(), sidecar: sidecar_name.to_owned() };
    let session = join(names, ANY, 2).await.unwrap();
    assert!(session.guarded());
    sidecar(session, letter.as_bytes()[0]).await;
}

struct Process(Child);

impl Process {
    async fn start(names: &Names, letter: char) -> Self {
        let _beginning = BEGINNING.lock().await;
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["sidecar_process", "--exact", "--nocapture"])
            .env(CHILD, format!("{} {} {letter}", names.guard, names.sidecar))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug, Clone, Default)]
struct Counts {
    /// By letter.
    answers: BTreeMap<u8, u64>,
    refused: u64,
    /// Accepted by a process that died before it answered.
    cut: u64,
}

const CALLERS: u64 = 8;

/// Callers that connect again and again, until this is dropped.
struct Load {
    counts: watch::Receiver<Counts>,
    _callers: JoinSet<()>,
}

impl Load {
    fn start(port: u16) -> Self {
        let (counts, counted) = watch::channel(Counts::default());
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let counts = counts.clone();
            callers.spawn(async move {
                loop {
                    let answer = call(port).await;
                    counts.send_modify(|counts| match answer {
                        Ok(letter) => *counts.answers.entry(letter).or_default() += 1,
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => counts.refused += 1,
                        Err(_) => counts.cut += 1,
                    });
                }
            });
        }
        Self { counts: counted, _callers: callers }
    }

    /// Waits until 50 more calls have been answered with `letter`.
    async fn hears(&mut self, letter: char) {
        let answers = |counts: &Counts| counts.answers.get(&(letter as u8)).copied().unwrap_or(0);
        let before = answers(&self.counts.borrow());
        let heard = self.counts.wait_for(|counts| answers(counts) >= before + 50);
        timeout(PATIENCE, heard).await.expect("in time").unwrap();
    }

    fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }
}

async fn call(port: u16) -> io::Result<u8> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    stream.read_u8().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_kills_refuse_nobody() {
    let names = names();
    let mut guard = Guard::start(&names).await;
    let mut load = Load::start(guard.port);
    load.hears('G').await;
    for _ in 0..5 {
        let sidecar = Process::start(&names, 'S').await;
        guard.until(Authority::Sidecar).await;
        load.hears('S').await;
        sidecar.signal(Signal::SIGKILL);
        guard.until(Authority::Guard(Cause::Died)).await;
        load.hears('G').await;
    }
    let counts = load.counts();
    assert_eq!(counts.refused, 0);
    assert!(counts.cut <= 5 * CALLERS, "{} calls were cut by five kills", counts.cut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_is_bridged_and_the_hand_back_costs_nothing() {
    let names = names();
    let mut guard = Guard::start(&names).await;
    let mut load = Load::start(guard.port);
    let sidecar = Process::start(&names, 'S').await;
    guard.until(Authority::Sidecar).await;
    load.hears('S').await;
    sidecar.signal(Signal::SIGSTOP);
    guard.until(Authority::Guard(Cause::Hung)).await;
    load.hears('G').await;
    sidecar.signal(Signal::SIGCONT);
    guard.until(Authority::Sidecar).await;
    load.hears('S').await;
    let counts = load.counts();
    assert_eq!((counts.refused, counts.cut), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_guard_gets_the_sockets_back() {
    let names = names();
    let mut guard = Guard::start(&names).await;
    let port = guard.port;
    let mut load = Load::start(port);
    let sidecar = Process::start(&names, 'S').await;
    guard.until(Authority::Sidecar).await;
    load.hears('S').await;
    for _ in 0..3 {
        let _nobody_begins = guard.end().await;
        load.hears('S').await;
        guard = Guard::start(&names).await;
        assert_eq!(guard.port, port);
        guard.until(Authority::Sidecar).await;
        load.hears('S').await;
    }
    let counts = load.counts();
    assert_eq!((counts.refused, counts.cut), (0, 0));
    sidecar.signal(Signal::SIGKILL);
    guard.until(Authority::Guard(Cause::Died)).await;
    load.hears('G').await;
    assert_eq!(load.counts().refused, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_cuts_nothing() {
    let names = names();
    let mut guard = Guard::start(&names).await;
    let mut load = Load::start(guard.port);
    let mut old = Process::start(&names, 'A').await;
    guard.until(Authority::Sidecar).await;
    load.hears('A').await;
    let new = Process::start(&names, 'B').await;
    load.hears('B').await;
    let ended = tokio::task::spawn_blocking(move || old.0.wait().map(|status| (status, old)));
    let (status, _old) = timeout(PATIENCE, ended).await.expect("in time").unwrap().unwrap();
    assert!(status.success());
    load.hears('B').await;
    let counts = load.counts();
    assert_eq!((counts.refused, counts.cut), (0, 0));

    // What a restarted guard finds is the new one, which has the old one's name by now.
    let listens = || std::fs::read_to_string("/proc/net/unix").unwrap().contains(&names.sidecar);
    let named = async {
        while !listens() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, named).await.expect("in time");
    let _nobody_begins = guard.end().await;
    let mut guard = Guard::start(&names).await;
    guard.until(Authority::Sidecar).await;
    load.hears('B').await;
    drop(new);
    assert_eq!(load.counts().refused, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_without_a_guard_binds_by_itself_and_a_late_guard_joins() {
    let names = names();
    let session = join(names.clone(), ANY, 2).await.unwrap();
    assert!(!session.guarded());
    let port = session.listeners.ports().unwrap().outbound;
    let alone = tokio::spawn(sidecar(session, b'S'));
    let mut load = Load::start(port);
    load.hears('S').await;
    let mut guard = Guard::start(&names).await;
    assert_eq!(guard.port, port);
    guard.until(Authority::Sidecar).await;
    load.hears('S').await;
    alone.abort();
    assert!(alone.await.unwrap_err().is_cancelled());
    guard.until(Authority::Guard(Cause::Died)).await;
    load.hears('G').await;
    assert_eq!(load.counts().refused, 0);
}

#[tokio::test]
async fn a_pod_has_one_guard() {
    let names = names();
    let guard = Guard::start(&names).await;
    assert!(Host::start(&names, ANY, 1, Patience::default()).await.is_err());
    let _nobody_begins = guard.end().await;
    assert!(Host::start(&names, ANY, 1, Patience::default()).await.is_ok());
}

#[tokio::test]
async fn a_sidecar_that_leaves_says_so() {
    let names = names();
    let mut guard = Guard::start(&names).await;
    let session = join(names, ANY, 2).await.unwrap();
    let (drain, accept) = (watch::Sender::new(false), watch::Sender::new(false));
    let (_ready, ready) = watch::channel(true);
    let run = tokio::spawn(session.run(ready, accept.clone(), drain.clone(), || async {}));
    guard.until(Authority::Sidecar).await;
    assert!(*accept.borrow());
    drain.send_replace(true);
    timeout(PATIENCE, run).await.expect("in time").unwrap();
    guard.until(Authority::Guard(Cause::Left)).await;
    assert!(!*accept.borrow());
}

#[tokio::test]
async fn a_sidecar_that_is_not_ready_or_whose_workers_hang_does_not_accept() {
    let names = names();
    let mut guard = Guard::start(&names).await;
    let session = join(names, ANY, 2).await.unwrap();
    let (become_ready, ready) = watch::channel(false);
    let (hang, hangs) = watch::channel(false);
    let accept = watch::Sender::new(false);
    let heartbeat = move || {
        let mut hangs = hangs.clone();
        async move { assert!(hangs.wait_for(|hangs| !hangs).await.is_ok()) }
    };
    let _run = tokio::spawn(session.run(ready, accept.clone(), watch::Sender::new(false), heartbeat));
    guard.until(Authority::Guard(Cause::NotReady)).await;
    become_ready.send_replace(true);
    guard.until(Authority::Sidecar).await;
    hang.send_replace(true);
    guard.until(Authority::Guard(Cause::Hung)).await;
    let mut accepting = accept.subscribe();
    timeout(PATIENCE, accepting.wait_for(|accepting| !accepting)).await.expect("told to pause").unwrap();
    hang.send_replace(false);
    guard.until(Authority::Sidecar).await;
}
