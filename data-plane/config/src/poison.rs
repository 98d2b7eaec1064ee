//! An object that kills whoever takes it in: for tests of what a proxy does about that, and for nothing else.

use std::sync::LazyLock;

/// Services whose encoding has this text in it are deadly. Nobody sets it but tests.
const SWITCH: &str = "OUTRIGGER_TEST_POISON";

static POISON: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(SWITCH).ok().filter(|text| !text.is_empty()));

/// Dies of poison.
pub(crate) fn taste(service: &[u8]) {
    if let Some(poison) = &*POISON
        && service.windows(poison.len()).any(|part| part == poison.as_bytes())
    {
        tracing::error!(poison, "poisoned");
        std::process::abort();
    }
}
