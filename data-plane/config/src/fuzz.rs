//! Fuzz target of what the control plane sends, and of what an earlier process has left on disk. `./dev fuzz` runs it by
//! coverage, the test below on its corpus in `fuzz/corpus/`.

use std::time::SystemTime;

use outrigger_core::Snapshot;
use prost::Message;
use tokio::time::Instant;

use crate::{
    Role,
    saved::{SavedConfig, decode},
    state::State,
    trial::Records,
};

/// Responses of any content are taken or refused; what is held survives the disk; what is asked for is asked for once.
pub fn config(data: &[u8]) {
    assert!(decode::<SavedConfig>(data).is_err(), "a checksum was guessed");
    let Some((first, body)) = data.split_first() else { return };
    let role = [Role::Sidecar, Role::Guard, Role::Shared][usize::from(first % 3)];
    let Ok(sent) = SavedConfig::decode(body) else { return };
    let now = Instant::now();
    let mut state = State::new(role, "shop/front");
    let records = Records::decode(body).unwrap_or_default();
    state.resume_trials(&sent, records, SystemTime::UNIX_EPOCH, now);

    let mut published = Snapshot::default();
    for response in sent.responses {
        state.begin_trials(&response, now);
        let nonce = response.nonce.clone();
        let applied = state.apply(response, &published, now);
        assert_eq!(applied.reply.response_nonce, nonce);
        published = applied.snapshot.unwrap_or(published);
        state.requests(&published);
        assert!(state.requests(&published).is_empty(), "asked for twice");
    }
    let asked: Vec<_> = sent.asked.iter().filter_map(|address| address.parse().ok()).collect();
    published = state.ask(&asked, &published, now).unwrap_or(published);
    state.requests(&published);

    let restored = |saved: SavedConfig| {
        let mut state = State::new(role, "shop/front");
        state.restore(saved, &Snapshot::default(), now);
        let mut saved = state.save();
        // In no order.
        saved.responses.iter_mut().for_each(|response| response.removed_resources.sort());
        saved
    };
    let once = restored(state.save());
    assert_eq!(restored(once.clone()), once, "what is held survives the disk");
}

#[cfg(test)]
mod tests {
    outrigger_replay::replays! { config: 20_000 }
}
