//! Open-loop load: calls are due at a fixed rate, whether or not the ones before have come back. Runs inside a pod as a
//! process of its own; what it sees comes out as [`Sample`]s.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use http::HeaderMap;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    call::{Connection, Target},
    machine::binary,
    now_us,
    pod::Pod,
    samples::{Outcome, Sample, Samples},
};

/// Calls that may be under way at once: beyond, the client would only measure itself.
const MAX_IN_FLIGHT: usize = 5000;

#[derive(Debug, Clone)]
pub struct LoadSpec {
    pub target: Target,
    /// Calls per second.
    pub rate: u32,
    /// Call after call over the same connections; else each over its own.
    pub keep_alive: bool,
    /// Sent with every call.
    pub headers: HeaderMap,
    /// Of one call, connecting included.
    pub timeout: Duration,
    /// Between two reports.
    pub report: Duration,
}

/// A load client that runs in a pod.
pub struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
    reports: Reports,
}

/// What a load client has reported so far, shared by whoever reads its lines and whoever judges them.
#[derive(Debug, Clone, Default)]
pub struct Reports(Arc<Mutex<Vec<Sample>>>);

// === impl LoadSpec ===

impl LoadSpec {
    /// New connections, five seconds each at most.
    pub fn new(target: Target, rate: u32) -> Self {
        Self {
            target,
            rate,
            keep_alive: false,
            headers: HeaderMap::new(),
            timeout: Duration::from_secs(5),
            report: Duration::from_millis(100),
        }
    }

    /// What [`App::Load`](crate::command::App::Load) has to be told.
    pub fn arguments(&self) -> Result<Vec<String>> {
        let mut arguments = vec!["load".to_owned(), self.target.to_string()];
        let mut set = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        set("--rate", self.rate.to_string());
        set("--timeout-ms", self.timeout.as_millis().to_string());
        set("--report-ms", self.report.as_millis().to_string());
        for (name, value) in &self.headers {
            set("--header", format!("{name}: {}", value.to_str().context("a header")?));
        }
        arguments.extend(self.keep_alive.then(|| "--keep-alive".to_owned()));
        Ok(arguments)
    }
}

// === impl Reports ===

impl Reports {
    /// One line of the client's output.
    pub fn read(&self, line: &str) {
        if let Ok(batch) = serde_json::from_str::<Vec<Sample>>(line) {
            self.lock().extend(batch);
        }
    }

    pub fn samples(&self) -> Samples {
        Samples(self.lock().clone())
    }

    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Of what was due at `from` or later. Cheaper than all when asked often.
    pub fn since(&self, from: u64) -> Samples {
        let samples = self.lock();
        // Reports are nearly in order of time: nothing older than a call's timeout comes late.
        let recent = samples.iter().rev().take_while(|sample| sample.done + 6_000_000 >= from);
        Samples(recent.filter(|sample| sample.scheduled >= from).cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Load ===

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("child", &self.child).finish_non_exhaustive()
    }
}

impl Load {
    pub fn start(pod: &Pod, spec: &LoadSpec) -> Result<Self> {
        Self::start_by(pod.namespace.command(binary("outrigger-testapp")?), spec)
    }

    /// By a command that runs `outrigger-testapp`, wherever that is; the client's arguments are added to it.
    pub fn start_by(mut command: Command, spec: &LoadSpec) -> Result<Self> {
        command.args(spec.arguments()?);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("a load client")?;
        let stdout = child.stdout.take().context("a load client's output")?;
        let reports = Reports::default();
        let sink = reports.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.read(&line);
            }
        });
        Ok(Self { stdin: child.stdin.take(), child, reader: Some(reader), reports })
    }

    /// What has been reported so far.
    pub fn samples(&self) -> Samples {
        self.reports.samples()
    }

    /// How many calls have been reported so far.
    pub fn count(&self) -> usize {
        self.reports.count()
    }

    /// Reported so far, of what was due at `from` or later. Cheaper than all when asked often.
    pub fn since(&self, from: u64) -> Samples {
        self.reports.since(from)
    }

    /// Lets the calls under way come to their ends and returns everything.
    pub fn finish(mut self) -> Result<Samples> {
        drop(self.stdin.take());
        let status = self.child.wait().context("a load client")?;
        if self.reader.take().is_some_and(|reader| reader.join().is_err()) || !status.success() {
            bail!("the load client failed: {status}");
        }
        Ok(self.samples())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The client itself. Runs until its standard input ends; every report is one line: a JSON array of samples.
pub async fn run(spec: LoadSpec) -> Result<()> {
    let spec = Arc::new(spec);
    let (sender, samples) = mpsc::unbounded_channel();
    let reporter = tokio::spawn(report(samples, spec.report));
    let idle = Arc::new(Mutex::new(Vec::<Connection>::new()));
    let mut calls = JoinSet::new();
    let mut input = end_of_input();
    let start = (Instant::now(), now_us());
    let period = Duration::from_secs(1) / spec.rate.max(1);
    let mut due = interval(period);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut nonce = 0;
    loop {
        let tick = tokio::select! {
            tick = due.tick() => tick,
            _ = &mut input => break,
        };
        while calls.try_join_next().is_some() {}
        nonce += 1;
        let scheduled = start.1 + u64::try_from((tick - start.0).as_micros()).unwrap_or_default();
        if calls.len() >= MAX_IN_FLIGHT {
            let now = now_us();
            let overload =
                Sample { scheduled, opened: now, done: now, outcome: Outcome::Timeout, version: String::new() };
            let _ = sender.send(overload);
            continue;
        }
        let (spec, idle, sender) = (Arc::clone(&spec), Arc::clone(&idle), sender.clone());
        calls.spawn(async move {
            // The reporter ends last.
            let _ = sender.send(one(&spec, &idle, scheduled, nonce).await);
        });
    }
    calls.join_all().await;
    drop(sender);
    reporter.await.context("the reporter")
}

async fn one(spec: &LoadSpec, idle: &Mutex<Vec<Connection>>, scheduled: u64, nonce: u64) -> Sample {
    let mut opened = None;
    let call = async {
        let mut connection = match spec.keep_alive.then(|| take(idle)).flatten() {
            Some(connection) => connection,
            None => Connection::open(&spec.target).await?,
        };
        opened = Some(connection.opened);
        let mut answer = connection.call(&spec.target, nonce, &spec.headers).await;
        // As every client of a kept connection does whose other end has just said that it goes.
        if spec.keep_alive && answer == Err(Outcome::Unsent) {
            connection = Connection::open(&spec.target).await?;
            opened = Some(connection.opened);
            answer = connection.call(&spec.target, nonce, &spec.headers).await;
        }
        // An answer with an error status leaves a good connection; a broken one shows as closed.
        if spec.keep_alive && matches!(answer, Ok(_) | Err(Outcome::Status(_) | Outcome::Grpc(_))) {
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        answer
    };
    let (outcome, version) = match timeout(spec.timeout, call).await {
        Ok(Ok(version)) => (Outcome::Ok, version),
        Ok(Err(outcome)) => (outcome, String::new()),
        Err(_) => (Outcome::Timeout, String::new()),
    };
    let done = now_us();
    Sample { scheduled, opened: opened.unwrap_or(done), done, outcome, version }
}

/// The last one used, so that few stay open.
fn take(idle: &Mutex<Vec<Connection>>) -> Option<Connection> {
    let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(connection) = idle.pop() {
        if connection.is_open() {
            return Some(connection);
        }
    }
    None
}

async fn report(mut samples: mpsc::UnboundedReceiver<Sample>, every: Duration) {
    let mut tick = interval(every);
    loop {
        tick.tick().await;
        let mut batch = Vec::new();
        let ended = loop {
            match samples.try_recv() {
                Ok(sample) => batch.push(sample),
                Err(error) => break error == mpsc::error::TryRecvError::Disconnected,
            }
        };
        if let Ok(line) = serde_json::to_string(&batch)
            && !batch.is_empty()
        {
            // Who listens no more will end us by the end of our input.
            let _ = writeln!(io::stdout(), "{line}");
        }
        if ended {
            return;
        }
    }
}

/// Ends when standard input does. A thread of its own: tokio's would hold up the end of the runtime.
fn end_of_input() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = sender.send(());
    });
    receiver
}
