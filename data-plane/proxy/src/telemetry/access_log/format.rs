//! Records as text. Whatever a peer sent comes out as printable ASCII on one line.

use std::{
    fmt::{Display, Write as _},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{LogFormat, Record};

/// Appends `record` as one line.
pub(super) fn line(out: &mut Vec<u8>, record: &Record, format: LogFormat) {
    let mut line = Line { text: String::with_capacity(512), json: format == LogFormat::Json };
    line.begin();
    line.plain("time", Timestamp(record.time));
    line.plain("direction", record.direction.as_str());
    line.plain("protocol", record.protocol);
    line.quoted("method", record.method.as_ref().map(http::Method::as_str));
    line.quoted("path", record.path.as_ref().map(http::uri::PathAndQuery::path));
    let host = record.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes()));
    line.quoted("host", host.as_deref());
    line.number("status", record.status);
    line.number("grpc_status", record.grpc_status);
    line.number("duration_us", Some(record.duration.as_micros()));
    line.number("received", Some(record.received));
    line.number("sent", Some(record.sent));
    line.quoted("service", record.service.as_deref());
    line.quoted("route", record.route.as_deref());
    line.quoted("policy", record.policy.as_deref());
    line.optional("endpoint", record.endpoint);
    line.optional("source", record.source);
    line.optional("caller", record.caller.as_ref());
    line.optional("peer", record.peer.as_ref());
    line.optional("reason", (!record.reason.is_empty()).then_some(record.reason));
    line.optional("trace_id", record.trace_id.map(|id| format!("{id:032x}")));
    line.number("generation", Some(record.generation));
    line.end();
    out.extend_from_slice(line.text.as_bytes());
}

struct Line {
    text: String,
    json: bool,
}

/// RFC 3339 in UTC, to the microsecond.
struct Timestamp(SystemTime);

// === impl Line ===

impl Line {
    fn begin(&mut self) {
        if self.json {
            self.text.push('{');
        }
    }

    fn end(&mut self) {
        self.text.push_str(if self.json { "}\n" } else { "\n" });
    }

    fn key(&mut self, key: &str) {
        match (self.json, self.text.len()) {
            (true, 1) | (false, 0) => {}
            (true, _) => self.text.push(','),
            (false, _) => self.text.push(' '),
        }
        let quote = if self.json { "\"" } else { "" };
        // Writing to a string can't fail.
        let _ = write!(self.text, "{quote}{key}{quote}{}", if self.json { ':' } else { '=' });
    }

    /// A value of our own making that needs no escape.
    fn plain(&mut self, key: &str, value: impl Display) {
        self.key(key);
        let quote = if self.json { "\"" } else { "" };
        let _ = write!(self.text, "{quote}{value}{quote}");
    }

    fn optional(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.plain(key, value);
        }
    }

    fn number(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.key(key);
            let _ = write!(self.text, "{value}");
        }
    }

    /// A value that may hold anything. Escapes are those of JSON strings in both formats; all that isn't printable
    /// ASCII is escaped, so no line break, terminal sequence or look-alike of another script gets through.
    fn quoted(&mut self, key: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.key(key);
        self.text.push('"');
        for character in value.chars() {
            match character {
                '"' | '\\' => self.text.extend(['\\', character]),
                ' '..='~' => self.text.push(character),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
            }
        }
        self.text.push('"');
    }
}

// === impl Timestamp ===

impl Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
    }
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970 + days / DAYS_OF_400_YEARS * 400;
    let mut left = days % DAYS_OF_400_YEARS;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let mut month = 1;
    for length in [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(Timestamp(UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
