//! Who has proven nothing may have many connections, and never all.

use std::iter::from_fn;

use super::*;

#[tokio::test]
async fn strangers_leave_room_for_calls_and_for_the_mesh() {
    let rig = Rig::new(SERVICE, Seen::default(), service(wire::Protocol::Http), wire::Protocol::Http);
    let engine = &rig.worker.engine;
    let all = engine.limits.connections;
    let strangers: Vec<_> = from_fn(|| engine.admit_stranger()).collect();
    let handshakes: Vec<_> = from_fn(|| engine.admit_handshake()).collect();
    assert_eq!((strangers.len(), handshakes.len()), (all / 2, all / 4));
    drop((strangers, handshakes));
    assert!(engine.admit_stranger().is_some() && engine.admit_handshake().is_some());
}
