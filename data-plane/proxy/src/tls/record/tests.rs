use rustls::crypto::cipher::{AeadKey, Iv};

use super::*;

fn secrets() -> (u64, ConnectionTrafficSecrets) {
    let key = AeadKey::from([7; 32]);
    (3, ConnectionTrafficSecrets::Aes256Gcm { key, iv: Iv::from([9; NONCE_LEN]) })
}

fn ends() -> (Sealer, Opener) {
    (Sealer::new(secrets()).unwrap(), Opener::new(secrets()).unwrap())
}

/// A record with padding, as other implementations send.
fn padded(sealer: &mut Sealer, content: &[u8], kind: u8, padding: usize) -> Vec<u8> {
    let mut inner = [content, &[kind], &vec![0; padding]].concat();
    let [high, low] = u16::try_from(inner.len() + TAG).unwrap().to_be_bytes();
    let head = [OUTER[0], OUTER[1], OUTER[2], high, low];
    let nonce = sealer.0.nonce().unwrap();
    let tag = sealer.0.key.seal_in_place_separate_tag(nonce, Aad::from(head), &mut inner).unwrap();
    [&head, &*inner, tag.as_ref()].concat()
}

#[test]
fn what_is_sealed_can_be_opened_once_and_in_order() {
    let (mut sealer, mut opener) = ends();
    for length in [0, 1, 100, PAYLOAD] {
        let content = vec![42; length];
        let mut record = sealer.message(Content::Data, &content).unwrap();
        assert_eq!(super::length(&record), Ok(Some(record.len())));
        assert_eq!(super::length(&record[..HEAD - 1]), Ok(None));
        assert_eq!(opener.open(&mut record), Ok((Content::Data, length)));
        assert_eq!(record[HEAD..HEAD + length], content);
    }
    let (first, mut second) =
        (sealer.message(Content::Data, b"first").unwrap(), sealer.message(Content::Data, b"second").unwrap());
    assert_eq!(opener.open(&mut second), Err(RecordError::Forged), "out of order");
    assert_eq!(opener.open(&mut first.clone()), Err(RecordError::Forged), "its number has gone by");
}

#[test]
fn no_change_of_a_record_passes() {
    let (mut sealer, _) = ends();
    let record = sealer.message(Content::Data, b"pay 10").unwrap();
    for at in 0..record.len() {
        let mut changed = record.clone();
        changed[at] ^= 1;
        let (_, mut opener) = ends();
        assert_eq!(opener.open(&mut changed), Err(RecordError::Forged), "byte {at}");
    }
}

#[test]
fn padding_is_no_content() {
    let (mut sealer, mut opener) = ends();
    let mut record = padded(&mut sealer, b"content\0\0", 23, 200);
    assert_eq!(opener.open(&mut record), Ok((Content::Data, 9)));
    let mut record = padded(&mut sealer, b"", 0, 200);
    assert_eq!(opener.open(&mut record), Err(RecordError::Unexpected));
    let mut record = padded(&mut sealer, b"1", 20, 0);
    assert_eq!(opener.open(&mut record), Err(RecordError::Unexpected), "no change of cipher after a handshake");
    let mut record = padded(&mut sealer, &vec![1; PAYLOAD + 1], 23, 0);
    assert_eq!(opener.open(&mut record), Err(RecordError::TooLong));
}

#[test]
fn what_is_no_record_is_refused_by_its_header() {
    assert_eq!(length(&[23, 3, 3, 0x41, 0x00]), Ok(Some(LONGEST_RECORD)));
    assert_eq!(length(&[23, 3, 3, 0x41, 0x01]), Err(RecordError::TooLong));
    assert_eq!(length(b"GET / HTTP/1.1"), Err(RecordError::Unexpected));
    assert_eq!(length(&[21, 3, 3, 0, 2]), Err(RecordError::Unexpected));
    let (mut sealer, mut opener) = ends();
    assert_eq!(sealer.message(Content::Data, &vec![0; PAYLOAD + 1]), Err(RecordError::TooLong));
    // Shorter than a tag.
    assert_eq!(opener.open(&mut [23, 3, 3, 0, 3, 1, 2, 3]), Err(RecordError::Forged));
}
