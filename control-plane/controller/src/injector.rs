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

#[cfg(test)]
mod tests {
    use tokio::{task::yield_now, time::advance};

    use super::*;

    #[test]
    fn a_start_with_wrong_settings_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("injector.yaml");
        assert!(load(Some(&file)).is_err());
        std::fs::write(&file, "imgae: outrigger:1").unwrap();
        let error = format!("{:#}", load(Some(&file)).unwrap_err());
        assert!(error.contains("injector.yaml") && error.contains("imgae"), "{error}");
        assert_eq!(load(None).unwrap(), InjectorConfig::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_taken_over_and_a_wrong_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("injector.yaml");
        std::fs::write(&file, "image: outrigger:1").unwrap();
        let current = Arc::new(ArcSwap::from_pointee(load(Some(&file)).unwrap()));
        let follower = tokio::spawn(follow(file.clone(), Arc::clone(&current)));
        for (text, image) in
            [("image: outrigger:2", "outrigger:2"), ("image: [", "outrigger:2"), ("image: outrigger:3", "outrigger:3")]
        {
            std::fs::write(&file, text).unwrap();
            for _ in 0..7 {
                yield_now().await;
                advance(Duration::from_secs(1)).await;
            }
            yield_now().await;
            assert_eq!(current.load().image, image, "{text}");
        }
        assert!(!follower.is_finished());
    }
}
