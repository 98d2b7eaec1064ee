//! Hashes: those that mean the same in every proxy and every build, so that several proxies agree on an endpoint, and the
//! maps of one process.

/// A map that requests are looked up in. Its keys come from the control plane or are our own.
pub type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// FNV-1a of 64 bits, then a finaliser, for short keys.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(folded)
}

/// Spreads a number over all 64 bits (the finaliser of SplitMix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps a random number evenly to 0 up to `below`, without a division.
pub(crate) fn scale(random: u32, below: u32) -> u32 {
    ((u64::from(random) * u64::from(below)) >> 32) as u32
}
