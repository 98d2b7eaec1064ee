//! Memory for bytes on their way. Laid out so that TLS records are sealed and opened in place: whatever is in a chunk has
//! room for a record's header before it and for a record's end after it. Chunks are held only while there is something
//! in them; a thread keeps a few for whoever needs one next.

use std::{
    array,
    cell::{Cell, RefCell},
    io::{self, IoSlice, IoSliceMut},
    mem,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

/// Header of a TLS record.
pub(crate) const HEAD: usize = 5;
/// The most that a record carries (RFC 8446 section 5.1).
pub(crate) const PAYLOAD: usize = 1 << 14;
/// What ends a sealed record: the type of its content, and the tag.
pub(crate) const TAIL: usize = 1 + 16;

const SLOT: usize = HEAD + PAYLOAD + TAIL;
/// The longest record that a peer may send, with all its padding (RFC 8446 section 5.2).
pub(crate) const LONGEST_RECORD: usize = HEAD + PAYLOAD + 256;
const SLOTS: usize = 16;

/// Large chunks that one thread lends at once: 16 MB. Whoever comes later makes do with small ones.
const LARGE_LENT: usize = 64;
/// Chunks that a thread keeps for later: 1 MB of each size.
const SMALL_KEPT: usize = 64;
const LARGE_KEPT: usize = 4;
/// Pieces that are written at once.
const PIECES: usize = 64;
/// What is opened from records smaller than this is moved together.
const SCATTERED: usize = 4 * 1024;

/// How much a chunk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Size {
    /// One record.
    #[default]
    Small,
    /// Sixteen.
    Large,
}

/// Decides by what came at once how much is read at once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Appetite {
    size: Size,
    /// Reads in a row that say that the size is wrong.
    wrong: u8,
}

/// Memory and what is in it. An empty one without memory costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    memory: Box<[u8]>,
    /// What is to be carried, in order.
    parts: Vec<Range<usize>>,
    /// Parts before this one are gone.
    at: usize,
    /// As much was read as there was room for.
    pub(crate) filled: bool,
}

/// What is left of a chunk.
struct Memory {
    bytes: Box<[u8]>,
    parts: Vec<Range<usize>>,
}

#[derive(Default)]
struct Kept {
    small: Vec<Memory>,
    large: Vec<Memory>,
    /// The fewest that were here since the last look: so many nobody needed.
    spare: [usize; 2],
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
    static LENT: Cell<usize> = const { Cell::new(0) };
}

/// Gives memory back that nobody on this thread has needed since the last call.
pub(crate) fn trim() {
    KEPT.with_borrow_mut(|kept| {
        let [small, large] = kept.spare;
        kept.small.truncate(kept.small.len() - small.min(kept.small.len()));
        kept.large.truncate(kept.large.len() - large.min(kept.large.len()));
        if kept.small.is_empty() {
            kept.small.shrink_to_fit();
        }
        kept.spare = [kept.small.len(), kept.large.len()];
    });
}

// === impl Appetite ===

impl Appetite {
    /// What the next read may take. Small if all large ones are taken.
    pub(crate) fn size(self) -> Size {
        if self.size == Size::Large { Self::large() } else { Size::Small }
    }

    /// Large, if there are any.
    pub(crate) fn large() -> Size {
        if LENT.get() < LARGE_LENT { Size::Large } else { Size::Small }
    }

    /// `chunk` is what a read has brought.
    pub(crate) fn learn(&mut self, chunk: &Chunk) {
        let (wrong, other, patience) = match self.size {
            Size::Small => (chunk.filled, Size::Large, 2),
            Size::Large => (chunk.len() <= PAYLOAD, Size::Small, 4),
        };
        self.wrong = if wrong { self.wrong + 1 } else { 0 };
        if self.wrong == patience {
            *self = Self { size: other, wrong: 0 };
        }
    }
}

// === impl Chunk ===

impl Chunk {
    pub(crate) fn take(size: Size) -> Self {
        if size == Size::Large {
            LENT.set(LENT.get() + 1);
        }
        let kept = KEPT.with_borrow_mut(|kept| kept.take(size));
        let Memory { bytes, parts } =
            kept.unwrap_or_else(|| Memory { bytes: vec![0; size.bytes()].into(), parts: Vec::new() });
        Self { memory: bytes, parts, at: 0, filled: false }
    }

    /// Whether there is nothing to be carried.
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.parts.len()
    }

    /// Whether it holds no memory either.
    pub(crate) fn is_released(&self) -> bool {
        self.memory.is_empty()
    }

    /// Gives the memory back, with whatever is in it.
    pub(crate) fn release(&mut self) {
        drop(mem::take(self));
    }

    pub(crate) fn size(&self) -> Size {
        if self.memory.len() > Size::Small.bytes() { Size::Large } else { Size::Small }
    }

    /// Bytes to be carried.
    pub(crate) fn len(&self) -> usize {
        self.parts().iter().map(Range::len).sum()
    }

    pub(crate) fn parts(&self) -> &[Range<usize>] {
        &self.parts[self.at..]
    }

    pub(crate) fn memory(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// Takes note of `part` of the memory. It must have been found within an opened record, so that there is room around
    /// it, and come after all others.
    pub(crate) fn push(&mut self, part: Range<usize>) {
        if part.is_empty() {
            return;
        }
        if part.len() < SCATTERED
            && self.at < self.parts.len()
            && let Some(last) = self.parts.last_mut()
            && last.len() + part.len() <= PAYLOAD
        {
            let end = last.end + part.len();
            self.memory.copy_within(part, last.end);
            last.end = end;
        } else {
            self.parts.push(part);
        }
    }

    /// Replaces the parts by others.
    pub(crate) fn rearrange<T>(&mut self, change: impl FnOnce(&mut [u8], &mut Vec<Range<usize>>) -> T) -> T {
        self.parts.drain(..self.at);
        self.at = 0;
        change(&mut self.memory, &mut self.parts)
    }

    /// Copies as much of `bytes` into it as there is room for; says how much that was.
    pub(crate) fn put(&mut self, mut bytes: &[u8]) -> usize {
        let before = bytes.len();
        while !bytes.is_empty() {
            let room = match self.parts.last() {
                Some(last) if last.len() < PAYLOAD => last.end..last.start + PAYLOAD,
                _ => {
                    let start = HEAD + SLOT * self.parts.len();
                    if start + PAYLOAD + TAIL > self.memory.len() {
                        break;
                    }
                    self.parts.push(start..start);
                    start..start + PAYLOAD
                }
            };
            let n = room.len().min(bytes.len());
            self.memory[room.start..room.start + n].copy_from_slice(&bytes[..n]);
            if let Some(last) = self.parts.last_mut() {
                last.end += n;
            }
            bytes = &bytes[n..];
        }
        before - bytes.len()
    }

    /// Room for what can be read at once into an empty small chunk.
    pub(crate) fn slot(&mut self) -> &mut [u8] {
        &mut self.memory[HEAD..HEAD + PAYLOAD]
    }

    /// Room for what can be read at once into an empty large chunk.
    pub(crate) fn slots(&mut self) -> [IoSliceMut<'_>; SLOTS] {
        let mut slots = array::from_fn(|_| IoSliceMut::new(&mut []));
        for (slot, memory) in slots.iter_mut().zip(self.memory.chunks_exact_mut(SLOT)) {
            *slot = IoSliceMut::new(&mut memory[HEAD..HEAD + PAYLOAD]);
        }
        slots
    }

    /// So many bytes have been read into the slots.
    pub(crate) fn fill(&mut self, mut bytes: usize) {
        let slots = self.memory.len() / SLOT;
        self.filled = bytes == slots * PAYLOAD;
        for start in (0..slots).map(|slot| HEAD + SLOT * slot) {
            let n = bytes.min(PAYLOAD);
            if n == 0 {
                return;
            }
            self.parts.push(start..start + n);
            bytes -= n;
        }
    }

    /// Takes out as many bytes as fit into `buf`.
    pub(crate) fn copy_to(&mut self, buf: &mut tokio::io::ReadBuf<'_>) {
        while let Some(part) = self.parts().first().cloned() {
            let n = part.len().min(buf.remaining());
            if n == 0 {
                return;
            }
            buf.put_slice(&self.memory[part.start..part.start + n]);
            self.advance(n);
        }
    }

    /// Copies all of it behind what is in `bytes`.
    pub(crate) fn append_to(&self, bytes: &mut Vec<u8>) {
        for part in self.parts() {
            bytes.extend_from_slice(&self.memory[part.clone()]);
        }
    }

    /// Writes all of it, and gives its memory back.
    pub(crate) fn poll_write_to<W: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let n = ready!(self.poll_write_some(cx, Pin::new(&mut *writer)))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        self.release();
        Poll::Ready(Ok(()))
    }

    /// Writes some of it.
    fn poll_write_some<W: AsyncWrite + ?Sized>(
        &self,
        cx: &mut Context<'_>,
        writer: Pin<&mut W>,
    ) -> Poll<io::Result<usize>> {
        match self.parts() {
            [] => Poll::Ready(Ok(0)),
            [part] => writer.poll_write(cx, &self.memory[part.clone()]),
            parts => {
                let mut pieces = [IoSlice::new(&[]); PIECES];
                for (piece, part) in pieces.iter_mut().zip(parts) {
                    *piece = IoSlice::new(&self.memory[part.clone()]);
                }
                writer.poll_write_vectored(cx, &pieces[..parts.len().min(PIECES)])
            }
        }
    }

    /// So many bytes have been carried.
    pub(crate) fn advance(&mut self, mut bytes: usize) {
        while let Some(part) = self.parts.get_mut(self.at) {
            let n = part.len().min(bytes);
            part.start += n;
            bytes -= n;
            if part.start < part.end {
                return;
            }
            self.at += 1;
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.is_released() {
            return;
        }
        let large = self.size() == Size::Large;
        if large {
            // On the thread that it was lent by, or another one: the sum stays right enough.
            let _ = LENT.try_with(|lent| lent.set(lent.get().saturating_sub(1)));
        }
        let mut parts = mem::take(&mut self.parts);
        parts.clear();
        let memory = Memory { bytes: mem::take(&mut self.memory), parts };
        // When a thread ends, what it kept may be gone already.
        let _ = KEPT.try_with(|kept| kept.borrow_mut().keep(memory, large));
    }
}

// === impl Size, Kept ===

impl Size {
    const fn bytes(self) -> usize {
        match self {
            Self::Small => LONGEST_RECORD,
            Self::Large => SLOT * SLOTS,
        }
    }
}

impl Kept {
    fn take(&mut self, size: Size) -> Option<Memory> {
        let (memories, spare) = match size {
            Size::Small => (&mut self.small, &mut self.spare[0]),
            Size::Large => (&mut self.large, &mut self.spare[1]),
        };
        let memory = memories.pop();
        *spare = memories.len().min(*spare);
        memory
    }

    fn keep(&mut self, memory: Memory, large: bool) {
        let (memories, most) = if large { (&mut self.large, LARGE_KEPT) } else { (&mut self.small, SMALL_KEPT) };
        if memories.len() < most {
            memories.push(memory);
        }
    }
}

#[cfg(test)]
mod tests;
