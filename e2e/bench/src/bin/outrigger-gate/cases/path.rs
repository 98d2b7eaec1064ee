//! Paths as they usually are, and as somebody sends them who looks for a way around policies.

use std::hint::black_box;

use anyhow::{Result, ensure};
use outrigger_core::path::normalise;

use super::{Case, Once};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::here("path/normal", "a path that is normal already", 20_000, || {
            becomes("/api/orders-12/items/42/lines/7", "/api/orders-12/items/42/lines/7")
        }),
        Case::here("path/crooked", "a path with encodings, doubled slashes and dot segments", 10_000, || {
            becomes("/api//or%64ers-12/./items/../items/%34%32/li%c3%a9nes/7", "/api/orders-12/items/42/li%C3%A9nes/7")
        }),
    ]
}

fn becomes(path: &'static str, normal: &'static str) -> Result<Once> {
    ensure!(normalise(path)? == normal, "{path} is normalised to something else than {normal}");
    Ok(Box::new(move || {
        black_box(normalise(black_box(path))?);
        Ok(())
    }))
}
