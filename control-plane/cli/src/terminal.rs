//! What people see: columns, colour where there is a terminal, and a word on stderr when something takes long.

use std::{
    env,
    io::{IsTerminal, stdout},
    time::Duration,
};

use tokio::task::JoinHandle;

/// Silence longer than this makes people wonder.
const QUIET: Duration = Duration::from_secs(2);
/// Between two words of progress.
const REPEAT: Duration = Duration::from_secs(10);

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

/// Says on stderr what is being waited for, once that has taken a while. Ends when it is dropped.
pub(crate) struct Progress {
    task: JoinHandle<()>,
}

// === impl Paint ===

impl Paint {
    /// For stdout: colour only on a terminal, and not if the person has asked for none (no-color.org).
    pub(crate) fn stdout() -> Self {
        Self { on: stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { on: false }
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with(32, text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with(33, text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with(31, text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with(1, text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with(2, text)
    }

    fn with(self, code: u8, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

// === impl Progress ===

impl Progress {
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let task = tokio::spawn(async move {
            let mut waited = QUIET;
            tokio::time::sleep(QUIET).await;
            loop {
                eprintln!("{what} … {} s", waited.as_secs());
                tokio::time::sleep(REPEAT).await;
                waited += REPEAT;
            }
        });
        Self { task }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Rows as aligned columns. Colours don't count for the width.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width_of = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| width(cell)).max();
    let widths: Vec<_> = (0..count).map(|at| width_of(at).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let pad = |(cell, wanted): (&String, &usize)| format!("{cell}{}", " ".repeat(wanted - width(cell)));
        let cells: Vec<_> = row.iter().zip(&widths).map(pad).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Characters on the screen.
fn width(text: &str) -> usize {
    let mut rest = text;
    let mut count = 0;
    while let Some((before, colour)) = rest.split_once('\x1b') {
        count += before.chars().count();
        rest = colour.split_once('m').map_or("", |(_, after)| after);
    }
    count + rest.chars().count()
}

/// A span of time as people say it: its two largest units.
pub(crate) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// For people: three digits at most, with its unit.
pub(crate) fn time(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        10_000..1_000_000 => format!("{:.0} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_colour() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let red = Paint { on: true }.red("ö");
        let rows = [row(&["NAME", "AGE"]), row(&[&red, "1"]), row(&["longer", ""])];
        assert_eq!(columns(&rows), format!("NAME    AGE\n{red}       1\nlonger\n"));
        assert_eq!(columns(&[]), "");
    }

    #[test]
    fn spans() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m"), (3660, "1h01m"), (90_000, "1d01h")] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn times() {
        for (micros, want) in [(900, "900 µs"), (1_500, "1.5 ms"), (38_400, "38 ms"), (1_240_000, "1.2 s")] {
            assert_eq!(time(Duration::from_micros(micros)), want);
        }
    }
}
