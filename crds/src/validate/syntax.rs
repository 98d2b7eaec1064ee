//! Syntax of texts: names, addresses, identities, patterns, parts of HTTP.

use std::net::IpAddr;

use outrigger_wire::limits::{REGEX_LENGTH, REGEX_SIZE, REGEXES_SIZE};

use super::Fault;

type Checked = Result<(), Fault>;

fn checked(valid: bool, what: &str, text: &str, remedy: &'static str) -> Checked {
    if valid { Ok(()) } else { Err((format!("not {what}: {text:?}"), remedy)) }
}

/// RFC 1123 label.
pub(crate) fn label(text: &str) -> Checked {
    let remedy = "use at most 63 of a-z, 0-9 and '-', with a letter or digit at both ends";
    checked(is_label(text), "a name", text, remedy)
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// RFC 1123 subdomain.
pub(crate) fn subdomain(text: &str) -> Checked {
    let remedy = "use at most 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends of each part";
    checked(text.len() <= 253 && text.split('.').all(is_label), "a name", text, remedy)
}

/// A host that requests name: lower case, without port; no wildcard.
pub(crate) fn host(text: &str) -> Checked {
    let valid = text.len() <= 253 && text.split('.').all(is_label);
    checked(valid, "a host", text, "write a lower-case host name or IPv4 address, without port")
}

/// A host, or `*.` and a host.
pub(crate) fn hostname_pattern(text: &str) -> Checked {
    let valid = text.len() <= 253 && text.strip_prefix("*.").unwrap_or(text).split('.').all(is_label);
    checked(valid, "a host name", text, "write a lower-case host name, such as shop.example or *.shop.example")
}

fn is_qualified(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    bytes.len() <= 63 && end(bytes.first()) && end(bytes.last()) && text.bytes().all(inner)
}

pub(crate) fn label_key(text: &str) -> Checked {
    let valid = match text.split_once('/') {
        Some((prefix, name)) => subdomain(prefix).is_ok() && is_qualified(name),
        None => is_qualified(text),
    };
    checked(valid, "a label's key", text, "write [DOMAIN/]NAME, NAME of at most 63 letters, digits, '-', '_' and '.'")
}

pub(crate) fn label_value(text: &str) -> Checked {
    let remedy = "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends";
    checked(text.is_empty() || is_qualified(text), "a label's value", text, remedy)
}

/// Kubernetes port name (RFC 6335 service name).
pub(crate) fn port_name(text: &str) -> Checked {
    let valid =
        text.len() <= 15 && is_label(text) && text.bytes().any(|b| b.is_ascii_lowercase()) && !text.contains("--");
    checked(valid, "a port's name", text, "use at most 15 of a-z, 0-9 and single '-', with at least one letter")
}

/// `NAMESPACE/NAME`.
pub(crate) fn service_account(text: &str) -> Checked {
    let valid = text.split_once('/').is_some_and(|(namespace, name)| is_label(namespace) && subdomain(name).is_ok());
    checked(valid, "a service account", text, "write NAMESPACE/NAME")
}

pub(crate) fn trust_domain(text: &str) -> Checked {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    let valid = (1..=255).contains(&text.len()) && text.bytes().all(valid);
    checked(valid, "a trust domain", text, "use at most 255 of a-z, 0-9, '.', '-' and '_'")
}

/// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`.
pub(crate) fn identity(text: &str) -> Checked {
    let parts: Vec<&str> = text.strip_prefix("spiffe://").unwrap_or_default().split('/').collect();
    let valid = text.len() <= 2048
        && matches!(parts.as_slice(), [domain, "ns", namespace, "sa", name]
            if trust_domain(domain).is_ok() && is_label(namespace) && subdomain(name).is_ok());
    checked(valid, "a SPIFFE ID of a workload", text, "write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")
}

/// An address that a packet can be sent to.
pub(crate) fn address(text: &str) -> Checked {
    let remedy = "write an IPv4 or IPv6 address without port";
    let Ok(address) = text.parse::<IpAddr>() else {
        return checked(false, "an IP address", text, remedy);
    };
    let usable = !address.is_unspecified() && !address.is_multicast();
    checked(usable, "an address of one host", text, "write the address under which it is reached")
}

pub(crate) fn cidr(text: &str) -> Checked {
    let parsed = text.split_once('/').and_then(|(address, bits)| {
        let digits = (1..=3).contains(&bits.len()) && bits.bytes().all(|b| b.is_ascii_digit());
        Some((address.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok().filter(|_| digits)?))
    });
    let (bits, host_bits) = match parsed {
        Some((IpAddr::V4(address), bits)) if bits <= 32 => {
            (bits, u32::from(address).checked_shl(bits).unwrap_or(0) != 0)
        }
        Some((IpAddr::V6(address), bits)) if bits <= 128 => {
            (bits, u128::from(address).checked_shl(bits).unwrap_or(0) != 0)
        }
        Some(_) | None => {
            return checked(
                false,
                "an address block",
                text,
                "write ADDRESS/BITS, such as 10.0.0.0/8; one address is ADDRESS/32",
            );
        }
    };
    if host_bits {
        return Err((format!("{text:?} has bits set behind the first {bits}"), "set them to 0 or write more BITS"));
    }
    Ok(())
}

/// RFC 9110 token.
fn is_token(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(inner)
}

pub(crate) fn header_name(text: &str) -> Checked {
    checked(is_token(text), "a header's name", text, "use letters, digits and '-'")
}

/// A header that routes may change: not the mesh's own, not those that frame messages.
pub(crate) fn changeable_header(text: &str) -> Checked {
    header_name(text)?;
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("outrigger-") {
        return Err((format!("{text:?} is the mesh's own header"), "choose a name without the prefix outrigger-"));
    }
    if lower == "content-length" || lower == "trailer" || is_hop_by_hop(&lower) {
        return Err((format!("{text:?} belongs to the connection"), "leave it to the proxy"));
    }
    if lower == "host" {
        return Err((format!("{text:?} can't be changed here"), "use a URLRewrite filter with hostname"));
    }
    Ok(())
}

/// A header that access policies see. One that they don't would make a rule that is never true, unnoticed.
pub(crate) fn judged_header(text: &str) -> Checked {
    header_name(text)?;
    let lower = text.to_ascii_lowercase();
    if lower == "host" {
        return Err((format!("{text:?} isn't compared here"), "write the operation's hosts instead"));
    }
    if lower.starts_with("outrigger-") {
        return Err((format!("{text:?} is the mesh's own header, which no caller may send"), "remove it"));
    }
    if is_hop_by_hop(&lower) {
        return Err((format!("{text:?} belongs to the connection: no policy sees it"), "remove it"));
    }
    Ok(())
}

fn is_hop_by_hop(lower: &str) -> bool {
    matches!(lower, "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade")
}

pub(crate) fn header_value(text: &str) -> Checked {
    let valid = text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f)) && text.trim_matches([' ', '\t']) == text;
    checked(valid, "a header's value", text, "use printable characters, without a space at either end")
}

pub(crate) fn method(text: &str) -> Checked {
    let valid = is_token(text) && !text.bytes().any(|b| b.is_ascii_lowercase());
    checked(valid, "an HTTP method", text, "write it in upper case, such as GET")
}

/// A path without query that can be read in one way only: the proxies' normaliser has nothing to resolve in it.
pub(crate) fn path(text: &str) -> Checked {
    let valid = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#\\".contains(&b));
    checked(valid, "a path", text, "begin with / and percent-encode other characters than visible ASCII")?;
    for segment in text.split('/') {
        let Some(decoded) = percent_decoded(segment) else {
            return Err((format!("{text:?} has a malformed percent-encoding"), "write % and two hexadecimal digits"));
        };
        if decoded.contains(&0) || decoded.contains(&b'\\') {
            return Err((format!("{text:?} has an encoded NUL or backslash"), "write the path without it"));
        }
        // An app that decodes slashes or cuts parameters off would step to another folder.
        if decoded.split(|b| matches!(b, b'/' | b';')).any(|part| matches!(part, b"." | b"..")) {
            return Err((
                format!("{text:?} has a segment . or .."),
                "write the path without it: proxies normalise paths",
            ));
        }
    }
    if text.contains("//") {
        return Err((format!("{text:?} has an empty segment"), "write a single /"));
    }
    Ok(())
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |b: Option<u8>| char::from(b?).to_digit(16);
    while let Some(byte) = bytes.next() {
        // Two digits of base 16 fit into a byte.
        decoded.push(if byte == b'%' { (digit(bytes.next())? * 16 + digit(bytes.next())?) as u8 } else { byte });
    }
    Some(decoded)
}

/// A path, or a path and `/*`. What is denied as `%3A` would be let through as `:`, which apps read alike.
pub(crate) fn path_pattern(text: &str) -> Checked {
    for (at, _) in text.match_indices('%') {
        let encoded = text.get(at..at + 3).unwrap_or_default();
        if percent_decoded(encoded).is_some_and(|byte| byte.first().is_some_and(|b| b"!$&'()*+,;=:@".contains(b))) {
            return Err((
                format!("{text:?} has {encoded}, which apps read as the character"),
                "write the character itself",
            ));
        }
    }
    let stem = text.strip_suffix("/*").unwrap_or(text);
    if stem.contains('*') {
        return Err((format!("{text:?} has a * that isn't its last segment"), "write a path or a path and /*"));
    }
    if stem.is_empty() { checked(text == "/*", "a path", text, "write a path or a path and /*") } else { path(stem) }
}

/// A pattern that the proxies' linear-time engine takes, under their limits.
pub(crate) fn regex(text: &str) -> Checked {
    if text.len() > REGEX_LENGTH {
        return Err((format!("the regular expression has {} bytes", text.len()), "write at most 1024"));
    }
    let build =
        |pattern: &str| regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE).dfa_size_limit(REGEX_SIZE).build();
    // By itself first: "a)|(b" would be one between brackets, and then not anchored.
    match build(text).and_then(|_| build(&format!("^(?:{text})$"))) {
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(_)) => Err((
            "the regular expression is too large once compiled".into(),
            "use smaller repetitions, such as .* for .{0,1000}",
        )),
        Err(error) => {
            // The last line has the reason; those before draw the place.
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err((format!("not a regular expression: {reason}"), "write RE2 syntax: no look-around, no back-references"))
        }
    }
}

/// Whether good patterns stay within what all of one object may take.
pub(crate) fn regexes_fit<'a>(patterns: impl ExactSizeIterator<Item = &'a str>) -> bool {
    patterns.len() * REGEX_SIZE <= REGEXES_SIZE
        || regex::RegexSetBuilder::new(patterns.map(|pattern| format!("^(?:{pattern})$")))
            .size_limit(REGEXES_SIZE)
            .build()
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(check: fn(&str) -> Checked, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
        for text in bad {
            assert!(check(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn names() {
        table(label, &["a", "a-1", "1a"], &["", "-a", "a-", "A", "a.b", "a_b", "ä", &"a".repeat(64)]);
        table(subdomain, &["a", "a.b-c.1"], &["", ".", "a.", ".a", "a..b", "A.b", &"a.".repeat(127)]);
        table(label_key, &["app", "outrigger.dev/mode", "A_b"], &["", "/a", "a/", "a/b/c", "A/b", "-a"]);
        table(label_value, &["", "v1", "A_b.c"], &["-", "a b", "a/b"]);
        table(port_name, &["http", "grpc-1"], &["", "80", "a--b", "abcdefghijklmnop", "Http"]);
        table(service_account, &["shop/front"], &["front", "/front", "shop/", "shop/a/b", "Shop/a"]);
        table(host, &["shop", "a.b", "10.0.0.1"], &["", "A", "a:80", "*.a", "::1"]);
        table(hostname_pattern, &["a.b", "*.b"], &["*", "a.*", "**.b", "A.b"]);
    }

    #[test]
    fn identities_and_addresses() {
        table(
            identity,
            &["spiffe://cluster.local/ns/shop/sa/front"],
            &[
                "",
                "spiffe://",
                "spiffe://d/ns/a",
                "https://d/ns/a/sa/b",
                "spiffe://D/ns/a/sa/b",
                "spiffe://d/ns/a/sa/b/",
                "spiffe://d/ns/*/sa/b",
            ],
        );
        table(address, &["10.0.0.1", "fd00::1", "127.0.0.1"], &["", "10.0.0.1:80", "0.0.0.0", "::", "224.0.0.1", "a"]);
        table(
            cidr,
            &["10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "fd00::/8", "::/0", "::1/128"],
            &["10.0.0.0", "10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/+8", "a/8", "fd00::1/8", "10.0.0.0/"],
        );
    }

    #[test]
    fn http() {
        table(header_name, &["x-a", "X_A"], &["", "a b", "a:", "ä"]);
        table(changeable_header, &["x-a"], &["Host", "outrigger-caller", "Outrigger-X", "Transfer-Encoding", "TE"]);
        table(header_value, &["", "a b", "ä"], &["a\n", " a", "a\r\nb", "\0"]);
        table(method, &["GET", "PROPFIND"], &["", "get", "G T"]);
        table(
            path,
            &["/", "/a", "/a/", "/%C3%A4", "/.well-known", "/a%2Fb"],
            &[
                "",
                "a",
                "/a?b",
                "/a#",
                "/ä",
                "/a b",
                "/a/../b",
                "/.",
                "//a",
                "/%2e%2e/a",
                "/..%2fa",
                "/..;x",
                "/%zz",
                "/%",
                "/a%00",
                "/a\\b",
            ],
        );
        table(
            path_pattern,
            &["/", "/a", "/*", "/a/*", "/a:b", "/a%20b"],
            &["", "*", "/a*", "/*/a", "/a/**", "a/*", "/a%3Ab"],
        );
        table(
            regex,
            &["a.*", "^/v[0-9]+$"],
            &["(", "(?=a)", r"(a)\1", "a)|(b", &"a".repeat(1025), "((a{1000}){1000}){1000}"],
        );
    }
}
