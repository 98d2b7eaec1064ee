//! Load, as a process in a pod: wrk for a closed loop of HTTP/1.1, since nothing costs less; `outrigger-load` for the rest.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Pod, machine::binary};
use serde::Deserialize;

/// How load is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ask {
    pub(crate) connections: u32,
    /// Under way at once on each connection, where the protocol has that.
    pub(crate) streams: u32,
    pub(crate) seconds: f64,
    /// Seconds at the beginning that latency isn't taken of.
    pub(crate) warmup: f64,
    /// Bytes of a message, where the load says how many.
    pub(crate) size: usize,
    /// Requests per second; else as many as are answered.
    pub(crate) rate: Option<f64>,
    /// A new connection for every request.
    pub(crate) fresh: bool,
}

/// What the load saw, in the words of `outrigger-load run`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    /// Answered before those.
    pub(crate) warmup_requests: u64,
    pub(crate) errors: u64,
    pub(crate) error_kinds: BTreeMap<String, u64>,
    pub(crate) seconds: f64,
    pub(crate) rate: f64,
    pub(crate) bytes: u64,
    pub(crate) longest_gap_us: u64,
    pub(crate) latency_us: Latency,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

// === impl Ask ===

impl Ask {
    /// A closed loop over this many connections.
    pub(crate) fn closed(connections: u32, seconds: f64) -> Self {
        Self { connections, streams: 1, seconds, warmup: 0.0, size: 1024, rate: None, fresh: false }
    }

    fn by_wrk(&self, url: &str) -> bool {
        url.starts_with("http://") && self.rate.is_none() && !self.fresh
    }

    /// The load as a command in a pod, on one CPU.
    pub(crate) fn command(&self, pod: &Pod, cpu: usize, url: &str) -> Result<Command> {
        if self.by_wrk(url) {
            let mut wrk = pinned(pod, cpu, "wrk");
            let duration = format!("{}s", self.seconds.ceil());
            wrk.args(["--latency", "-t1", "-c", &self.connections.to_string(), "-d", &duration, url]);
            return Ok(wrk);
        }
        let mut load = own(pod, cpu)?;
        load.args(["run", "--to", url]);
        load.args(["--connections", &self.connections.to_string(), "--streams", &self.streams.to_string()]);
        load.args(["--seconds", &self.seconds.to_string(), "--warmup", &self.warmup.to_string()]);
        load.args(["--size", &self.size.to_string()]);
        load.args(self.rate.iter().flat_map(|rate| ["--rate".to_owned(), rate.to_string()]));
        load.args(self.fresh.then_some("--new-connections"));
        Ok(load)
    }

    /// Reads what such a command has printed.
    pub(crate) fn read(&self, url: &str, output: &str) -> Result<Seen> {
        let seen = if self.by_wrk(url) {
            wrk(output).context("wrk's output")
        } else {
            serde_json::from_str(output).context("outrigger-load's output")
        };
        seen.with_context(|| output.to_owned())
    }

    pub(crate) fn run(&self, pod: &Pod, cpu: usize, url: &str) -> Result<Seen> {
        let mut command = self.command(pod, cpu, url)?;
        let output = command.output().with_context(|| format!("{command:?}"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "load to {url}: {}", errors.trim());
        self.read(url, &String::from_utf8_lossy(&output.stdout))
    }
}

impl Seen {
    /// A measurement of answers that failed is none.
    pub(crate) fn without_errors(self, of: &str) -> Result<Self> {
        ensure!(self.requests > 0, "{of}: no answer {:?}", self.error_kinds);
        ensure!(
            self.errors == 0,
            "{of}: {} errors beside {} answers {:?}",
            self.errors,
            self.requests,
            self.error_kinds
        );
        Ok(self)
    }
}

/// Our own load generator, on one CPU.
pub(crate) fn own(pod: &Pod, cpu: usize) -> Result<Command> {
    Ok(pinned(pod, cpu, &binary("outrigger-load")?.display().to_string()))
}

/// Runs a program in a pod on one CPU.
pub(crate) fn pinned(pod: &Pod, cpu: usize, program: &str) -> Command {
    let mut command = pod.namespace.command("taskset");
    command.args(["-c", &cpu.to_string(), program]);
    command
}

fn wrk(text: &str) -> Option<Seen> {
    let count = |line: &str, name: &str| -> Option<u64> {
        let words: Vec<_> = line.split([' ', ',', ':']).collect();
        words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)?.parse().ok())
    };
    let socket = field(text, "Socket errors").unwrap_or_default();
    let mut error_kinds = BTreeMap::new();
    for kind in ["connect", "read", "write", "timeout"] {
        error_kinds.extend(count(&socket.replace(": ", " "), kind).filter(|n| *n > 0).map(|n| (kind.to_owned(), n)));
    }
    let status = field(text, "Non-2xx or 3xx responses:").and_then(|n| n.parse().ok());
    error_kinds.extend(status.map(|n| ("status".to_owned(), n)));
    let requests: u64 = before(text, "requests in")?.parse().ok()?;
    let rate: f64 = field(text, "Requests/sec:")?.parse().ok()?;
    Some(Seen {
        requests,
        errors: error_kinds.values().sum(),
        error_kinds,
        seconds: requests as f64 / rate,
        rate,
        latency_us: Latency { p50: micros(field(text, "50%")?)?, p99: micros(field(text, "99%")?)?, p999: f64::NAN },
        ..Seen::default()
    })
}

pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim)
}

fn before<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.split(words).next().filter(|before| before.len() < text.len())?.split_whitespace().last()
}

/// wrk writes `12.00us`, `1.20ms`, `2.00s`.
fn micros(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let factor = match &text[digits.len()..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 1s test @ http://127.0.0.1:8080/\n  1 threads and 32 connections\n\
        \x20 Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   512.00us  100.00us   4.00ms   90.00%\n\
        \x20 Latency Distribution\n     50%  489.00us\n     75%  600.00us\n     90%    1.10ms\n     99%    1.60ms\n\
        \x20 65432 requests in 1.00s, 80.00MB read\n";

    #[test]
    fn what_wrk_prints() {
        let text = format!("{WRK}Requests/sec:  65432.10\nTransfer/sec:     80.00MB\n");
        let seen = wrk(&text).expect("complete");
        assert_eq!((seen.requests, seen.errors, seen.rate), (65432, 0, 65432.1));
        assert_eq!((seen.latency_us.p50, seen.latency_us.p99), (489.0, 1600.0));
        assert!(seen.without_errors("it").is_ok());
    }

    #[test]
    fn wrk_has_errors() {
        let text = format!(
            "{WRK}  Socket errors: connect 0, read 3, write 0, timeout 1\n  Non-2xx or 3xx responses: 5\n\
             Requests/sec:  65432.10\n"
        );
        let seen = wrk(&text).expect("complete");
        assert_eq!(seen.errors, 9);
        assert_eq!(seen.error_kinds["read"], 3);
        assert!(seen.without_errors("it").is_err());
    }
}
