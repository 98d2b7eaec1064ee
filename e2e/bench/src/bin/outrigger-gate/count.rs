//! Starts this program under valgrind and takes the difference of a shorter and a longer run: what both do once, from
//! the loader to the handshakes, is in neither's favour.

use std::{
    collections::BTreeMap,
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use outrigger_testbed::machine::Machine;

use crate::{
    baseline::Tools,
    callgrind,
    cases::{self, Case, Place},
    run::Allocated,
};

/// What the C library chooses by processor is the same everywhere: its variants for SSE2.
const TUNABLES: &str = "glibc.malloc.tcache_count=127:glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load,-BMI2,-ERMS,-FSRM";

/// Seconds that one run may take; a case takes a few.
const LIMIT: &str = "240";

/// Makes a case's network namespace ready, then becomes the command that follows.
const ENTER: &str = "ip link set lo up && nft -f \"$0\" && exec \"$@\"";

/// Starts runs and reads what they leave.
pub(crate) struct Counter {
    machine: Machine,
    valgrind: PathBuf,
    rules: PathBuf,
    program: PathBuf,
}

/// Which cases are counted.
pub(crate) struct Selection(Vec<Case>);

/// One case, per request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counted {
    pub(crate) name: String,
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
    pub(crate) bytes: f64,
    /// Instructions of functions, without those of the functions that they call.
    pub(crate) own: BTreeMap<String, f64>,
    /// Allocations by the function that asks for them.
    pub(crate) allocates: BTreeMap<String, f64>,
}

/// One run, all requests together.
#[derive(Default)]
struct Sum {
    own: BTreeMap<String, u64>,
    allocates: BTreeMap<String, u64>,
    allocated: Allocated,
}

impl Selection {
    pub(crate) fn of(filter: Option<&str>) -> Self {
        Self(cases::all().into_iter().filter(|case| filter.is_none_or(|text| case.name.contains(text))).collect())
    }
}

impl Counter {
    pub(crate) fn new(machine: Machine) -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let valgrind = env::split_paths(&path).map(|folder| folder.join("valgrind")).find(|file| file.is_file());
        let valgrind = valgrind.context("valgrind is missing (Debian package valgrind)")?;
        let rules = machine.dir.join("gate.nft");
        fs::write(&rules, cases::rules()).context("the rules of the cases' network namespaces")?;
        Ok(Self { machine, valgrind, rules, program: env::current_exe().context("this program's path")? })
    }

    pub(crate) fn tools(&self) -> Result<Tools> {
        Tools::of(&self.valgrind)
    }

    /// All of a selection in its order, as many at a time as there are processors.
    pub(crate) fn all(&self, selection: &Selection) -> Result<Vec<Counted>> {
        let cases = &selection.0;
        ensure!(!cases.is_empty(), "no case has that in its name; `outrigger-gate list` names them");
        let next = AtomicUsize::new(0);
        let work = || {
            let mut counted = Vec::new();
            while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
                eprintln!("==> {}", case.name);
                counted.push(self.one(case, false)?);
            }
            anyhow::Ok(counted)
        };
        let workers = thread::available_parallelism().map_or(1, usize::from).min(8);
        let mut all = thread::scope(|scope| {
            let started: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let ended = started.into_iter().map(|worker| worker.join());
            ended.map(|counted| counted.unwrap_or_else(|_| bail!("a thread has panicked"))).collect::<Result<Vec<_>>>()
        })?
        .concat();
        all.sort_by_key(|counted| cases.iter().position(|case| case.name == counted.name));
        Ok(all)
    }

    /// One case by name, with every tenth request done twice.
    pub(crate) fn planted(&self, name: &str) -> Result<Counted> {
        let case = cases::all().into_iter().find(|case| case.name == name);
        self.one(&case.with_context(|| format!("no case {name}"))?, true)
    }

    fn one(&self, case: &Case, plant: bool) -> Result<Counted> {
        let run = |times| self.run(case, times, plant).with_context(|| format!("{} for {times} requests", case.name));
        let (short, long) = (run(case.times)?, run(2 * case.times)?);
        Ok(Counted::between(case, &short, &long))
    }

    fn run(&self, case: &Case, times: u32, plant: bool) -> Result<Sum> {
        let folder = tempfile::tempdir_in(&self.machine.dir).context("a folder for callgrind's files")?;
        let mut command = self.command(case);
        command.arg(format!("--callgrind-out-file={}", folder.path().join("out").display()));
        command.arg(&self.program).args(["run", case.name, "--times", &times.to_string()]);
        command.args(plant.then_some("--plant"));
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} of {command:?}\n{}", output.status, said.trim());
        let allocated = serde_json::from_slice(&output.stdout).context("what the run says")?;
        let mut sum = Sum { allocated, ..Sum::default() };
        for entry in fs::read_dir(folder.path())? {
            let file = entry?.path();
            let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
            let thread = callgrind::read(&text)?;
            if case.counts(thread.number) {
                sum.add(thread);
            }
        }
        ensure!(!sum.own.is_empty(), "callgrind has counted nothing: {}", said.trim());
        Ok(sum)
    }

    /// Valgrind, in an environment of its own and where the case wants to be.
    fn command(&self, case: &Case) -> Command {
        let mut command = Command::new("timeout");
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default()).env("GLIBC_TUNABLES", TUNABLES);
        command.args(["--kill-after=5", LIMIT]);
        if case.place == Place::Workers {
            command.args(["unshare", "--net", "--", "sh", "-c", ENTER]).arg(&self.rules);
        }
        command.arg(&self.valgrind).args(["--quiet", "--vgdb=no", "--tool=callgrind", "--separate-threads=yes"]);
        command.args(["--dump-line=no", "--compress-pos=no", "--demangle=no"]);
        command
    }
}

impl Case {
    fn counts(&self, thread: u32) -> bool {
        match self.place {
            Place::Here => thread == 1,
            Place::Workers => thread > 1,
        }
    }
}

impl Sum {
    fn add(&mut self, thread: callgrind::Thread) {
        for (all, more) in [(&mut self.own, thread.own), (&mut self.allocates, thread.allocates)] {
            for (function, count) in more {
                *all.entry(function).or_default() += count;
            }
        }
    }
}

impl Counted {
    fn between(case: &Case, short: &Sum, long: &Sum) -> Self {
        let times = f64::from(case.times);
        // Something that the shorter run did more of, such as waiting, is no work of a request.
        let each = |long: f64, short: f64| ((long - short) / times).max(0.0);
        let by_function = |long: &BTreeMap<String, u64>, short: &BTreeMap<String, u64>| {
            let of_short = |name: &String| short.get(name).copied().unwrap_or_default() as f64;
            long.iter().map(|(name, long)| (name.clone(), each(*long as f64, of_short(name)))).collect()
        };
        let total = |sum: &Sum| sum.own.values().sum::<u64>() as f64;
        Self {
            name: case.name.to_owned(),
            instructions: each(total(long), total(short)),
            allocations: each(long.allocated.calls as f64, short.allocated.calls as f64),
            bytes: each(long.allocated.bytes as f64, short.allocated.bytes as f64),
            own: by_function(&long.own, &short.own),
            allocates: by_function(&long.allocates, &short.allocates),
        }
    }
}
