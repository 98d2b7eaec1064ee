//! Hosts of requests: what is one at all, and what of it counts.

use std::net::Ipv6Addr;

/// Whether everybody reads the same host from an authority (RFC 3986 section 3.2): a name, an IPv4 address or an IPv6
/// address in brackets, and maybe a port. Nothing before an `@` (RFC 9110 section 4.2.4), no IPv6 zone, which means
/// something to its own machine alone, and nothing percent-encoded: of `x@secret.example` and `secret%2Eexample` some
/// apps read `secret.example`, and a policy wouldn't.
pub fn is_host(authority: &[u8]) -> bool {
    let (host, rest) = match authority.first() {
        Some(b'[') => {
            let Some(end) = authority.iter().position(|&byte| byte == b']') else { return false };
            let address = str::from_utf8(&authority[1..end]).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
            (address.is_some(), &authority[end + 1..])
        }
        _ => {
            let end = authority.iter().position(|&byte| !is_name_character(byte)).unwrap_or(authority.len());
            (end > 0, &authority[end..])
        }
    };
    host && is_port(rest)
}

/// Nothing, or a colon and maybe a number behind it.
fn is_port(text: &[u8]) -> bool {
    match text.split_first() {
        None | Some((b':', [])) => true,
        Some((b':', digits)) => digits.len() <= 5 && str::from_utf8(digits).is_ok_and(is_u16),
        Some(_) => false,
    }
}

fn is_u16(digits: &str) -> bool {
    !digits.starts_with('+') && digits.parse::<u16>().is_ok()
}

/// Characters of a `reg-name` that isn't encoded (RFC 3986 section 3.2.2).
fn is_name_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~')
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// The host of an authority, without port and trailing dot. Keeps the brackets of an IPv6 address.
pub(crate) fn host_of(authority: &str) -> &str {
    let host = match authority.rfind(':') {
        Some(colon) if authority[colon + 1..].bytes().all(|byte| byte.is_ascii_digit()) => &authority[..colon],
        _ => authority,
    };
    // "::1" without brackets is all address; its last group is no port.
    let host = if host.contains(':') && !host.starts_with('[') { authority } else { host };
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (authority, host) in [
            ("a", "a"),
            ("a:80", "a"),
            ("a.", "a"),
            ("a.:80", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("a:", "a"),
            ("A_b-c.~1", "A_b-c.~1"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("a.:65535", "a"),
            ("1.2.3.4:0", "1.2.3.4"),
            ("[fd00::1.2.3.4]:", "[fd00::1.2.3.4]"),
        ] {
            assert_eq!(host_of(authority), host, "{authority}");
            assert!(is_host(authority.as_bytes()), "{authority}");
        }
    }

    /// What is written in objects, and never comes with a request.
    #[test]
    fn hosts_of_objects() {
        for (authority, host) in [("", ""), ("::1", "::1")] {
            assert_eq!(host_of(authority), host, "{authority}");
        }
    }

    #[test]
    fn no_hosts() {
        for authority in [
            "",
            ":80",
            "x@secret.example",
            "@secret.example",
            "secret.example:80@x",
            "x:y@secret.example:80",
            "secret%2eexample",
            "secret.example%00",
            "secret.example/",
            "secret.example\\x",
            "secret.example?x",
            "secret.example#x",
            "secret.example x",
            "a:b",
            "a:80:80",
            "a:65536",
            "a:000080",
            "a:+80",
            "a:-1",
            "a: 80",
            "::1",
            "[]",
            "[::1",
            "[::1]x",
            "[::1]x:80",
            "[1.2.3.4]",
            "[v1.a]",
            "[::1%25eth0]",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]:80",
            "fe80::1%eth0",
            "büch.example",
            "ｓecret.example",
        ] {
            assert!(!is_host(authority.as_bytes()), "{authority}");
        }
        for byte in (0..=32).chain(127..=255) {
            assert!(!is_host(&[b'a', byte, b'b']), "{byte}");
        }
    }
}
