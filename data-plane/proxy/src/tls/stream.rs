//! A TLS session after its handshake: sealed and opened in place, in memory that is held only while something is in it.
//! For whatever speaks over it it is a stream; for the [`pump`](crate::pump) it is more.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{ExtractedSecrets, client::ClientConnectionData, kernel::KernelConnection, server::ServerConnectionData};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    handshake::Early,
    record::{self, Content, Opener, RecordError, Sealer},
    roots::{Bond, Root},
};
use crate::{
    chunk::{Appetite, Chunk, HEAD, PAYLOAD, Size},
    stream::Io,
};

/// An open TLS session.
pub struct TlsStream {
    /// Before the socket, which is known by its number there.
    bond: Option<Bond>,
    socket: TcpStream,
    session: Box<Session>,
}

struct Session {
    keys: KeySource,
    sealer: Sealer,
    opener: Opener,
    /// Records that one key may seal.
    key_limit: u64,
    /// Begins with the first byte of a record; of what was read, what couldn't be opened yet.
    records: Vec<u8>,
    /// Of a message of the handshake protocol, what has come.
    message: Vec<u8>,
    /// Key changes that the peer may yet make before it sends data.
    key_changes: u8,
    /// Opened, for who reads from a stream.
    inbox: Chunk,
    appetite: Appetite,
    /// Sealed.
    outbox: Chunk,
    /// Sealed messages that follow what is in the outbox.
    control: Vec<u8>,
    /// The peer has said that it sends nothing more.
    ended: bool,
    /// The peer has been told so.
    closed: bool,
}

/// Where a session's next keys come from.
pub(super) enum KeySource {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// Key updates in a row, as many as rustls allows.
const KEY_CHANGES: u8 = 32;
const LONGEST_MESSAGE: usize = 64 * 1024;
/// A key is renewed so many records before it must be. No chunk makes more.
const KEY_MARGIN: u64 = 4 * 1024;

// === impl TlsStream ===

impl TlsStream {
    pub(super) fn new(
        socket: TcpStream,
        bond: Option<Bond>,
        secrets: ExtractedSecrets,
        keys: KeySource,
        early: Early,
    ) -> Result<Self, io::Error> {
        let mut inbox = Chunk::default();
        if !early.data.is_empty() {
            inbox = Chunk::take(Size::Large);
            if inbox.put(&early.data) < early.data.len() {
                return Err(RecordError::TooLong.into());
            }
        }
        let session = Session {
            key_limit: keys.limit(),
            keys,
            sealer: Sealer::new(secrets.tx)?,
            opener: Opener::new(secrets.rx)?,
            records: early.records,
            message: Vec::new(),
            key_changes: KEY_CHANGES,
            inbox,
            appetite: Appetite::default(),
            outbox: Chunk::default(),
            control: Vec::new(),
            ended: early.ended,
            closed: false,
        };
        Ok(Self { bond, socket, session: Box::new(session) })
    }

    /// Who vouches for the peer; nobody for one without an identity.
    pub(crate) fn root(&self) -> Option<&Arc<Root>> {
        self.bond.as_ref().map(Bond::root)
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends what is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let session = &mut *self.session;
        ready!(session.outbox.poll_write_to(cx, &mut self.socket))?;
        while !session.control.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &session.control))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            session.control.drain(..sent);
            if session.control.is_empty() {
                session.control = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when something may be sealed: all that was is sent, and the key is fresh enough.
    fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        if self.session.sealer.count().saturating_add(KEY_MARGIN) >= self.session.key_limit {
            self.session.renew_key()?;
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Seals what is in `chunk`, and sends as much as the kernel takes.
    fn seal_and_send(&mut self, cx: &mut Context<'_>, mut chunk: Chunk) -> Poll<io::Result<()>> {
        self.session.seal(&mut chunk)?;
        self.session.outbox = chunk;
        self.poll_send(cx)
    }

    /// Opens all whole records among the first `length` bytes of `chunk`'s memory; keeps the rest for later.
    fn open(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk, length: usize) -> io::Result<()> {
        let opened = self.session.open(chunk, length);
        if let Err(error) = opened
            && !mem::replace(&mut self.session.closed, true)
            && let Some(alert) = error.alert()
        {
            self.session.say(Content::Alert, &[FATAL, alert])?;
        }
        if !self.session.control.is_empty() {
            // What can't be sent now follows what is sent next.
            let _ = self.poll_send(cx)?;
        }
        opened.map_err(io::Error::from)
    }
}

impl Io for TlsStream {
    fn poll_fillable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let session = &self.session;
        let whole = record::length(&session.records)?.is_some_and(|length| length <= session.records.len());
        if whole || session.ended || !session.inbox.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        if !self.session.inbox.is_empty() {
            *chunk = mem::take(&mut self.session.inbox);
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.session.ended {
                return Poll::Ready(Ok(()));
            }
            // What an earlier read has left comes first.
            let memory = chunk.memory();
            let left = self.session.records.len().min(memory.len());
            let whole = record::length(&self.session.records)?.is_some_and(|length| length <= left);
            let mut length = left;
            if !whole {
                let mut buf = ReadBuf::new(&mut memory[left..]);
                ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buf))?;
                let read = buf.filled().len();
                if read == 0 {
                    // A peer that ends properly says so.
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                length += read;
                chunk.filled = length == chunk.memory().len();
            }
            chunk.memory()[..left].copy_from_slice(&self.session.records[..left]);
            self.session.records.drain(..left);
            self.open(cx, chunk, length)?;
            if !chunk.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        if chunk.is_empty() {
            return self.poll_send(cx);
        }
        ready!(self.poll_clear(cx))?;
        self.seal_and_send(cx, mem::take(chunk))
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.session.inbox.is_empty() {
            ready!(this.poll_fillable(cx))?;
            let mut chunk = Chunk::take(this.session.appetite.size());
            ready!(this.poll_fill(cx, &mut chunk))?;
            this.session.appetite.learn(&chunk);
            this.session.inbox = chunk;
        }
        let inbox = &mut this.session.inbox;
        inbox.copy_to(buf);
        if inbox.is_empty() {
            inbox.release();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_clear(cx))?;
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut chunk = Chunk::take(if length > PAYLOAD { Appetite::large() } else { Size::Small });
        let mut taken = 0;
        for buf in bufs {
            let n = chunk.put(buf);
            taken += n;
            if n < buf.len() {
                break;
            }
        }
        match self.seal_and_send(cx, chunk) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What isn't sent yet is sealed: it is taken all the same.
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.session.closed {
            self.session.closed = true;
            self.session.say(Content::Alert, &[WARNING, CLOSE_NOTIFY])?;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

// === impl Session ===

impl Session {
    /// Makes a record of each part of `chunk`. Records that follow each other at once become one piece.
    fn seal(&mut self, chunk: &mut Chunk) -> Result<(), RecordError> {
        if self.closed {
            return Err(RecordError::Unexpected);
        }
        let sealer = &mut self.sealer;
        chunk.rearrange(|memory, parts| {
            let mut pieces = 0;
            for at in 0..parts.len() {
                let record = sealer.seal(memory, parts[at].clone(), Content::Data)?;
                match parts[..pieces].last_mut() {
                    Some(piece) if piece.end == record.start => piece.end = record.end,
                    _ => {
                        parts[pieces] = record;
                        pieces += 1;
                    }
                }
            }
            parts.truncate(pieces);
            Ok(())
        })
    }

    fn open(&mut self, chunk: &mut Chunk, length: usize) -> Result<(), RecordError> {
        let mut at = 0;
        while !self.ended {
            let memory = &mut chunk.memory()[at..length];
            let Some(record) = record::length(memory)?.filter(|record| *record <= memory.len()) else { break };
            let (content, carried) = self.opener.open(&mut memory[..record])?;
            let part = at + HEAD..at + HEAD + carried;
            match content {
                Content::Data if self.message.is_empty() => {
                    if carried > 0 {
                        self.key_changes = KEY_CHANGES;
                    }
                    chunk.push(part);
                }
                Content::Alert => self.hear_alert(&chunk.memory()[part])?,
                Content::Handshake => self.hear_message(&chunk.memory()[part])?,
                Content::Data => return Err(RecordError::Unexpected),
            }
            at += record;
        }
        let rest = &chunk.memory()[at..length];
        if self.records.is_empty() {
            self.records = rest.to_vec();
        } else {
            // After a handshake, when much had come already.
            self.records.splice(..0, rest.iter().copied());
        }
        Ok(())
    }

    fn hear_alert(&mut self, alert: &[u8]) -> Result<(), RecordError> {
        match *alert {
            [_, CLOSE_NOTIFY] => self.ended = true,
            [_, USER_CANCELED] => {}
            [_, alert] => return Err(RecordError::Refused(alert)),
            _ => return Err(RecordError::Malformed),
        }
        Ok(())
    }

    /// Messages that come after the handshake. They may be spread over records.
    fn hear_message(&mut self, part: &[u8]) -> Result<(), RecordError> {
        if part.is_empty() || self.message.len() + part.len() > LONGEST_MESSAGE {
            return Err(RecordError::Malformed);
        }
        self.message.extend_from_slice(part);
        while let [kind, a, b, c, ref rest @ ..] = *self.message.as_slice() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some(body) = rest.get(..length) else { return Ok(()) };
            match (kind, &mut self.keys) {
                // Tickets are for sessions to come.
                (NEW_SESSION_TICKET, KeySource::Client(keys)) => {
                    keys.handle_new_session_ticket(body).map_err(|_| RecordError::Malformed)?;
                }
                // What follows is under another key, so it is in another record.
                (KEY_UPDATE, _) if body.len() == rest.len() => {
                    let wanted = match *body {
                        [0] => false,
                        [1] => true,
                        _ => return Err(RecordError::Malformed),
                    };
                    self.change_key(wanted)?;
                }
                _ => return Err(RecordError::Unexpected),
            }
            self.message.drain(..4 + length);
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }

    /// The peer has changed its key, and may want us to change ours.
    fn change_key(&mut self, wanted: bool) -> Result<(), RecordError> {
        self.key_changes = self.key_changes.checked_sub(1).ok_or(RecordError::Unexpected)?;
        let secrets = match &mut self.keys {
            KeySource::Client(keys) => keys.update_rx_secret(),
            KeySource::Server(keys) => keys.update_rx_secret(),
        };
        self.opener = Opener::new(secrets.map_err(|_| RecordError::Keys)?)?;
        if wanted && !self.closed { self.renew_key() } else { Ok(()) }
    }

    /// Tells the peer that what follows is under the next key.
    fn renew_key(&mut self) -> Result<(), RecordError> {
        self.say(Content::Handshake, &[KEY_UPDATE, 0, 0, 1, 0])?;
        let secrets = match &mut self.keys {
            KeySource::Client(keys) => keys.update_tx_secret(),
            KeySource::Server(keys) => keys.update_tx_secret(),
        };
        self.sealer = Sealer::new(secrets.map_err(|_| RecordError::Keys)?)?;
        Ok(())
    }

    fn say(&mut self, content: Content, message: &[u8]) -> Result<(), RecordError> {
        let record = self.sealer.message(content, message)?;
        self.control.extend(record);
        Ok(())
    }
}

// === impl KeySource, RecordError ===

impl KeySource {
    /// Records that one key may seal.
    fn limit(&self) -> u64 {
        let suite = match self {
            Self::Client(keys) => keys.negotiated_cipher_suite(),
            Self::Server(keys) => keys.negotiated_cipher_suite(),
        };
        suite.tls13().map_or(0, |suite| suite.common.confidentiality_limit)
    }
}

impl From<RecordError> for io::Error {
    fn from(error: RecordError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests;
