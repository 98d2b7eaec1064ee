//! One run: clients, a pace, a tally.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    client::{Client, Crowd},
    pace::Pace,
    runtime,
    tally::{Gap, Report, Tally},
    target::{Scheme, To},
};

/// For how long the last requests are waited for. What is still under way then has failed.
const GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) to: To,
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Requests under way on one connection, for HTTP/2 and gRPC
    #[arg(long, default_value_t = 1)]
    pub(crate) streams: usize,
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// Seconds before that which don't count
    #[arg(long, default_value_t = 0.3)]
    pub(crate) warmup: f64,
    /// Requests per second: an open loop, latencies count from when a request was due. Otherwise each client makes its
    /// next request when it has its answer
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// A connection for each request
    #[arg(long)]
    pub(crate) new_connections: bool,
    /// Connections and rate are divided among them
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
}

/// What all threads share.
#[derive(Debug, Clone)]
struct Time {
    start: Instant,
    begin: Instant,
    end: Instant,
    gap: Arc<Gap>,
}

pub(crate) fn run(plan: &Plan) -> Result<Report> {
    plan.crowd(0).check(&plan.to)?;
    ensure!((1..=plan.connections).contains(&plan.threads), "each thread has a connection at least");
    ensure!(plan.rate.is_none_or(|rate| rate >= 0.001), "--rate is requests per second");
    ensure!(plan.rate.is_none() || plan.to.to.scheme != Scheme::TcpBulk, "{}: as fast as it goes", plan.to.to);
    let all = Duration::try_from_secs_f64(plan.warmup + plan.seconds).context("--seconds and --warmup")?;
    let warmup = Duration::try_from_secs_f64(plan.warmup).context("--warmup")?;
    if all > Duration::from_secs(2) {
        eprintln!("{}: {} connections, {:.1} s", plan.to.to, plan.connections, all.as_secs_f64());
    }
    let start = Instant::now();
    let time = Time { start, begin: start + warmup, end: start + all, gap: Arc::default() };
    let mut tally = Tally::new(time.begin, time.gap.clone())?;
    thread::scope(|scope| {
        let time = &time;
        let threads = (0..plan.threads).map(|index| scope.spawn(move || load(plan, index, time)));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(|thread| {
            let done = thread.join().map_err(|_| anyhow!("a thread of the load has panicked"))?;
            tally.merge(done?)
        })
    })?;
    Ok(tally.report(time.end))
}

impl Plan {
    /// The last threads have a connection less if it doesn't come out even.
    fn crowd(&self, thread: usize) -> Crowd {
        let connections = (self.connections + self.threads - 1 - thread) / self.threads.max(1);
        Crowd { connections, streams: self.streams, new_connections: self.new_connections }
    }
}

fn load(plan: &Plan, thread: usize, time: &Time) -> Result<Tally> {
    let rate = plan.rate.map(|rate| rate / plan.threads as f64);
    let pace = Rc::new(Pace::new(time.start, time.end, rate, thread as u64));
    let tally = Rc::new(RefCell::new(Tally::new(time.begin, time.gap.clone())?));
    runtime()?.block_on(async {
        let mut clients = JoinSet::new();
        for client in plan.crowd(thread).clients(&plan.to)? {
            clients.spawn_local(requests(client, pace.clone(), tally.clone()));
        }
        tokio::time::sleep_until(time.end.into()).await;
        let ends = async {
            while let Some(client) = clients.join_next().await {
                client.context("a client of the load has panicked")??;
            }
            anyhow::Ok(())
        };
        timeout(GRACE, ends).await.unwrap_or(Ok(()))?;
        clients.shutdown().await;
        anyhow::Ok(())
    })?;
    let mut tally = Rc::into_inner(tally).context("a client outlived its run")?.into_inner();
    tally.give_up(pace.left());
    Ok(tally)
}

async fn requests(mut client: Client, pace: Rc<Pace>, tally: Rc<RefCell<Tally>>) -> Result<()> {
    let timer = pace.timer()?;
    while let Some(due) = pace.next(timer.as_ref()).await? {
        tally.borrow_mut().start();
        let result = client.exchange().await;
        tally.borrow_mut().end(due, &result);
        client.rest().await;
        if result.is_err_and(|failure| failure.broke()) {
            pace.after_break().await;
        }
    }
    tally.borrow_mut().start();
    let ended = client.finish().await;
    let mut tally = tally.borrow_mut();
    tally.finished(ended);
    Ok(())
}
