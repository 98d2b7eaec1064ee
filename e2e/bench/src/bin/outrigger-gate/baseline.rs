//! The recorded counts: a file that is read in reviews, so that whoever makes a request dearer says so.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::count::Counted;

/// Functions that are kept of each case.
const FUNCTIONS: usize = 25;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// What it was recorded with.
    pub(crate) tools: Tools,
    pub(crate) cases: BTreeMap<String, Entry>,
}

/// Whatever counts depend on beside our code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tools {
    pub(crate) machine: String,
    pub(crate) rustc: String,
    pub(crate) valgrind: String,
    pub(crate) libc: String,
}

/// One case, per request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
    pub(crate) bytes: f64,
    /// Those with the most instructions of their own.
    pub(crate) functions: Functions,
    /// Those that allocate the most.
    pub(crate) allocating: Functions,
}

/// The first few of all, by a count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Functions(pub(crate) BTreeMap<String, f64>);

impl Baseline {
    pub(crate) fn of(tools: Tools, counted: &[Counted]) -> Self {
        Self { tools, cases: counted.iter().map(|case| (case.name.clone(), Entry::of(case))).collect() }
    }

    pub(crate) fn load(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file);
        let text = text.with_context(|| format!("{}: record it with `./dev gate --bless`", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{}", file.display()))
    }

    /// `only`: the other cases stay as they were recorded.
    pub(crate) fn save(mut self, file: &Path, only: bool) -> Result<()> {
        if only && let Ok(mut before) = Self::load(file) {
            before.cases.append(&mut self.cases);
            self.cases = before.cases;
        }
        let text = serde_json::to_string_pretty(&self)?;
        fs::write(file, text + "\n").with_context(|| format!("{}", file.display()))
    }

    /// What to think of first when counts differ; empty if the tools are the same.
    pub(crate) fn other_tools(&self, now: &Tools) -> String {
        if self.tools == *now {
            return String::new();
        }
        format!(
            "The baseline was recorded with other tools, which may be the reason:\n  baseline: {}\n  here:     {}\n",
            self.tools.line(),
            now.line()
        )
    }
}

impl Entry {
    pub(crate) fn of(counted: &Counted) -> Self {
        Self {
            instructions: round(counted.instructions, 10.0),
            allocations: round(counted.allocations, 100.0),
            bytes: round(counted.bytes, 10.0),
            functions: Functions::of(&counted.own, 10.0),
            allocating: Functions::of(&counted.allocates, 100.0),
        }
    }
}

impl Functions {
    fn of(all: &BTreeMap<String, f64>, digits: f64) -> Self {
        let rounded = all.iter().map(|(name, count)| (name.clone(), round(*count, digits)));
        let mut functions: Vec<_> = rounded.filter(|(_, count)| *count > 0.0).collect();
        functions.sort_by(|a, b| b.1.total_cmp(&a.1));
        functions.truncate(FUNCTIONS);
        Self(functions.into_iter().collect())
    }

    /// One that isn't kept had no more than the least that is.
    pub(crate) fn of_function(&self, name: &str) -> f64 {
        let least = || self.0.values().copied().min_by(f64::total_cmp);
        match self.0.get(name) {
            Some(count) => *count,
            None if self.0.len() < FUNCTIONS => 0.0,
            None => least().unwrap_or(0.0),
        }
    }

    pub(crate) fn most_first(&self) -> Vec<(&str, f64)> {
        let mut functions: Vec<_> = self.0.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        functions.sort_by(|a, b| b.1.total_cmp(&a.1));
        functions
    }
}

fn round(number: f64, digits: f64) -> f64 {
    (number * digits).round() / digits
}

impl Tools {
    pub(crate) fn of(valgrind: &Path) -> Result<Self> {
        let said = |command: &mut Command| -> Result<String> {
            let output = command.output().with_context(|| format!("{command:?}"))?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        Ok(Self {
            machine: std::env::consts::ARCH.to_owned(),
            rustc: said(Command::new("rustc").arg("--version"))?,
            valgrind: said(Command::new(valgrind).arg("--version"))?,
            libc: said(Command::new("getconf").arg("GNU_LIBC_VERSION"))?,
        })
    }

    fn line(&self) -> String {
        format!("{}, {}, {}, {}", self.machine, self.rustc, self.valgrind, self.libc)
    }
}
