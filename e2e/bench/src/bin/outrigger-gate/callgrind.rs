//! Reads what callgrind writes: which function of one thread has executed how many instructions itself, and which ask
//! for memory.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};

/// What one thread did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Thread {
    /// From 1, in the order of their start.
    pub(crate) number: u32,
    /// Instructions by function, without those of the functions that it called.
    pub(crate) own: BTreeMap<String, u64>,
    /// Calls of Rust's allocator for new or more memory, by calling function.
    pub(crate) allocates: BTreeMap<String, u64>,
}

/// Rust's allocator, whichever it is.
const ALLOCATOR: [&str; 3] = ["__rustc::__rust_alloc", "__rustc::__rust_alloc_zeroed", "__rustc::__rust_realloc"];

/// Names are written once, with a number that stands for them afterwards.
#[derive(Default)]
struct Names<'a>(HashMap<&'a str, &'a str>);

/// Reads one file, as written with `--dump-line=no --compress-pos=no --demangle=no`.
pub(crate) fn read(text: &str) -> Result<Thread> {
    let mut thread = Thread { number: 1, ..Thread::default() };
    let (mut functions, mut objects) = (Names::default(), Names::default());
    let (mut function, mut object, mut callee) = ("", "", "");
    // The line after `calls=` is what the callee took, which is the callee's own already.
    let mut of_callee = false;
    for line in text.lines() {
        match line.split_once(['=', ':']) {
            Some(("thread", number)) => thread.number = number.trim().parse().context("thread:")?,
            Some(("ob", name)) => object = objects.resolve(name),
            Some(("cob", name)) => _ = objects.resolve(name),
            Some(("fn", name)) => function = functions.resolve(name),
            Some(("cfn", name)) => callee = functions.resolve(name),
            Some(("calls", counts)) => {
                of_callee = true;
                if ALLOCATOR.contains(&readable(callee, "").as_str()) {
                    *thread.allocates.entry(readable(function, object)).or_default() += number(counts, 0)?;
                }
            }
            Some(_) => {}
            None if !line.starts_with(|first: char| first.is_ascii_digit()) => {}
            None if of_callee => of_callee = false,
            None => *thread.own.entry(readable(function, object)).or_default() += number(line, 1)?,
        }
    }
    Ok(thread)
}

/// One of the numbers in a line.
fn number(line: &str, at: usize) -> Result<u64> {
    let number = line.split_ascii_whitespace().nth(at).unwrap_or("0");
    number.parse().with_context(|| format!("callgrind's line {line:?}"))
}

/// A name as people write it, without the hashes that differ between builds. A function that its library doesn't name
/// is called by the library.
fn readable(function: &str, object: &str) -> String {
    // The count of a recursion's level.
    let function = function.split_once('\'').map_or(function, |(name, _)| name);
    if function.is_empty() || function.starts_with("0x") || function == "???" {
        return format!("[{}]", object.rsplit('/').next().unwrap_or(object));
    }
    format!("{:#}", rustc_demangle::demangle(function))
}

impl<'a> Names<'a> {
    /// Of `(3) name` or `(3)`.
    fn resolve(&mut self, text: &'a str) -> &'a str {
        let Some((number, name)) = text.strip_prefix('(').and_then(|text| text.split_once(')')) else { return text };
        match name.trim_start() {
            "" => self.0.get(number).copied().unwrap_or_default(),
            name => {
                self.0.insert(number, name);
                name
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shortened from what callgrind 3.19 wrote.
    const FILE: &str = "\
# callgrind format
version: 1
creator: callgrind-3.19.0
pid: 4711
cmd:  target/release/outrigger-gate run route/50 --times 10
part: 1
thread: 2


desc: I1 cache:
desc: Trigger: Program termination

positions: line
events: Ir
summary: 1360

ob=(1) /build/target/release/outrigger-gate
fl=(1) ???
fn=(1) _ZN14outrigger_core5route10RouteMatch7matches17h0123456789abcdefE
0 1000
cob=(2) /usr/lib/x86_64-linux-gnu/libc.so.6
cfi=(1)
cfn=(2) 0x0000000000161a40
calls=20 0
0 200

fn=(3) _RNvMNtCs1234_14outrigger_core5routeNtB2_10RouteTable6select
0 40
cfn=(1)
calls=20 0
0 1200

fn=(4) walk'2
0 20
cfn=(6) _RNvCsfLfy6EI15iL_7___rustc12___rust_alloc
calls=3 0
0 90

ob=(2)
fl=(1)
fn=(2)
0 150
fn=(5) 0x0000000000161b00
0 50
";

    #[test]
    fn own_instructions_without_those_of_callees() {
        let thread = read(FILE).unwrap();
        assert_eq!(thread.number, 2);
        let own = |name: &str| thread.own.get(name).copied();
        assert_eq!(own("outrigger_core::route::RouteMatch::matches"), Some(1000));
        assert_eq!(own("<outrigger_core::route::RouteTable>::select"), Some(40));
        assert_eq!(own("walk"), Some(20));
        assert_eq!(own("[libc.so.6]"), Some(200));
        assert_eq!(thread.own.len(), 4);
        assert_eq!(thread.allocates, BTreeMap::from([("walk".to_owned(), 3)]));
    }

    #[test]
    fn what_isnt_callgrinds_is_an_error() {
        assert!(read("fn=(1) a\n0 b\n").is_err());
        assert_eq!(read("").unwrap().own.len(), 0);
    }
}
