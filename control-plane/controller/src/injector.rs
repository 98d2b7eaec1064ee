//! What is injected, as its file says: read again when it changes, the last good one kept.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use outrigger_webhook::InjectorConfig;
use tokio::time;

/// A mounted ConfigMap changes under our feet without a sign that can be relied on.
const LOOK: Duration = Duration::from_secs(5);

/// The settings in force.
pub(crate) type Current = Arc<ArcSwap<InjectorConfig>>;

/// Reads the file. Without one, the defaults.
///
/// # Errors
/// If it can't be read, or holds what isn't understood: a start with wrong settings would inject wrong proxies.
pub(crate) fn load(file: Option<&PathBuf>) -> Result<InjectorConfig> {
    let Some(file) = file else { return Ok(InjectorConfig::default()) };
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    InjectorConfig::from_yaml(&text).with_context(|| file.display().to_string())
}

/// Follows the file for ever.
pub(crate) async fn follow(file: PathBuf, current: Current) {
    let mut refused = None;
    loop {
        time::sleep(LOOK).await;
        match load(Some(&file)) {
            Ok(new) if new == **current.load() => refused = None,
            Ok(new) => {
                tracing::info!(file = %file.display(), "the injector's settings have changed");
                current.store(Arc::new(new));
                refused = None;
            }
            Err(error) => {
                let text = format!("{error:#}");
                if refused.as_ref() != Some(&text) {
                    tracing::error!(error = text, "the injector goes on with its last good settings");
                    refused = Some(text);
                }
            }
        }
    }
}
