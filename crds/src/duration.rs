//! Durations as users write them: Gateway API Duration strings (GEP-2257), such as `500ms` or `1m30s`.

use std::{borrow::Cow, fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Syntax of GEP-2257: up to four parts of up to five digits and a unit.
pub const DURATION_PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A span of time with a resolution of one millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(time::Duration);

/// Why a text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a duration: write up to four parts of up to five digits and a unit (h, m, s, ms), such as 1m30s")]
pub struct DurationError;

// === impl Duration ===

impl Duration {
    pub const fn from_millis(millis: u64) -> Self {
        Self(time::Duration::from_millis(millis))
    }

    pub fn as_millis(self) -> u64 {
        // Four parts of at most 99,999 hours are far below 2^64 milliseconds.
        self.0.as_millis() as u64
    }

    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let mut rest = text;
        let mut millis = 0;
        for part in 0.. {
            if rest.is_empty() && part > 0 {
                return Ok(Self::from_millis(millis));
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if part == 4 || !(1..=5).contains(&digits) {
                return Err(DurationError);
            }
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| DurationError)?;
            // "ms" before "m": the longer unit first.
            let (unit, tail) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
                .into_iter()
                .find_map(|(name, unit)| Some((unit, tail.strip_prefix(name)?)))
                .ok_or(DurationError)?;
            millis += number * unit;
            rest = tail;
        }
        Err(DurationError)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": DURATION_PATTERN, "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_and_print() {
        for (text, millis, printed) in [
            ("0s", 0, "0s"),
            ("0h", 0, "0s"),
            ("500ms", 500, "500ms"),
            ("1m30s", 90_000, "1m30s"),
            ("30s1m", 90_000, "1m30s"),
            ("90s", 90_000, "1m30s"),
            ("1h2m3s4ms", 3_723_004, "1h2m3s4ms"),
            ("99999h", 359_996_400_000, "99999h"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.as_millis(), millis, "{text}");
            assert_eq!(duration.to_string(), printed);
        }
    }

    #[test]
    fn refused() {
        for text in ["", "1", "s", "1d", "1.5s", "-1s", "1s ", " 1s", "100000s", "1s1s1s1s1s", "1M", "1us", "m1", "１s"]
        {
            assert_eq!(text.parse::<Duration>(), Err(DurationError), "{text:?}");
        }
    }
}
