//! Fuzz target: whatever callers say, a record is one line.

use std::time::UNIX_EPOCH;

use http::HeaderValue;
use serde_json::Value;

use super::{Direction, LogFormat, Record, format};

/// What a caller said is on one line, in printable ASCII, and can be told from what we say.
pub fn access_log(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let mut record = Record::new(Direction::Inbound, "http/1.1", UNIX_EPOCH);
    record.method = http::Method::from_bytes(next()).ok();
    record.path = next().try_into().ok();
    record.host = HeaderValue::from_bytes(next()).ok();
    for as_json in [true, false] {
        let mut line = Vec::new();
        format::line(&mut line, &record, if as_json { LogFormat::Json } else { LogFormat::Text });
        let text = line.strip_suffix(b"\n").expect("a line ends");
        assert!(text.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic()));
        assert!(line.len() < 1000 + data.len() * 12, "{} bytes of {}", line.len(), data.len());
        if as_json {
            let read: Value = serde_json::from_slice(text).expect("it is JSON");
            let of = |name: &str| read.get(name).and_then(Value::as_str).map(str::to_owned);
            assert_eq!(of("method"), record.method.as_ref().map(ToString::to_string));
            let host = record.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
            assert_eq!(of("host"), host);
            assert_eq!(of("protocol").as_deref(), Some("http/1.1"));
        }
    }
}
