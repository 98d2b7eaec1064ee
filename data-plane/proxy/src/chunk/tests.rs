use std::pin::pin;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, ReadBuf};

use super::*;

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn take_out(chunk: &mut Chunk) -> Vec<u8> {
    let mut out = vec![0; chunk.len()];
    chunk.copy_to(&mut ReadBuf::new(&mut out));
    assert!(chunk.is_empty());
    out
}

#[test]
fn what_is_put_in_comes_out() {
    for length in [1, 100, PAYLOAD, PAYLOAD + 1, PAYLOAD * SLOTS] {
        let (mut chunk, given) = (Chunk::take(Size::Large), bytes(length));
        assert_eq!(chunk.put(&given[..length / 2]), length / 2);
        assert_eq!(chunk.put(&given[length / 2..]), length - length / 2);
        assert_eq!(chunk.len(), length);
        assert_eq!(take_out(&mut chunk), given);
    }
    let mut chunk = Chunk::take(Size::Small);
    assert_eq!(chunk.put(&bytes(PAYLOAD + 7)), PAYLOAD);
    assert_eq!(take_out(&mut chunk), bytes(PAYLOAD));
}

#[test]
fn every_part_has_room_for_a_record_around_it() {
    for size in [Size::Small, Size::Large] {
        let mut chunk = Chunk::take(size);
        chunk.put(&bytes(PAYLOAD * SLOTS));
        let mut before = 0;
        for part in chunk.parts().to_vec() {
            assert!(part.start >= before + HEAD);
            before = part.end + TAIL;
        }
        assert!(before <= chunk.memory().len());
        assert!(chunk.memory().len() >= LONGEST_RECORD);
    }
}

#[test]
fn small_parts_move_together_and_large_ones_stay() {
    let mut chunk = Chunk::take(Size::Large);
    let given = bytes(3 * SCATTERED);
    chunk.memory()[..given.len()].copy_from_slice(&given);
    let parts = [5..15, 40..50, 60..60, 72..73, 100..100 + SCATTERED];
    for part in parts.clone() {
        chunk.push(part);
    }
    assert_eq!(chunk.parts(), [5..26, 100..100 + SCATTERED]);
    let expected: Vec<u8> = parts.into_iter().flat_map(|part| given[part].to_vec()).collect();
    assert_eq!(take_out(&mut chunk), expected);
}

#[test]
fn what_nobody_needs_is_given_back() {
    let lent: Vec<_> = (0..3).map(|_| Chunk::take(Size::Large)).collect();
    assert_eq!(LENT.get(), 3);
    drop(lent);
    assert_eq!(LENT.get(), 0);
    trim();
    assert_eq!(KEPT.with_borrow(|kept| kept.large.len()), 3, "they were in use a moment ago");
    drop(Chunk::take(Size::Large));
    trim();
    assert_eq!(KEPT.with_borrow(|kept| kept.large.len()), 1);
    trim();
    assert_eq!(KEPT.with_borrow(|kept| kept.large.len()), 0);
}

#[test]
fn bulk_is_read_in_large_chunks_and_messages_are_not() {
    let mut appetite = Appetite::default();
    let read = |size, bytes| {
        let mut chunk = Chunk::take(size);
        chunk.fill(bytes);
        chunk
    };
    appetite.learn(&read(Size::Small, PAYLOAD));
    assert_eq!(appetite.size(), Size::Small);
    appetite.learn(&read(Size::Small, PAYLOAD));
    assert_eq!(appetite.size(), Size::Large);
    let taken: Vec<_> = (0..LARGE_LENT).map(|_| Chunk::take(Size::Large)).collect();
    assert_eq!(appetite.size(), Size::Small, "none is left");
    drop(taken);
    for _ in 0..3 {
        appetite.learn(&read(Size::Large, 1));
    }
    appetite.learn(&read(Size::Large, PAYLOAD * 2));
    for _ in 0..4 {
        assert_eq!(appetite.size(), Size::Large);
        appetite.learn(&read(Size::Large, 1));
    }
    assert_eq!(appetite.size(), Size::Small);
}

#[tokio::test]
async fn written_piece_by_piece() {
    let (near, mut far) = tokio::io::duplex(1000);
    let (mut near, given) = (pin!(near), bytes(PAYLOAD * 3 + 5));
    let mut chunk = Chunk::take(Size::Large);
    chunk.put(&given);
    let mut heard = Vec::new();
    while !chunk.is_empty() {
        let written = std::future::poll_fn(|cx| chunk.poll_write_some(cx, near.as_mut())).now_or_never();
        chunk.advance(written.unwrap().unwrap());
        let mut buf = [0; 1000];
        let n = far.read(&mut buf).await.unwrap();
        heard.extend_from_slice(&buf[..n]);
    }
    assert_eq!(heard, given);
}
