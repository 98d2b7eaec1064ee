//! The record layer of TLS 1.3 (RFC 8446 section 5), in place and without any input or output. Keys come from rustls,
//! which has made the handshake; AEADs come from AWS-LC.

use std::ops::Range;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, crypto::cipher::NONCE_LEN};

use crate::chunk::{HEAD, LONGEST_RECORD, PAYLOAD, TAIL};

/// What records carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Alert,
    Handshake,
    Data,
}

/// Makes records of one direction.
pub(super) struct Sealer(Keys);

/// Opens records of the other one.
pub(super) struct Opener(Keys);

/// Why bytes are no record of this session. Each has its alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("a record was forged or damaged")]
    Forged,
    #[error("a record is too long")]
    TooLong,
    #[error("a record has no content, or one that has no place here")]
    Unexpected,
    #[error("a message can't be read")]
    Malformed,
    #[error("keys can't be renewed, or are used up")]
    Keys,
    #[error("the peer has ended the session by alert {0}")]
    Refused(u8),
}

/// A key is used with one sequence of nonces, which no number of which is used twice.
struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

const TAG: usize = TAIL - 1;
/// All records look like data of TLS 1.2.
const OUTER: [u8; 3] = [23, 3, 3];

/// The length of the record that `bytes` begin with, header included. `None` until that much of it is there.
pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let [kind, _, _, high, low, ..] = *bytes else { return Ok(None) };
    if kind != OUTER[0] {
        return Err(RecordError::Unexpected);
    }
    let length = HEAD + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_RECORD { Err(RecordError::TooLong) } else { Ok(Some(length)) }
}

// === impl Content ===

impl Content {
    fn of(number: u8) -> Option<Self> {
        match number {
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::Data),
            _ => None,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => 23,
        }
    }
}

// === impl RecordError ===

impl RecordError {
    /// What the peer is told (RFC 8446 section 6).
    pub(super) fn alert(self) -> Option<u8> {
        match self {
            Self::Unexpected => Some(10),
            Self::Forged => Some(20),
            Self::TooLong => Some(22),
            Self::Malformed => Some(50),
            Self::Keys => Some(80),
            Self::Refused(_) => None,
        }
    }
}

// === impl Sealer ===

impl Sealer {
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        Keys::new(secrets).map(Self)
    }

    /// Records made with this key.
    pub(super) fn count(&self) -> u64 {
        self.0.sequence
    }

    /// Makes a record of `part` of `memory`, of which [`HEAD`] bytes before it and [`TAIL`] bytes behind it are
    /// overwritten; says where the record is.
    pub(super) fn seal(
        &mut self,
        memory: &mut [u8],
        part: Range<usize>,
        content: Content,
    ) -> Result<Range<usize>, RecordError> {
        if part.len() > PAYLOAD {
            return Err(RecordError::TooLong);
        }
        let record = part.start - HEAD..part.end + TAIL;
        let (head, rest) = memory[record.clone()].split_at_mut(HEAD);
        let [high, low] = u16::try_from(rest.len()).map_err(|_| RecordError::TooLong)?.to_be_bytes();
        head[..OUTER.len()].copy_from_slice(&OUTER);
        head[OUTER.len()..].copy_from_slice(&[high, low]);
        let (inner, tag) = rest.split_at_mut(rest.len() - TAG);
        inner[part.len()] = content.number();
        let nonce = self.0.nonce()?;
        let sealed = self.0.key.seal_in_place_separate_tag(nonce, Aad::from(&head[..]), inner);
        tag.copy_from_slice(sealed.map_err(|_| RecordError::Keys)?.as_ref());
        Ok(record)
    }

    /// A small record of its own.
    pub(super) fn message(&mut self, content: Content, message: &[u8]) -> Result<Vec<u8>, RecordError> {
        let part = HEAD..HEAD + message.len();
        let mut record = vec![0; part.end + TAIL];
        record[part.clone()].copy_from_slice(message);
        self.seal(&mut record, part, content)?;
        Ok(record)
    }
}

// === impl Opener ===

impl Opener {
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        Keys::new(secrets).map(Self)
    }

    /// Opens one whole record; says what it carries and how much of that begins behind its header.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(Content, usize), RecordError> {
        let (head, sealed) = record.split_at_mut(HEAD);
        let nonce = self.0.nonce()?;
        let inner = self.0.key.open_in_place(nonce, Aad::from(&head[..]), sealed).map_err(|_| RecordError::Forged)?;
        // Behind the content: its type, and as many zeros as the peer likes.
        let length = inner.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Unexpected)?;
        let content = Content::of(inner[length]).ok_or(RecordError::Unexpected)?;
        if length > PAYLOAD { Err(RecordError::TooLong) } else { Ok((content, length)) }
    }
}

// === impl Keys ===

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(RecordError::Keys),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Keys)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Keys)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// The next nonce. Counts whether or not it is used well.
    fn nonce(&mut self) -> Result<Nonce, RecordError> {
        let mut nonce = self.iv;
        for (byte, of_sequence) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(RecordError::Keys)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

#[cfg(test)]
mod tests;
