//! Fuzz targets of what looks at callers' bytes, and of matching. `./dev fuzz` runs them by coverage, the tests below on
//! their corpora in `fuzz/corpus/`.

use std::borrow::Cow;

use crate::{
    detect::{Detected, LONGEST, detect as detected},
    path::{normalise, other_readings, split_target},
};

mod access;
mod draw;
mod naive;
mod route;
mod rules;

pub use access::access;
pub use route::route;

/// A verdict is final, comes in time, and is what the bytes say.
pub fn detect(data: &[u8]) {
    let mut verdict = Detected::More;
    for cut in 0..=data.len().min(LONGEST) {
        let found = detected(&data[..cut]);
        assert!(verdict == Detected::More || verdict == found, "{verdict:?}, then {found:?}");
        verdict = found;
    }
    assert_eq!(detected(data), verdict);
    assert!(verdict != Detected::More || data.len() < LONGEST);
    let begins = |with: &[u8]| data.starts_with(with);
    assert_eq!(verdict == Detected::Http2, begins(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    assert_eq!(verdict == Detected::Tls, data.len() > 5 && begins(&[22, 3]) && data[2] <= 4 && data[5] == 1);
    if verdict == Detected::Http1 {
        let blank = data.iter().position(|byte| *byte == b' ').expect("a method ends in a blank");
        assert!(data[..blank].iter().all(u8::is_ascii_uppercase) && data[blank + 1].is_ascii_graphic());
    }
}

/// The normal form of a path is the one that a naive normaliser finds, is its own normal form, and hides nothing.
pub fn path(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (path, query) = split_target(text);
    assert!(!path.contains('?'));
    assert_eq!(text, query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")));
    let normal = normalise(path).ok();
    assert_eq!(normal.as_deref(), naive::normal(path).as_deref(), "{path:?}");
    let Some(normal) = normal else { return };
    assert_eq!(normalise(&normal), Ok(Cow::Borrowed(&*normal)));
    assert!(normal.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\".contains(&byte)));
    for other in other_readings(&normal) {
        assert_eq!(normalise(&other).as_deref(), Ok(&*other), "of {normal:?}");
    }
}

#[cfg(test)]
mod tests {
    outrigger_replay::replays! {
        detect: 100_000,
        path: 100_000,
        access: 10_000,
        route: 10_000,
    }
}
