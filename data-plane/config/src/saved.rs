//! Last good state on disk, so that a proxy restarts without a control plane.
//!
//! A file is a magic line, the SHA-256 of the rest, and one protobuf message. It is replaced by renaming, readable by
//! its owner alone, and believed only if whole: a damaged file is as good as none.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use outrigger_wire::proto::discovery::DeltaDiscoveryResponse;
use prost::Message;
use sha2::{Digest, Sha256};

/// Ends in the format's version.
const MAGIC: &[u8] = b"outrigger-state 1\n";
const CHECKSUM_LEN: usize = 32;

/// Configuration as the control plane would send it to a proxy that asks for all of it anew.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SavedConfig {
    #[prost(string, tag = "1")]
    pub(crate) workload: String,
    /// Addresses that the app called.
    #[prost(string, repeated, tag = "2")]
    pub(crate) asked: Vec<String>,
    /// One per type.
    #[prost(message, repeated, tag = "3")]
    pub(crate) responses: Vec<DeltaDiscoveryResponse>,
    /// One per type: the versions before those that are on trial.
    #[prost(message, repeated, tag = "4")]
    pub(crate) before: Vec<DeltaDiscoveryResponse>,
    /// What the control plane had read when it sent the last of it, in its words.
    #[prost(string, tag = "5")]
    pub(crate) known: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SavedSvid {
    #[prost(string, tag = "1")]
    pub(crate) workload: String,
    /// DER, leaf first.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) chain: Vec<bytes::Bytes>,
    /// PKCS #8 DER.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) key: Vec<u8>,
    #[prost(string, tag = "4")]
    pub(crate) anchor: String,
}

/// Why a file isn't believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SavedError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a state file of this version")]
    Format,
    #[error("checksum doesn't match")]
    Checksum,
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
}

/// Writes `message` so that a reader finds the old file or the new one, whole.
pub(crate) fn write(path: &Path, message: &impl Message) -> io::Result<()> {
    replace(path, message, File::sync_data)
}

/// As [`write`], but only sure to outlive this process, not the machine.
pub(crate) fn note(path: &Path, message: &impl Message) -> io::Result<()> {
    replace(path, message, |_| Ok(()))
}

fn replace(path: &Path, message: &impl Message, sync: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let body = message.encode_to_vec();
    let temporary = temporary(path);
    // A crash may have left one behind, with whatever mode.
    let _ = fs::remove_file(&temporary);
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(MAGIC)?;
    file.write_all(&Sha256::digest(&body))?;
    file.write_all(&body)?;
    sync(&file)?;
    fs::rename(&temporary, path)
}

/// `Ok(None)` if nothing was saved.
pub(crate) fn read<M: Message + Default>(path: &Path) -> Result<Option<M>, SavedError> {
    match fs::read(path) {
        Ok(bytes) => decode(&bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

pub(crate) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, SavedError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(SavedError::Format)?;
    let (checksum, body) = rest.split_first_chunk::<CHECKSUM_LEN>().ok_or(SavedError::Format)?;
    if Sha256::digest(body).as_slice() != checksum {
        return Err(SavedError::Checksum);
    }
    Ok(M::decode(body)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sample() -> SavedConfig {
        SavedConfig {
            workload: "shop/front".into(),
            asked: vec!["10.0.0.1".into()],
            responses: vec![DeltaDiscoveryResponse { nonce: "7".into(), ..Default::default() }],
            before: Vec::new(),
            known: "Pod=9".into(),
        }
    }

    #[test]
    fn survives_the_disk_and_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sidecar.config");
        assert!(read::<SavedConfig>(&path).unwrap().is_none());
        write(&path, &SavedConfig::default()).unwrap();
        // What a crash in the middle of a write leaves.
        fs::write(temporary(&path), b"half").unwrap();
        write(&path, &sample()).unwrap();
        assert_eq!(read::<SavedConfig>(&path).unwrap(), Some(sample()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_truncation_and_flipped_bit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sidecar.config");
        write(&path, &sample()).unwrap();
        let whole = fs::read(&path).unwrap();
        assert!(decode::<SavedConfig>(&whole).is_ok());
        for cut in 0..whole.len() {
            assert!(decode::<SavedConfig>(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert!(decode::<SavedConfig>(&damaged).is_err(), "flipped at {at}");
        }
    }
}
