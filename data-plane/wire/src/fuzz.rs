//! Fuzz targets of what proxies send each other. `./dev fuzz` runs them by coverage, the tests below on their corpora in
//! `fuzz/corpus/`.

use crate::{
    SpiffeId,
    tunnel::{GuardHeader, MAX_FRAME, TcpHeader, frame_len},
};

/// A header that is read is written so that it is read as the same, and no longer than it came.
pub fn tunnel(data: &[u8]) {
    let frame = &data[..data.len().min(MAX_FRAME)];
    if let Ok(header) = TcpHeader::decode(frame) {
        assert_eq!(TcpHeader::decode(written(&header.encode(), frame)), Ok(header));
    }
    if let Ok(header) = GuardHeader::decode(frame) {
        assert_eq!(GuardHeader::decode(written(&header.encode(), frame)), Ok(header));
    }
}

/// The frame behind its length.
fn written<'a>(bytes: &'a [u8], came: &[u8]) -> &'a [u8] {
    let (prefix, frame) = bytes.split_first_chunk::<2>().expect("a frame begins with its length");
    assert_eq!(frame_len(*prefix), Ok(frame.len()));
    assert!(frame.len() <= came.len());
    frame
}

/// An identity is its text, and its parts make it up.
pub fn identity(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str(), text);
    let parts = [id.trust_domain(), id.namespace(), id.service_account()];
    assert!(parts.iter().all(|part| !part.is_empty() && !part.contains(['/', ' ', '%', '?', '#', '\0'])), "{parts:?}");
    assert_eq!(SpiffeId::new(parts[0], parts[1], parts[2]), Ok(id));
}

#[cfg(test)]
mod tests {
    outrigger_replay::replays! { tunnel: 100_000, identity: 100_000 }
}
