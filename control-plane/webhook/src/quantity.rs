//! Kubernetes' quantities, such as `100m` or `256Mi`: their syntax and their order.

/// A quantity's value, rounded; `None` if it is none, or negative.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let number: f64 = number.parse().ok()?;
    // Division, not multiplication with a fraction: 100m and 0.1 must be the same number.
    Some(match suffix {
        "" => number,
        "n" => number / 1e9,
        "u" => number / 1e6,
        "m" => number / 1e3,
        "k" => number * 1e3,
        "M" => number * 1e6,
        "G" => number * 1e9,
        "T" => number * 1e12,
        "P" => number * 1e15,
        "E" => number * 1e18,
        "Ki" => number * 1024.0,
        "Mi" => number * 1024_f64.powi(2),
        "Gi" => number * 1024_f64.powi(3),
        "Ti" => number * 1024_f64.powi(4),
        "Pi" => number * 1024_f64.powi(5),
        "Ei" => number * 1024_f64.powi(6),
        _ => number * 10_f64.powi(exponent(suffix)?),
    })
}

/// `e3`, `E-2`.
fn exponent(suffix: &str) -> Option<i32> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    digits.parse().ok().filter(|exponent| (-18..=18).contains(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let table = [
            ("0", 0.0),
            ("1", 1.0),
            ("+1", 1.0),
            ("1.5", 1.5),
            ("1.", 1.0),
            (".5", 0.5),
            ("100m", 0.1),
            ("64Mi", 67_108_864.0),
            ("1e3", 1000.0),
            ("12E", 12e18),
            ("5E-1", 0.5),
        ];
        for (text, value) in table {
            assert_eq!(parse(text), Some(value), "{text:?}");
        }
        for text in ["", ".", "-1", "1 Mi", "Mi", "1mi", "1MB", "1.2.3", "1e", "1e99", "1x", "++1", "inf", "nan", "ä"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
