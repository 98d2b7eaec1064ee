//! The files of the folder and what was last good of each. Knows nothing of notifications or snapshots.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_crds::{Loaded, Problem, parse};

use super::Changes;

/// Deepest nesting of folders; a symbolic link to a parent would have no end.
const MAX_DEPTH: usize = 16;

pub(super) struct Files {
    dir: PathBuf,
    /// In order of their names.
    files: BTreeMap<PathBuf, File>,
}

#[derive(Default)]
struct File {
    stamp: Option<Stamp>,
    text: String,
    /// What was last good.
    loaded: Vec<Loaded>,
    /// What is wrong with what is there now.
    problems: Vec<Problem>,
}

/// What tells that a file is another one, or was written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

/// What a walk found.
#[derive(Default)]
struct Listing {
    files: BTreeMap<PathBuf, Stamp>,
    /// What can't be listed: what is below stays as it was.
    unreadable: Vec<PathBuf>,
    problems: Vec<Problem>,
}

/// Whether a file of this name is read. Hidden files aren't: editors and installers write there first.
pub(super) fn is_source(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json")) && !is_hidden(path)
}

/// Whether a file that appears under this name was complete before: a link to another one. Any other file is being
/// written, and closing it tells.
pub(super) fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

// === impl Files ===

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, files: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// What is in force, in order of files and documents.
    pub(super) fn loaded(&self) -> impl Iterator<Item = &Loaded> {
        self.files.values().flat_map(|file| &file.loaded)
    }

    /// Reads what changed and says what is wrong now. `watch` is called for each folder before it is listed, so that
    /// nothing falls between.
    pub(super) fn scan(&mut self, changes: &Changes, watch: &mut dyn FnMut(&Path)) -> Vec<Problem> {
        let mut listing = Listing::default();
        if let Some(parent) = self.dir.ancestors().skip(1).find(|parent| parent.is_dir()) {
            watch(parent);
        }
        list(&self.dir, 0, watch, &mut listing);
        if listing.files.is_empty() && listing.unreadable.is_empty() {
            let dir = self.dir.display().to_string();
            let kept = if self.files.is_empty() { "" } else { "; what it held stays in force" };
            let remedy = "put at least one .yaml, .yml or .json file there";
            listing.problems.push(file_problem(&dir, format!("there are no files in it{kept}"), remedy));
            return listing.problems;
        }
        let Listing { files, unreadable, problems } = listing;
        self.files.retain(|path, _| files.contains_key(path) || unreadable.iter().any(|dir| path.starts_with(dir)));
        for (path, stamp) in files {
            let name = path.strip_prefix(&self.dir).unwrap_or(&path).to_string_lossy().into_owned();
            // Others that look different are being written: their turn comes.
            if !changes.any && !changes.files.contains(&path) {
                continue;
            }
            let file = self.files.entry(path.clone()).or_default();
            if changes.files.contains(&path) || file.stamp != Some(stamp) {
                file.stamp = Some(stamp);
                file.read(&name, &path);
            }
        }
        problems.into_iter().chain(self.files.values().flat_map(|file| file.problems.iter().cloned())).collect()
    }
}

fn list(dir: &Path, depth: usize, watch: &mut dyn FnMut(&Path), listing: &mut Listing) {
    watch(dir);
    let mut read = || {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if is_hidden(&path) {
                continue;
            }
            // Symbolic links are followed: that is how Kubernetes mounts files.
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() && depth < MAX_DEPTH => list(&path, depth + 1, watch, listing),
                Ok(metadata) if metadata.is_file() && is_source(&path) => {
                    listing.files.insert(path, Stamp::of(&metadata));
                }
                // No file of ours, or gone meanwhile: the next notification tells.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => listing.keep(&path, &error),
            }
        }
        Ok(())
    };
    let result: io::Result<()> = read();
    if let Err(error) = result
        && (depth == 0 || error.kind() != io::ErrorKind::NotFound)
    {
        listing.keep(dir, &error);
    }
}

// === impl Listing ===

impl Listing {
    fn keep(&mut self, path: &Path, error: &io::Error) {
        let problem = format!("it can't be read: {error}; what it held stays in force");
        let remedy = "create it, or let the controller read it";
        self.problems.push(file_problem(&path.display().to_string(), problem, remedy));
        self.unreadable.push(path.to_owned());
    }
}

// === impl File ===

impl File {
    /// What can't be used leaves what was last good in force.
    fn read(&mut self, name: &str, path: &Path) {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let problem = format!("it can't be read: {error}; what was last good stays in force");
                self.problems = vec![file_problem(name, problem, "let the controller read it, as UTF-8 text")];
                return;
            }
        };
        if text.trim().is_empty() && !self.loaded.is_empty() {
            // A writer that begins anew empties the file first.
            let problem = "it is empty; what was last good stays in force".to_owned();
            self.problems = vec![file_problem(name, problem, "to remove its objects, remove the file")];
            self.text = text;
            return;
        }
        if text == self.text && self.problems.is_empty() {
            return;
        }
        let (loaded, problems) = parse(name, &text);
        // With nothing to fall back to, what is good of it is better than nothing.
        if problems.is_empty() || self.loaded.is_empty() {
            self.loaded = loaded;
        }
        self.problems = problems;
        self.text = text;
    }
}

fn file_problem(file: &str, problem: String, remedy: &str) -> Problem {
    Problem {
        file: Arc::from(file),
        document: 0,
        object: String::new(),
        field: String::new(),
        problem,
        remedy: remedy.to_owned(),
    }
}

// === impl Stamp ===

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}
