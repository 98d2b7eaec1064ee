//! Programs in pods, by the API server's exec: one to its end, and the load client.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{AttachParams, AttachedProcess},
};
use outrigger_testbed::{LoadSpec, Samples, load::Reports};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::cluster::told;

/// The image's program in which the test apps, their load and their faults are.
const PROGRAM: [&str; 2] = ["/usr/local/bin/outrigger", "app"];
/// What is read of a program at once.
const BUFFER: usize = 64 * 1024;
/// Until so many answers have come that were asked for.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// A load client in a pod.
pub(super) struct Load {
    process: AttachedProcess,
    reports: Reports,
    reader: JoinHandle<()>,
}

/// Runs a program of the testbed's and gives its output.
pub(super) async fn run(pods: &Api<Pod>, pod: &str, arguments: &[String]) -> Result<String> {
    let what = || format!("{} in pod {pod}", arguments.join(" "));
    let mut process = start(pods, pod, arguments, false).await.with_context(what)?;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let mut out = process.stdout().context("no output")?;
    let mut err = process.stderr().context("no error output")?;
    let (read, read_too) = tokio::join!(out.read_to_string(&mut stdout), err.read_to_string(&mut stderr));
    read.and(read_too).with_context(what)?;
    let status = process.take_status().context("no status")?.await;
    match status.as_ref().and_then(|status| status.status.as_deref()) {
        Some("Success") => Ok(stdout),
        _ => bail!("{}: {}", what(), stderr.trim()),
    }
}

async fn start(pods: &Api<Pod>, pod: &str, arguments: &[String], stdin: bool) -> Result<AttachedProcess> {
    let command: Vec<_> = PROGRAM.iter().map(ToString::to_string).chain(arguments.iter().cloned()).collect();
    let params = AttachParams::default().container("app").stdin(stdin).stderr(!stdin).max_stdout_buf_size(BUFFER);
    pods.exec(pod, command, &params).await.map_err(|error| anyhow!(told(&error)))
}

// === impl Load ===

impl Load {
    pub(super) async fn start(pods: &Api<Pod>, pod: &str, spec: &LoadSpec) -> Result<Self> {
        let mut process = start(pods, pod, &spec.arguments()?, true).await.context("the load client")?;
        let mut lines = BufReader::new(process.stdout().context("no output")?).lines();
        let reports = Reports::default();
        let sink = reports.clone();
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sink.read(&line);
            }
        });
        Ok(Self { process, reports, reader })
    }

    /// Waits for so many more good answers.
    pub(super) async fn answers(&self, count: usize) -> Result<()> {
        let wanted = self.reports.samples().ok().count() + count;
        let come = timeout(PATIENCE, async {
            while self.reports.samples().ok().count() < wanted {
                sleep(LOOK).await;
            }
        });
        let seen = || {
            format!("fewer than {count} calls answered within {PATIENCE:?}: {:?}", self.reports.samples().by_outcome())
        };
        come.await.map_err(|_| anyhow!(seen()))
    }

    /// By the clock of whoever calls, a report late at most.
    pub(super) fn now(&self) -> u64 {
        self.reports.samples().0.iter().map(|sample| sample.done).max().unwrap_or_default()
    }

    /// Lets the calls under way come to their ends and returns everything.
    pub(super) async fn finish(mut self) -> Result<Samples> {
        self.process.stdin().context("no input")?.shutdown().await.context("the load client")?;
        let ended = timeout(PATIENCE, self.reader).await;
        ensure!(matches!(ended, Ok(Ok(()))), "the load client doesn't end");
        Ok(self.reports.samples())
    }
}
