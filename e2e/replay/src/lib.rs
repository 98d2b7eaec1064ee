//! Runs a fuzz target in an ordinary test: on every file of its committed corpus, then on mutations of them. What is
//! found by coverage (`./dev fuzz`) comes into the corpus; what is in the corpus stays found. And runs a test that is decided
//! by a seed with some, the same each time, or as many as wanted.

use std::{env, fs, path::Path, thread};

/// Decides which mutations there are. Each run of CI makes the same ones.
const SEED: &str = "OUTRIGGER_FUZZ_SEED";
/// Fewer files are no corpus.
const FEWEST: usize = 8;
/// Bytes of a file, and of what becomes of it.
const LONGEST: usize = 4096;

/// A test for each fuzz target of the module around: its name, and how many mutations it is run on. The corpora are in the
/// crate's `fuzz/corpus/`.
#[macro_export]
macro_rules! replays {
    ($($target:ident: $runs:expr),+ $(,)?) => {$(
        #[test]
        fn $target() {
            $crate::replay(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"), stringify!($target), $runs, super::$target);
        }
    )+};
}

/// Runs `target` on the files of `corpus`/`name`, and on `runs` mutations of them.
///
/// # Panics
/// If the target does, after its input and the seed were printed; or if there is no corpus.
pub fn replay(corpus: &str, name: &str, runs: usize, target: fn(&[u8])) {
    let seed = match env::var(SEED) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED} must be a number, not {text:?}")),
        Err(_) => 1,
    };
    println!("{name}: {SEED}={seed}");
    let inputs = files(&Path::new(corpus).join(name));
    for input in &inputs {
        run(target, name, input);
    }
    let mut mutator = Mutator(seed);
    for _ in 0..runs {
        run(target, name, &mutator.mutation(&inputs));
    }
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("no corpus in {}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    assert!(paths.len() >= FEWEST, "{} has {} files, fewer than {FEWEST}", folder.display(), paths.len());
    let read = |path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let inputs: Vec<_> = paths.iter().map(read).collect();
    assert!(inputs.iter().all(|input| input.len() <= LONGEST), "{}: a file is too long", folder.display());
    inputs
}

fn run(target: fn(&[u8]), name: &str, input: &[u8]) {
    let _shown = Shown(name, input);
    target(input);
}

/// Prints an input that a target fails on.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{} fails on b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

/// Its state is its seed.
struct Mutator(u64);

// === impl Mutator ===

impl Mutator {
    /// One of `inputs` after a few changes.
    fn mutation(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut data = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(data.len() + 1);
            let end = at + self.below(data.len() - at + 1).min(1 << self.below(8));
            match self.below(7) {
                0 if at < data.len() => data[at] ^= 1 << self.below(8),
                1 if at < data.len() => data[at] = [0, 1, 0x7f, 0xff, b'\n', b'/', b'%', b'"'][self.below(8)],
                2 if at < data.len() => data[at] = self.below(256) as u8,
                3 => drop(data.drain(at..end)),
                4 => drop(data.splice(at..at, data[at..end].to_vec())),
                // The end, or a piece, of another.
                5 => {
                    let other = &inputs[self.below(inputs.len())];
                    data.truncate(at);
                    data.extend_from_slice(&other[self.below(other.len() + 1)..]);
                }
                _ => {
                    let other = &inputs[self.below(inputs.len())];
                    let from = self.below(other.len() + 1);
                    let piece = &other[from..other.len().min(from + 1 + self.below(32))];
                    data.splice(at..end, piece.iter().copied());
                }
            }
        }
        data.truncate(LONGEST);
        data
    }

    fn below(&mut self, bound: usize) -> usize {
        // splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut next = self.0;
        next = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        next = (next ^ (next >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((next ^ (next >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Runs a test with each seed from 0 to `ordinary`, or as the environment has it: with `OUTRIGGER_SEED` alone, or with
/// `OUTRIGGER_SEEDS` of them.
///
/// # Panics
/// If `test` does, after it was printed how to run it again with that seed.
pub fn seeds(ordinary: u64, mut test: impl FnMut(u64)) {
    let number = |name: &str| {
        let text = env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
    };
    let seeds = match number("OUTRIGGER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("OUTRIGGER_SEEDS").unwrap_or(ordinary),
    };
    for seed in seeds {
        let _named = Named(seed);
        test(seed);
    }
}

/// Prints the seed that a test fails with.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if thread::panicking() {
            let package = env::var("CARGO_PKG_NAME").unwrap_or_default();
            let test = thread::current().name().unwrap_or_default().to_owned();
            println!("again: OUTRIGGER_SEED={} cargo test -p {package} {test} -- --nocapture", self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "no corpus in")]
    fn a_missing_corpus_fails() {
        replay(env!("CARGO_MANIFEST_DIR"), "nothing", 1, |_| {});
    }

    #[test]
    #[should_panic(expected = "has 1 files, fewer than 8")]
    fn a_corpus_of_next_to_nothing_fails() {
        replay(env!("CARGO_MANIFEST_DIR"), "src", 1, |_| {});
    }

    #[test]
    fn a_seed_decides() {
        let inputs = [b"one".to_vec(), b"another".to_vec(), Vec::new()];
        let made = |seed| {
            let mut mutator = Mutator(seed);
            (0..1000).map(|_| mutator.mutation(&inputs)).collect::<Vec<_>>()
        };
        assert!(made(1) == made(1) && made(1) != made(2));
    }
}
