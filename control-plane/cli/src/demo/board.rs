//! What the scenes say. Scenes write; the live view reads, or, without a terminal, each line is printed at once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::promise::Promise;

/// Lines that a person can still see.
const MEMORY: usize = 12;

#[derive(Debug)]
pub(crate) struct Board {
    live: bool,
    quiet: bool,
    text: Mutex<Text>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Text {
    pub(crate) scene: String,
    pub(crate) lines: Vec<String>,
    pub(crate) promises: Vec<Promise>,
}

// === impl Board ===

impl Board {
    /// `live`: the view draws it. `quiet`: nobody does.
    pub(crate) fn new(live: bool, quiet: bool) -> Self {
        Self { live, quiet, text: Mutex::default() }
    }

    pub(crate) fn scene(&self, title: &str) {
        title.clone_into(&mut self.text().scene);
        self.print(&format!("\n=== {title}"));
    }

    pub(crate) fn say(&self, line: &str) {
        let mut text = self.text();
        text.lines.push(line.to_owned());
        let old = text.lines.len().saturating_sub(MEMORY);
        text.lines.drain(..old);
        drop(text);
        self.print(&format!("    {line}"));
    }

    pub(crate) fn promise(&self, promise: &Promise) {
        self.text().promises.push(promise.clone());
        let kept = if promise.kept { "kept  " } else { "BROKEN" };
        self.print(&format!("    {kept} {}: {} ({})", promise.name, promise.measured, promise.limit));
    }

    pub(crate) fn read(&self) -> Text {
        self.text().clone()
    }

    fn text(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, line: &str) {
        if !self.live && !self.quiet {
            println!("{line}");
        }
    }
}
