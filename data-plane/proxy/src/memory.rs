//! Memory that start-up, or load that is over, has left behind, given back to the machine.

use std::{collections::HashSet, fs, io};

use crate::sys;

/// Forgets which pages of programs and libraries have been touched. They are files' pages, unchanged and in the page
/// cache: what is needed again comes back without a read. Says how many kilobytes of them were here.
///
/// # Errors
/// Without a view of the own mappings.
pub fn forget_program_pages() -> io::Result<u64> {
    let maps = fs::read_to_string("/proc/self/smaps")?;
    let mappings: Vec<_> = mappings(&maps).collect();
    // Loaded objects stay where they are for good; other files' mappings may go at any time.
    let objects: HashSet<_> = mappings.iter().filter(|it| it.access == "r-xp").map(|it| it.file).collect();
    let mut forgotten = 0;
    for mapping in &mappings {
        if objects.contains(mapping.file) && mapping.is_unchanged() {
            sys::forget_file_pages(mapping.start, mapping.end - mapping.start)?;
            forgotten += mapping.resident;
        }
    }
    Ok(forgotten)
}

/// From this size on a block of memory is mapped by itself.
const LARGE_BLOCK: i32 = 128 * 1024;
/// Free memory that isn't worth a look.
const WORTH_IT: usize = 256 * 1024;

/// Gives back what the allocator keeps for later when that has become much.
#[derive(Debug, Default)]
pub struct Trimmer {
    /// What this process held beside what was allocated, after the last time: program data, stacks, and gaps.
    rest: usize,
}

/// To be called before anything large is allocated.
pub fn prepare() {
    sys::map_large_blocks(LARGE_BLOCK);
}

impl Trimmer {
    /// Gives memory back if there is more of it than a quarter of what is in use.
    ///
    /// # Errors
    /// Without a view of the own memory.
    pub fn trim(&mut self) -> io::Result<()> {
        let Some(allocated) = sys::allocated() else { return Ok(()) };
        let kept = own_memory()?.saturating_sub(allocated);
        if kept > self.rest + (allocated / 4).max(WORTH_IT) {
            sys::give_back_free_memory();
            self.rest = own_memory()?.saturating_sub(allocated);
            tracing::debug!(kept, rest = self.rest, allocated, "free memory given back");
        }
        Ok(())
    }
}

/// Bytes that are this process' alone, about (proc_pid_statm(5)).
fn own_memory() -> io::Result<usize> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: Vec<usize> = statm.split_ascii_whitespace().filter_map(|it| it.parse().ok()).collect();
    let [_, resident, shared, ..] = pages[..] else { return Err(io::ErrorKind::InvalidData.into()) };
    // Of 4 KB; where they are larger, it only seems less.
    Ok(resident.saturating_sub(shared) * 4096)
}

/// One mapping of `smaps` (proc_pid_smaps(5)). Sizes in kilobytes.
#[derive(Debug, Default)]
struct Mapping<'a> {
    start: usize,
    end: usize,
    access: &'a str,
    file: &'a str,
    resident: u64,
    /// Pages that are no longer the file's.
    own: u64,
}

fn mappings(smaps: &str) -> impl Iterator<Item = Mapping<'_>> {
    let mut lines = smaps.lines().peekable();
    std::iter::from_fn(move || {
        let mut mapping = Mapping::of(lines.next()?)?;
        while let Some(field) = lines.next_if(|line| Mapping::of(line).is_none()) {
            mapping.set(field);
        }
        Some(mapping)
    })
}

impl<'a> Mapping<'a> {
    /// Of a line such as `55d0-55d8 r-xp 00001000 08:01 42    /usr/bin/x`.
    fn of(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        let access = words.next()?;
        let file = words.nth(3).unwrap_or_default();
        Some(Self { start, end, access, file, ..Self::default() })
    }

    fn set(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(Ok(size))) = (words.next(), words.next().map(str::parse)) else { return };
        match name {
            "Rss:" => self.resident = size,
            "Anonymous:" | "Swap:" => self.own += size,
            _ => {}
        }
    }

    /// Whether all of it is as it is in the file. What a relocation or a debugger has changed is nowhere else.
    fn is_unchanged(&self) -> bool {
        let read_only = matches!(self.access, "r-xp" | "r--p");
        read_only && self.file.starts_with('/') && self.own == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
5500-5600 r--p 00000000 08:01 42                         /opt/proxy
Size:                256 kB
Rss:                  16 kB
Anonymous:             0 kB
Swap:                  4 kB
VmFlags: rd mr mw me sd
5600-5700 r-xp 00001000 08:01 42                         /opt/proxy
Rss:                 128 kB
Private_Dirty:        64 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
5700-5800 rw-p 00002000 08:01 42                         /opt/proxy
Rss:                   8 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
7f00-7f10 r--p 00000000 00:00 0
Rss:                   4 kB
";

    #[test]
    fn only_what_is_as_in_the_file() {
        let all: Vec<_> = mappings(SMAPS).collect();
        assert_eq!(
            all.iter().map(|it| (it.start, it.end)).collect::<Vec<_>>(),
            [(0x5500, 0x5600), (0x5600, 0x5700), (0x5700, 0x5800), (0x7f00, 0x7f10)]
        );
        assert_eq!(all.iter().map(Mapping::is_unchanged).collect::<Vec<_>>(), [false, true, false, false]);
        assert_eq!(all[1].resident, 128);
    }

    #[test]
    fn what_was_needed_for_a_while_is_given_back() {
        let mut trimmer = Trimmer::default();
        trimmer.trim().unwrap();
        let blocks: Vec<_> = (0..50_000).map(|_| vec![1; 1000]).collect();
        let (last, much) = (blocks.last().cloned(), own_memory().unwrap());
        drop(blocks);
        trimmer.trim().unwrap();
        if sys::allocated().is_some() {
            assert!(own_memory().unwrap() + (40 << 20) < much);
        }
        drop(last);
    }

    #[test]
    fn the_program_goes_on() {
        let forgotten = forget_program_pages().unwrap();
        assert!(forgotten > 0);
        // Nothing but what has come back since.
        assert!(forget_program_pages().unwrap() <= forgotten);
    }
}
