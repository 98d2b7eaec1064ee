//! Request bodies: bounded each and all together, whoever sends them and however slowly.

use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest body in bytes: objects have 3 MiB at most, and a review may hold two.
const MAX_BODY: usize = 8 << 20;
/// What all bodies that are being read or judged may have together.
const MAX_BODIES: usize = 32 << 20;
/// Memory is counted in pieces of so many bytes.
const PIECE: usize = 1024;

/// Memory for bodies.
pub(super) struct Bodies(Arc<Semaphore>);

/// A whole body. Its memory is given back when it is dropped.
pub(super) struct Whole {
    pub(super) bytes: Vec<u8>,
    share: Option<OwnedSemaphorePermit>,
}

/// Why a body wasn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    TooLong,
    /// Others have all the memory.
    Busy,
    Broken,
}

// === impl Bodies ===

impl Bodies {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BODIES / PIECE)))
    }

    pub(super) async fn read<B: Body<Data = Bytes> + Unpin>(&self, mut body: B) -> Result<Whole, Unread> {
        if body.size_hint().lower() > MAX_BODY as u64 {
            return Err(Unread::TooLong);
        }
        let mut whole = Whole { bytes: Vec::new(), share: None };
        while let Some(frame) = body.frame().await {
            // Trailers say nothing.
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            let length = whole.bytes.len() + data.len();
            if length > MAX_BODY {
                return Err(Unread::TooLong);
            }
            whole.grow(length, &self.0)?;
            whole.bytes.extend_from_slice(&data);
        }
        Ok(whole)
    }
}

// === impl Whole ===

impl Whole {
    /// Only what has arrived is counted: a peer that promises much and sends nothing takes nothing from others.
    fn grow(&mut self, length: usize, memory: &Arc<Semaphore>) -> Result<(), Unread> {
        let held = self.share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Ok(more) = u32::try_from(length.div_ceil(PIECE).saturating_sub(held)) else { return Err(Unread::TooLong) };
        let more = Arc::clone(memory).try_acquire_many_owned(more).map_err(|_| Unread::Busy)?;
        match &mut self.share {
            Some(share) => share.merge(more),
            share => *share = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn body(length: usize) -> Full<Bytes> {
        Full::from(vec![b'x'; length])
    }

    #[tokio::test]
    async fn each_is_bounded_and_so_are_all() {
        let bodies = Bodies::new();
        assert_eq!(bodies.read(body(MAX_BODY + 1)).await.err(), Some(Unread::TooLong));
        assert_eq!(bodies.read(body(0)).await.map(|whole| whole.bytes.len()).ok(), Some(0));
        let mut held = Vec::new();
        while held.len() < MAX_BODIES / MAX_BODY {
            held.push(bodies.read(body(MAX_BODY)).await.ok().unwrap());
        }
        assert_eq!(bodies.read(body(1)).await.err(), Some(Unread::Busy));
        held.pop();
        assert!(bodies.read(body(MAX_BODY)).await.is_ok());
    }

    #[tokio::test]
    async fn one_that_doesnt_say_its_length_is_bounded_too() {
        let bodies = Bodies::new();
        let pieces = |count| {
            let piece = || Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; MAX_BODY / 8])));
            StreamBody::new(tokio_stream::iter((0..count).map(move |_| piece())))
        };
        assert_eq!(bodies.read(pieces(8)).await.map(|whole| whole.bytes.len()).ok(), Some(MAX_BODY));
        assert_eq!(bodies.read(pieces(9)).await.err(), Some(Unread::TooLong));
        assert_eq!(bodies.0.available_permits(), MAX_BODIES / PIECE, "all of the memory is given back");
    }
}
