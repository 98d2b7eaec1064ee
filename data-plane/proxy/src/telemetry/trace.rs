//! W3C Trace Context (Recommendation, level 1): the position of a request in its trace, read from and passed on in
//! `traceparent`. Proxies record no spans, so `tracestate` is passed on as it is.

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A position in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub parent_id: u64,
    pub flags: u8,
}

const SAMPLED: u8 = 1;

/// One in so many traces that begin at a proxy is sampled: apps usually follow the first decision, so "never" would
/// blind them and "always" would flood them.
const SAMPLE_ONE_IN: u32 = 100;

/// Length of a version 00 `traceparent`: `00-TRACE-PARENT-FLAGS`.
const LEN: usize = 55;

/// Gives a request its place in its trace: a child of what it came with, or the start of a new trace.
pub fn propagate(headers: &mut HeaderMap) -> TraceContext {
    // A look at each header that is there costs less than to ask the map for two.
    let is_traced = headers.keys().any(|name| *name == TRACEPARENT || *name == TRACESTATE);
    let context = if is_traced { proceed(headers) } else { TraceContext::start() };
    headers.insert(TRACEPARENT, context.header_value());
    context
}

/// The position after the one that the request came with; a new trace if that isn't well-formed.
fn proceed(headers: &mut HeaderMap) -> TraceContext {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    // Several are as good as none (section 3.2).
    let parent = match (values.next(), values.next()) {
        (Some(value), None) => TraceContext::parse(value.as_bytes()),
        _ => None,
    };
    if let Some(parent) = parent {
        return parent.child();
    }
    headers.remove(&TRACESTATE);
    TraceContext::start()
}

// === impl TraceContext ===

impl TraceContext {
    /// Reads a `traceparent`; `None` if it isn't well-formed.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.split_at_checked(2)?;
        let (fields, more) = rest.split_at_checked(LEN - 2)?;
        let version = lower_hex(version)?;
        // A later version may append fields, and version ff never exists.
        if version == 0xff || (version == 0 && !more.is_empty()) || more.first().is_some_and(|b| *b != b'-') {
            return None;
        }
        let mut fields = fields.split(|b| *b == b'-');
        let (Some([]), Some(trace), Some(parent), Some(flags), None) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return None;
        };
        if (trace.len(), parent.len(), flags.len()) != (32, 16, 2) {
            return None;
        }
        let (trace_id, parent_id) = (lower_hex(trace)?, u64::try_from(lower_hex(parent)?).ok()?);
        let flags = u8::try_from(lower_hex(flags)?).ok()? & SAMPLED;
        (trace_id != 0 && parent_id != 0).then_some(Self { trace_id, parent_id, flags })
    }

    /// Begins a trace.
    pub fn start() -> Self {
        let sampled = rand::random_ratio(1, SAMPLE_ONE_IN);
        Self {
            trace_id: rand::random::<u128>().max(1),
            parent_id: rand::random::<u64>().max(1),
            flags: if sampled { SAMPLED } else { 0 },
        }
    }

    /// The next position in the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { parent_id: rand::random::<u64>().max(1), ..*self }
    }

    pub fn header_value(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..35], &self.trace_id.to_be_bytes());
        write_hex(&mut text[36..52], &self.parent_id.to_be_bytes());
        write_hex(&mut text[53..55], &[self.flags]);
        let mut value = HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes are visible ASCII");
        // It won't come again: HPACK needn't keep it in the tables of both ends (RFC 7541 section 6.2.3).
        value.set_sensitive(true);
        value
    }
}

fn lower_hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn well_formed() {
        let context = TraceContext::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(context.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((context.parent_id, context.flags), (0x00f0_67aa_0ba9_02b7, 1));
        assert_eq!(context.header_value(), GOOD);
        let later = format!("cc{}-more", &GOOD[2..]);
        assert_eq!(TraceContext::parse(later.as_bytes()), Some(context));
    }

    #[test]
    fn refused() {
        for value in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(value.as_bytes()), None, "{value:?}");
        }
        for cut in 0..GOOD.len() {
            assert_eq!(TraceContext::parse(&GOOD.as_bytes()[..cut]), None);
        }
        assert_eq!(TraceContext::parse(&[0xff; 55]), None);
    }

    #[test]
    fn a_trace_goes_on() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        headers.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        let context = propagate(&mut headers);
        let parent = TraceContext::parse(GOOD.as_bytes()).unwrap();
        assert_eq!((context.trace_id, context.flags), (parent.trace_id, parent.flags));
        assert_ne!(context.parent_id, parent.parent_id);
        assert_eq!(TraceContext::parse(headers[TRACEPARENT].as_bytes()), Some(context));
        assert_eq!(headers[TRACESTATE], "vendor=1");
    }

    #[test]
    fn a_broken_trace_begins_anew() {
        for values in [&["garbage"][..], &[GOOD, GOOD], &[]] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT, HeaderValue::from_static(value));
            }
            headers.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
            let context = propagate(&mut headers);
            assert_eq!(headers.get_all(TRACEPARENT).iter().collect::<Vec<_>>(), [context.header_value()]);
            assert!(!headers.contains_key(TRACESTATE));
        }
    }
}
