//! JSON values as YAML that readers of YAML 1.1 and 1.2 understand alike: what either could take for something else is
//! quoted, as `yes`, `off` and `0644` are.

use std::fmt::Write;

use serde_json::Value;

/// A document, without a marker.
pub(crate) fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => block(&mut out, value, 0),
        Value::Array(items) if !items.is_empty() => block(&mut out, value, 0),
        Value::String(text) => out = quoted(text) + "\n",
        _ => {
            scalar(&mut out, value, 0);
            out.push('\n');
        }
    }
    out
}

/// An object or array that isn't empty, each line indented.
fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                pad(out, indent);
                member(out, key, value, indent);
            }
        }
        Value::Array(items) => {
            for item in items {
                pad(out, indent);
                entry(out, item, indent);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn member(out: &mut String, key: &str, value: &Value, indent: usize) {
    if is_plain(key) {
        out.push_str(key);
    } else {
        out.push_str(&quoted(key));
    }
    out.push(':');
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push('\n');
            block(out, value, indent + 2);
        }
        // As kubectl writes it: a list stands under its key.
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(out, value, indent);
        }
        _ => {
            out.push(' ');
            scalar(out, value, indent + 2);
            out.push('\n');
        }
    }
}

fn entry(out: &mut String, item: &Value, indent: usize) {
    out.push_str("- ");
    match item {
        Value::Object(fields) if !fields.is_empty() => {
            for (index, (key, value)) in fields.iter().enumerate() {
                if index > 0 {
                    pad(out, indent + 2);
                }
                member(out, key, value, indent + 2);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    pad(out, indent + 2);
                }
                entry(out, item, indent + 2);
            }
        }
        _ => {
            scalar(out, item, indent + 2);
            out.push('\n');
        }
    }
}

fn scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::String(text) if is_plain(text) => out.push_str(text),
        Value::String(text) if is_literal(text) => literal(out, text, indent),
        Value::String(text) => out.push_str(&quoted(text)),
        // Empty ones too.
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

/// A block scalar, whose lines are as they are.
fn literal(out: &mut String, text: &str, indent: usize) {
    let (mark, body) = match text.strip_suffix('\n') {
        Some(body) => ("|", body),
        None => ("|-", text),
    };
    out.push_str(mark);
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
    }
}

/// Several lines that a block scalar keeps to the letter.
fn is_literal(text: &str) -> bool {
    let printable =
        |c: char| c == '\n' || c == '\t' || (!c.is_control() && !"\u{85}\u{2028}\u{2029}\u{feff}".contains(c));
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && !text.ends_with("\n\n")
        && text.chars().all(printable)
}

/// Whether a text needs no quotes, in any version of YAML. Rather too few than too many.
fn is_plain(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let reserved = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    let ends = text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    starts && ends && text.chars().all(word) && !reserved.contains(&text.to_ascii_lowercase().as_str())
}

/// JSON's strings are YAML's, but for what YAML doesn't print.
fn quoted(text: &str) -> String {
    let mut out = Value::from(text).to_string();
    for c in ['\u{7f}', '\u{85}', '\u{2028}', '\u{2029}', '\u{feff}'] {
        if out.contains(c) {
            out = out.replace(c, &format!("\\u{:04x}", u32::from(c)));
        }
    }
    out
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents() {
        let value = json!({
            "name": "front",
            "on": "off",
            "mode": "0644",
            "url": "http://a:80",
            "list": [{ "b": 1, "a": ["x", []] }, [["y"], "z"], {}],
            "script": "set -e\n\nexit 0\n",
            "empty": "",
            "null": null,
        });
        let text = write(&value);
        let expected = "empty: \"\"\nlist:\n- a:\n  - x\n  - []\n  b: 1\n- - - \"y\"\n  - z\n- {}\nmode: \"0644\"\n\
            name: front\n\"null\": null\n\"on\": \"off\"\nscript: |\n  set -e\n\n  exit 0\nurl: \"http://a:80\"\n";
        assert_eq!(text, expected);
        assert_eq!(write(&json!({})), "{}\n");
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let texts = [
            "",
            " ",
            "a",
            "a b",
            "- a",
            "# a",
            "a: b",
            "a #b",
            "'",
            "\"",
            "\\",
            "a\n",
            "a\nb",
            "a\n\n",
            "\na\nb",
            " a\nb",
            "a\n b\n",
            "a\tb\n\tc",
            "a\r\nb",
            "ä",
            "日本\n語",
            "\u{85}",
            "\u{2028}a\nb",
            "\u{feff}",
            "\0",
            "\u{7f}",
            "~",
            "1",
            "1e3",
            "0x1f",
            "1_000",
            "12:30",
            "yes",
            "NO",
            "y",
            "null",
            ".inf",
            "=",
            "<<",
            "!a",
            "&a",
            "*a",
            "%a",
            "@",
            "---",
            "...",
            "a\n---\nb",
            "|",
            ">",
            "?",
            "{",
            "[",
            ",",
            "2001-01-01",
            "a:",
            "a -",
            "é\n",
            "trailing \nx",
            "😀",
        ];
        for text in texts {
            for value in [json!(text), json!([text]), json!({ "a": text }), json!({ text: [{ "b": [text, 1] }] })] {
                let yaml = write(&value);
                let read: Value =
                    serde_yaml::from_str(&yaml).unwrap_or_else(|error| panic!("{text:?}: {error}\n{yaml}"));
                assert_eq!(read, value, "{yaml}");
            }
        }
    }
}
