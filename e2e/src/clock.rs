//! Clocks of a process's own. Nothing else of it can be a day later, so a preloaded library moves them; it is built here, by
//! the compiler that the workspace needs anyway.

use std::{cell::Cell, fs::File, os::unix::fs::FileExt, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::Machine;

pub(crate) const MINUTE: i64 = 60;
pub(crate) const HOUR: i64 = 60 * MINUTE;

/// The clocks of those that are started by `wrapper`.
pub(crate) struct Clock {
    file: File,
    pub(crate) wrapper: Vec<String>,
    passed: Cell<i64>,
}

// === impl Clock ===

impl Clock {
    pub(crate) fn new(machine: &Machine, name: &str) -> Result<Self> {
        let at = |file: &str| machine.dir.join(file);
        let (source, library, file) = (at("clock.c"), at("clock.so"), at(&format!("clock-{name}")));
        std::fs::write(&source, include_str!("clock.c"))?;
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
        let built = built.context("cc (Debian package build-essential)")?;
        ensure!(built.status.success(), "cc: {}", String::from_utf8_lossy(&built.stderr));
        let path = |path: &PathBuf| path.display().to_string();
        let wrapper = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", path(&library)),
            format!("OUTRIGGER_TEST_CLOCK={}", path(&file)),
        ];
        let file = File::options().create(true).truncate(false).write(true).open(&file)?;
        let clock = Self { file, wrapper, passed: Cell::default() };
        clock.set(0)?;
        clock.pass(0)?;
        Ok(clock)
    }

    /// The wall clock is ahead by so much.
    pub(crate) fn set(&self, seconds: i64) -> Result<()> {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).context("a clock")
    }

    /// Time passes, by all clocks. What waits in the kernel for the end of a time notices when it is woken for something else.
    pub(crate) fn pass(&self, seconds: i64) -> Result<()> {
        self.passed.set(self.passed.get() + seconds);
        self.file.write_all_at(&self.passed.get().to_ne_bytes(), 8).context("a clock")
    }
}
