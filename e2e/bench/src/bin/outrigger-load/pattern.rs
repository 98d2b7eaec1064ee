//! Bytes that tell by themselves where in a stream they belong, so that an echo can be verified by comparing.

use bytes::Bytes;

/// No multiple of any buffer's size: a buffer that comes twice, or is left out, is noticed.
const PERIOD: usize = 65_521;
/// How many bytes can be had at once.
pub(crate) const SPAN: usize = 64 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Pattern(Bytes);

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_u32;
        let mut period = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        };
        let once: Vec<u8> = (0..PERIOD).map(|_| period()).collect();
        Self(once.iter().copied().cycle().take(PERIOD + SPAN).collect())
    }

    /// What belongs at that position of a stream: at most `SPAN` bytes.
    pub(crate) fn at(&self, position: u64, length: u64) -> &[u8] {
        let start = (position % PERIOD as u64) as usize;
        &self.0[start..start + length.min(SPAN as u64) as usize]
    }
}
