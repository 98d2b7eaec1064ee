//! The live picture: drawn anew five times a second on the terminal's alternate screen, in plain ANSI sequences.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io::{IsTerminal, Write as _, stdout},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use outrigger_testbed::{Load, Mesh, Samples, net::Namespace, now_us};

use super::{
    board::{Board, Text},
    promise::Promise,
    traffic::{Carrier, Edge, Scrape},
};
use crate::terminal::time;

const PERIOD: Duration = Duration::from_millis(200);

/// Rates are averaged over so many periods.
const WINDOW: usize = 10;

/// The alternate screen, without cursor and without wrapping.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

#[derive(Debug)]
pub(crate) struct View {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// All that a frame shows.
struct Frame<'a> {
    seconds: u64,
    text: &'a Text,
    edges: &'a [Edge],
    carriers: &'a [Carrier],
    visitor: &'a Samples,
    colour: bool,
}

pub(crate) fn start(board: &Arc<Board>, mesh: &Mesh, steady: &Arc<Load>) -> View {
    let pods: Vec<_> = mesh.pods().map(|pod| (pod.spec.name.clone(), Arc::clone(&pod.namespace))).collect();
    let (board, steady, over) = (Arc::clone(board), Arc::clone(steady), Arc::new(AtomicBool::new(false)));
    let ended = Arc::clone(&over);
    let thread = thread::spawn(move || draw(&board, &pods, &steady, &ended));
    View { over, thread }
}

pub(crate) fn colour() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Gives the terminal back as it was.
pub(crate) fn leave_screen() {
    print(LEAVE);
}

// === impl View ===

impl View {
    pub(crate) fn end(self) {
        self.over.store(true, Relaxed);
        // A panic of the drawing thread is no reason to lose the result.
        let _ = self.thread.join();
        leave_screen();
    }
}

fn draw(board: &Board, pods: &[(String, Arc<Namespace>)], steady: &Load, over: &AtomicBool) {
    print(ENTER);
    let start = Instant::now();
    let mut scrapes = VecDeque::from([Scrape::take(pods)]);
    while !over.load(Relaxed) {
        thread::sleep(PERIOD);
        let now = Scrape::take(pods);
        let before = scrapes.front().unwrap_or(&now);
        let frame = Frame {
            seconds: start.elapsed().as_secs(),
            text: &board.read(),
            edges: &now.edges(before),
            carriers: &now.carriers(),
            visitor: &steady.since(now_us().saturating_sub(2_000_000)),
            colour: colour(),
        };
        print(&on_screen(&frame.lines()));
        scrapes.push_back(now);
        if scrapes.len() > WINDOW {
            scrapes.pop_front();
        }
    }
}

/// Each line at its place: what doesn't fit never scrolls.
fn on_screen(lines: &[String]) -> String {
    let mut screen = String::new();
    for (index, line) in lines.iter().enumerate() {
        // Writing to a String can't fail.
        let _ = write!(screen, "\x1b[{};1H{line}\x1b[K", index + 1);
    }
    screen.push_str("\x1b[J");
    screen
}

fn print(text: &str) {
    // A terminal that has gone away ends us by its signal.
    let _ = stdout().write_all(text.as_bytes());
    let _ = stdout().flush();
}

// === impl Frame ===

impl Frame<'_> {
    fn lines(&self) -> Vec<String> {
        let clock = format!("{:02}:{:02}", self.seconds / 60, self.seconds % 60);
        let mut lines = vec![
            format!("{}  {clock}   {}", self.paint(1, "outrigger demo"), self.paint(36, &self.text.scene)),
            String::new(),
            self.paint(
                2,
                "CALLER'S IDENTITY                            CALLEE             RATE      P50      P99   ERRORS",
            ),
        ];
        lines.extend(self.edges.iter().map(|edge| self.edge(edge)));
        lines.push(String::new());
        lines.extend(self.split());
        lines.push(self.visitor());
        lines.push(String::new());
        lines.extend(self.carriers.iter().map(|carrier| self.carrier(carrier)));
        lines.push(String::new());
        lines.extend(self.text.lines.iter().cloned());
        lines.push(String::new());
        let promises = &self.text.promises;
        lines
            .push(self.paint(2, &format!("{} of {} promises kept so far", Promise::kept_of(promises), promises.len())));
        let broken = promises.iter().filter(|promise| !promise.kept);
        lines.extend(broken.map(|promise| {
            let line = format!("BROKEN {}: {} ({})", promise.name, promise.measured, promise.limit);
            self.paint(31, &line)
        }));
        lines
    }

    fn edge(&self, edge: &Edge) -> String {
        let at = |quantile: Option<Duration>| quantile.map_or("-".to_owned(), time);
        let errors = format!("{:5.0}/s", edge.errors);
        let errors = if edge.errors > 0.0 { self.paint(31, &errors) } else { errors };
        format!(
            "{:44} {:16} {:5.0}/s {:>8} {:>8}  {errors}",
            edge.caller,
            edge.callee,
            edge.rate,
            at(edge.p50),
            at(edge.p99)
        )
    }

    /// How the catalogue's versions share the calls.
    fn split(&self) -> Option<String> {
        let rate =
            |pod: &str| self.edges.iter().filter(|edge| edge.callee.ends_with(pod)).map(|edge| edge.rate).sum::<f64>();
        let (v1, v2) = (rate("/catalog-v1"), rate("/catalog-v2"));
        let share = v2 / (v1 + v2);
        if share.is_nan() {
            return None;
        }
        let new = (share * 40.0).round() as usize;
        let bar = format!("{}{}", self.paint(34, &"█".repeat(40 - new)), self.paint(33, &"█".repeat(new)));
        Some(format!("catalog  v1 {bar} v2   {:.0} / {:.0} %", (1.0 - share) * 100.0, share * 100.0))
    }

    fn visitor(&self) -> String {
        let at = |quantile| self.visitor.latency(quantile).map_or("-".to_owned(), time);
        let failed = self.visitor.failed();
        let errors = if failed > 0 { self.paint(31, &failed.to_string()) } else { "0".to_owned() };
        format!("visitor  {} pages in 2 s, p50 {}, p99 {}, errors {errors}", self.visitor.len(), at(0.5), at(0.99))
    }

    fn carrier(&self, carrier: &Carrier) -> String {
        let (code, by) = match (carrier.sidecar, carrier.guard) {
            (true, _) if carrier.pod.starts_with("outrigger-system/") => (32, "shared proxy"),
            (true, _) => (32, "sidecar"),
            (false, true) => (33, "guard → shared proxy"),
            (false, false) => (31, "nobody"),
        };
        let reasons: Vec<_> = carrier.reasons.iter().map(String::as_str).collect();
        let used = match carrier.fallback {
            0.0 => String::new(),
            used => format!("{used:.0} connections through the pool so far: {}", reasons.join(", ")),
        };
        format!("{} {:26} {:21} {used}", self.paint(code, "●"), carrier.pod, by)
    }

    fn paint(&self, code: u8, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_without_colour_is_plain_text() {
        let edge = |callee: &str, rate| Edge { callee: callee.to_owned(), rate, ..Edge::default() };
        let text = Text {
            scene: "a scene".to_owned(),
            lines: vec!["a line".to_owned()],
            promises: vec![Promise::none("x", 1)],
        };
        let carrier = Carrier {
            pod: "shop/front".to_owned(),
            sidecar: false,
            guard: true,
            fallback: 3.0,
            reasons: ["sidecar_down".to_owned()].into(),
        };
        let frame = Frame {
            seconds: 61,
            text: &text,
            edges: &[edge("shop/catalog-v1", 9.0), edge("shop/catalog-v2", 1.0)],
            carriers: &[carrier],
            visitor: &Samples::default(),
            colour: false,
        };
        let all = frame.lines().join("\n");
        for part in
            ["01:01", "a scene", "90 / 10 %", "a line", "guard → shared proxy", "sidecar_down", "BROKEN x: 1 (0)"]
        {
            assert!(all.contains(part), "{part} in\n{all}");
        }
        assert!(!all.contains('\x1b'));
    }
}
