//! Streams that live for longer than an hour, idle ones and ones in use, through sidecars and through a shared proxy. Meanwhile
//! configuration changes, certificates are renewed and wall clocks jump. None of them ends.
//!
//! Time passes by the processes' own clocks; the kernel's, by which it keeps connections alive, go on as ever. With `--long`
//! all of them go on as ever.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use outrigger_testbed::{Machine, Mesh, PodSpec, Proxies, Spec, probe::wait_until};
use tokio::sync::watch;

use self::line::{Kind, Line};
use super::{
    super::disruption::{
        all_accept,
        clock::{NOTICE, issued},
    },
    ECHO, HTTP1, HTTP2,
    http2::alone,
};
use crate::{
    clock::{Clock, HOUR, MINUTE},
    raw::{PATIENCE, Server, Wire, every},
};

mod app;
mod line;

const SERVICE: &str = "10.96.1.1";
const SIDECAR: &str = "test/client";
const GUARDED: &str = "test/guarded";
const SERVER: &str = "test/server";
/// gRPC's, of idle streams alone: connections on which nothing is said.
const SILENT: u16 = 8003;
/// Everybody's, and the shared proxy's.
const PROXIES: usize = 6;

/// Whose time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    /// That of the proxies.
    Theirs,
    Everybodys,
}

/// All streams, on a thread of their own.
struct Streams {
    stop: watch::Sender<bool>,
    /// Exchanges of each, and whether it is in use.
    counts: Vec<(bool, Arc<AtomicU64>)>,
    ended: JoinHandle<Result<Vec<Ended>>>,
}

/// A stream's name, and its exchanges.
type Ended = (String, Result<u64>);

pub(super) fn moved(machine: &Machine) -> Result<()> {
    // Proxies ask their peers to connect anew after an hour and up to a quarter.
    live(machine, Time::Theirs, 18)
}

pub(super) fn hour(machine: &Machine) -> Result<()> {
    live(machine, Time::Everybodys, 12)
}

/// So many times five minutes.
fn live(machine: &Machine, time: Time, steps: usize) -> Result<()> {
    let clock = Clock::new(machine, "all")?;
    let mesh = start(machine, &clock)?;
    let server = mesh.pod(SERVER)?;
    let pings = Arc::<AtomicU64>::default();
    let grpc = || {
        let asked = Arc::clone(&pings);
        move |stream| app::grpc(stream, &asked)
    };
    let _servers = [
        Server::in_pod(server, ECHO, app::tcp)?,
        Server::in_pod(server, HTTP1, app::http1)?,
        Server::in_pod(server, HTTP2, grpc())?,
        Server::in_pod(server, SILENT, grpc())?,
    ];
    all_accept(&mesh, &[SIDECAR, SERVER])?;
    let streams = Streams::open(&mesh, if time == Time::Theirs { 50 } else { 1000 })?;
    let begin = Instant::now();
    for step in 1..=steps {
        match time {
            Time::Theirs => clock.pass(5 * MINUTE)?,
            Time::Everybodys => thread::sleep(Duration::from_mins(5)),
        }
        if step == steps / 3 {
            // Half of a certificate's life is over.
            let before = issued(&mesh);
            clock.set(13 * HOUR)?;
            wait_until("everybody's certificate", NOTICE, || issued(&mesh) >= before + PROXIES)?;
        } else if step == 2 * steps / 3 {
            clock.set(0)?;
        }
        mesh.write("changes.yaml", &changes(step))?;
        wait_until("a change in force", PATIENCE, || answered(&mesh, step)).with_context(|| mesh.tails())?;
        if !streams.go_on(3)? {
            println!("        in step {step}, after {:?}:", begin.elapsed());
            return streams.finish().and_then(|_| Err(anyhow!("a stream has ended early")));
        }
        if time == Time::Everybodys {
            println!("        {:?}: all streams live", begin.elapsed());
        }
    }
    let exchanges = streams.finish()?;
    let pings = pings.load(Ordering::Relaxed);
    println!("        {exchanges} exchanges, 0 ends, {pings} PINGs to apps, {:?}", begin.elapsed());
    ensure!(pings == 0, "an app was sent {pings} PINGs: gRPC's servers end connections for them");
    Ok(())
}

fn start(machine: &Machine, clock: &Clock) -> Result<Mesh> {
    let mut pods = vec![PodSpec::new(SIDECAR), PodSpec::new(GUARDED).proxies(Proxies::Guard), PodSpec::new(SERVER)];
    pods.push(PodSpec::shared_proxy(0));
    for pod in &mut pods {
        pod.wrapper.clone_from(&clock.wrapper);
    }
    let ports: String =
        [HTTP1, HTTP2, SILENT, ECHO].map(|port| format!("  - name: p{port}\n    port: {port}\n")).concat();
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: test, name: server}}\nspec:\n  clusterIP: {SERVICE}\n\
         \x20 selector: {{app: server}}\n  ports:\n{ports}"
    );
    Mesh::start(machine, Spec { pods, config: vec![("service.yaml".to_owned(), service)], shared: 0 })
}

/// Of the way that the streams go: another route, other limits.
fn changes(step: usize) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{namespace: test, name: server}}\nspec:\n\
         \x20 parentRefs: [{{group: \"\", kind: Service, name: server}}]\n  rules:\n\
         \x20 - filters:\n    - type: ResponseHeaderModifier\n\
         \x20     responseHeaderModifier: {{set: [{{name: x-step, value: \"{step}\"}}]}}\n\
         \x20   backendRefs: [{{name: server, port: {HTTP1}}}]\n---\n\
         apiVersion: outrigger.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{namespace: test, name: server}}\nspec:\n\
         \x20 targetRefs: [{{kind: Service, name: server}}]\n  connections: {{max: {}}}\n",
        100 + step
    )
}

fn answered(mesh: &Mesh, step: usize) -> bool {
    [SIDECAR, GUARDED].iter().all(|pod| {
        let asked = || Wire::open(mesh.pod(pod)?, address(HTTP1)?)?.ask("GET /", "")?.expect(200);
        asked().is_ok_and(|answer| answer.header("x-step") == Some(&step.to_string()))
    })
}

fn address(port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(SERVICE.parse()?, port))
}

// === impl Streams ===

impl Streams {
    /// Of each kind, from each caller, one that is idle and one with so many milliseconds between two exchanges.
    fn open(mesh: &Mesh, pause: u64) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (mut all, mut counts) = (Vec::new(), Vec::new());
        for caller in [SIDECAR, GUARDED] {
            for (kind, port) in [(Kind::Tcp, ECHO), (Kind::WebSocket, HTTP1), (Kind::Grpc, HTTP2)] {
                for pause in [None, Some(Duration::from_millis(pause))] {
                    let name = format!("{kind:?} of {caller}, {}", if pause.is_some() { "in use" } else { "idle" });
                    let port = if (port, pause) == (HTTP2, None) { SILENT } else { port };
                    let stream = mesh.pod(caller)?.namespace.connect(address(port)?, PATIENCE)?;
                    let (count, stopped) = (Arc::<AtomicU64>::default(), stopped.clone());
                    counts.push((pause.is_some(), Arc::clone(&count)));
                    all.push((name, move || one(kind, stream, pause, count, stopped)));
                }
            }
        }
        drop(stopped);
        let run = async {
            let all = all.into_iter().map(|(name, one)| (name, tokio::task::spawn_local(one())));
            let mut ended = Vec::new();
            for (name, task) in all.collect::<Vec<_>>() {
                ended.push((name, task.await?));
            }
            Ok(ended)
        };
        let streams = Self { stop, counts, ended: thread::spawn(move || alone(run)?) };
        let begun = || streams.counts.iter().all(|(_, count)| count.load(Ordering::Relaxed) > 0);
        wait_until("all streams", PATIENCE, || !streams.all_live() || begun())?;
        if streams.all_live() {
            Ok(streams)
        } else {
            streams.finish().and_then(|_| Err(anyhow!("a stream hasn't begun")))
        }
    }

    /// Waits for so many exchanges of each that is in use. `false`: one of them has ended.
    fn go_on(&self, exchanges: u64) -> Result<bool> {
        let now = || self.counts.iter().filter(|it| it.0).map(|it| it.1.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let before = now();
        let further = || now().iter().zip(&before).all(|(now, before)| *now >= before + exchanges);
        wait_until("exchanges", PATIENCE, || !self.all_live() || further())?;
        Ok(self.all_live())
    }

    /// Each holds the channel while it lives.
    fn all_live(&self) -> bool {
        self.stop.receiver_count() == self.counts.len()
    }

    /// One more exchange of each; how many there were.
    fn finish(self) -> Result<u64> {
        self.stop.send_replace(true);
        let ended = self.ended.join().map_err(|_| anyhow!("a stream panicked"))??;
        let all = ended.iter().flat_map(|(_, exchanges)| exchanges).sum();
        every(ended.into_iter().map(|(name, exchanges)| (name, exchanges.map(drop))).collect())?;
        Ok(all)
    }
}

/// Lives until it is told to stop.
async fn one(
    kind: Kind,
    stream: TcpStream,
    pause: Option<Duration>,
    count: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> Result<u64> {
    let begin = Instant::now();
    let mut line = Line::open(kind, stream).await?;
    let exchange = async |line: &mut Line| {
        line.exchange(count.load(Ordering::Relaxed)).await.with_context(|| format!("after {:?}", begin.elapsed()))?;
        anyhow::Ok(count.fetch_add(1, Ordering::Relaxed))
    };
    exchange(&mut line).await?;
    match pause {
        None => tokio::select! {
            disturbed = line.disturbed() => bail!("after {:?}, instead of silence: {disturbed}", begin.elapsed()),
            _ = stopped.wait_for(|stop| *stop) => {}
        },
        Some(pause) => {
            while tokio::time::timeout(pause, stopped.wait_for(|stop| *stop)).await.is_err() {
                exchange(&mut line).await?;
            }
        }
    }
    exchange(&mut line).await.map(|before| before + 1)
}
