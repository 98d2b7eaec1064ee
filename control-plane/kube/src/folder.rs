//! The embedded source: a folder of YAML and JSON files, watched. Owns when it is read and what is published; a state
//! that is worse than the last one because something couldn't be read is never published.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, DataChange, MetadataKind, ModifyKind},
};
use outrigger_crds::{Loaded, Problem};
use outrigger_model::MeshSnapshot;
use tokio::sync::{mpsc, watch};

use crate::{Settings, derive::derive};
use files::Files;

mod files;
#[cfg(test)]
mod tests;

/// How long after the first sign of a change further signs are gathered: enough for a writer that renames or removes
/// several files at once, too short to be noticed.
const DEBOUNCE: Duration = Duration::from_millis(1);

/// Why a folder can't be watched at all.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("file change notifications aren't available (is fs.inotify.max_user_instances reached?)")]
    Notify(#[source] notify::Error),
    #[error("the folder's absolute path can't be found out")]
    Path(#[source] std::io::Error),
    #[error("reading the folder was cut short")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// What may have changed since the folder was read.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    /// These files, whatever their time stamps say: two writes may share one.
    files: BTreeSet<PathBuf>,
    /// Any file that looks different.
    any: bool,
}

/// Everything that a reading needs and keeps; it moves to a blocking thread and back.
struct Reader {
    files: Files,
    watcher: RecommendedWatcher,
    settings: Settings,
    last: Option<Arc<MeshSnapshot>>,
}

/// Watches `dir` and publishes what its files say, as long as it is polled. Nothing is published before the first
/// files are read; `problems` always holds all that is wrong at the moment.
///
/// # Errors
/// If the operating system can't watch files. A folder that doesn't exist (yet) is waited for.
pub async fn watch(
    dir: PathBuf,
    settings: Settings,
    out: watch::Sender<Arc<MeshSnapshot>>,
    problems: watch::Sender<Vec<Problem>>,
) -> Result<(), FolderError> {
    let dir = std::path::absolute(dir).map_err(FolderError::Path)?;
    let (events, mut changed) = mpsc::unbounded_channel();
    let watcher = notify::recommended_watcher(move |event| {
        // The receiver is gone when the watch is: then nobody needs it.
        let _ = events.send(event);
    });
    let watcher = watcher.map_err(FolderError::Notify)?;
    let mut reader = Reader { files: Files::new(dir.clone()), watcher, settings, last: None };
    let mut changes = Changes { any: true, ..Changes::default() };
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let (snapshot, found) = reader.read(&changes);
            (reader, snapshot, found)
        });
        let (back, snapshot, found) = read.await.map_err(FolderError::Interrupted)?;
        reader = back;
        if let Some(snapshot) = snapshot {
            out.send_replace(snapshot);
        }
        problems.send_if_modified(|now| {
            let modified = *now != found;
            *now = found;
            modified
        });
        changes = Changes::default();
        while changes == Changes::default() {
            // The watcher holds the sender, and the reader the watcher.
            let Some(event) = changed.recv().await else { return Ok(()) };
            changes.note(&dir, event);
        }
        tokio::time::sleep(DEBOUNCE).await;
        while let Ok(event) = changed.try_recv() {
            changes.note(&dir, event);
        }
    }
}

// === impl Reader ===

impl Reader {
    /// What to publish, if anything, and all that is wrong.
    fn read(&mut self, changes: &Changes) -> (Option<Arc<MeshSnapshot>>, Vec<Problem>) {
        let watcher = &mut self.watcher;
        let mut problems = self.files.scan(changes, &mut |dir| {
            // A folder that went away meanwhile is noticed by listing it, or by its parent's watch.
            if let Err(error) = watcher.watch(dir, RecursiveMode::NonRecursive) {
                tracing::debug!(dir = %dir.display(), %error, "not watched");
            }
        });
        if self.files.is_empty() {
            return (None, problems);
        }
        let loaded: Vec<&Loaded> = self.files.loaded().collect();
        let (snapshot, found) = derive(&loaded, &self.settings, self.last.as_deref());
        problems.extend(found);
        if self.last.as_ref().is_some_and(|last| last.generation == snapshot.generation) {
            return (None, problems);
        }
        let snapshot = Arc::new(snapshot);
        self.last = Some(snapshot.clone());
        (Some(snapshot), problems)
    }
}

// === impl Changes ===

impl Changes {
    fn note(&mut self, dir: &Path, event: notify::Result<Event>) {
        let Ok(event) = event else {
            self.any = true;
            return;
        };
        if event.need_rescan() {
            self.any = true;
        }
        // Reading opens and closes files: that mustn't count. Writing counts once the writer is done.
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Create(CreateKind::Folder)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(MetadataKind::Any)) => {}
            EventKind::Create(CreateKind::File) if event.paths.iter().any(|path| files::is_link(path)) => {}
            EventKind::Create(CreateKind::File) => return,
            EventKind::Modify(ModifyKind::Data(DataChange::Any)) | EventKind::Access(_) => return,
            _ => self.any = true,
        }
        for path in event.paths {
            if path.starts_with(dir) && files::is_source(&path) {
                self.files.insert(path);
            } else if path.starts_with(dir) || dir.starts_with(&path) {
                self.any = true;
            }
        }
    }
}
