//! Text to values: splits files into documents and bounds what a document can grow to.

use std::{cell::Cell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::validate::FieldProblem;

/// What a document may cost once its aliases are expanded: each value counts 16 bytes and its text.
const MAX_COST: usize = 32 << 20;

type Document = Result<Option<Value>, Vec<FieldProblem>>;

/// All documents of a file; `None` for an empty one.
pub(crate) fn documents(file: &str, text: &str) -> Vec<Document> {
    if file.ends_with(".json") {
        return vec![json(text)];
    }
    chunks(text).into_iter().map(|(line, chunk)| yaml(line, chunk)).collect()
}

/// Splits at document markers, each chunk with the number of lines before it. A line that begins with `---` is one
/// wherever it stands (YAML 1.2, production 206), so a syntax error ends with its document.
pub fn chunks(text: &str) -> Vec<(usize, &str)> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut position) = (0, 0, 0);
    for (line, content) in text.split_inclusive('\n').enumerate() {
        let marker = content
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && position > start {
            // Comments and directives before the first marker belong to the document behind it.
            if text[start..position].lines().any(|line| !line.trim().is_empty() && !line.starts_with(['#', '%'])) {
                chunks.push((start_line, &text[start..position]));
                (start, start_line) = (position, line);
            }
        }
        position += content.len();
    }
    chunks.push((start_line, &text[start..]));
    chunks
}

fn yaml(lines_before: usize, text: &str) -> Document {
    let mut value = Value::Null;
    // A chunk holds one document: what stands behind it without a marker is a syntax error.
    for document in serde_yaml::Deserializer::from_str(text) {
        let budget = Cell::new(MAX_COST);
        value = Bounded(&budget).deserialize(document).map_err(|error| {
            let place = error.location().map(|at| (at.line() + lines_before, at.column()));
            vec![unreadable("YAML", &error.to_string(), place)]
        })?;
    }
    Ok(Some(value).filter(|value| !value.is_null()))
}

fn json(text: &str) -> Document {
    let budget = Cell::new(MAX_COST);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Bounded(&budget).deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match value {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_null())),
        Err(error) => Err(vec![unreadable("JSON", &error.to_string(), Some((error.line(), error.column())))]),
    }
}

/// The parsers' own words end with a place that doesn't know of the documents before.
fn unreadable(language: &str, error: &str, place: Option<(usize, usize)>) -> FieldProblem {
    let words = error.split(" at line ").next().unwrap_or(error);
    let problem = match place {
        Some((line, column)) => format!("line {line}, column {column}: {words}"),
        None => words.into(),
    };
    FieldProblem::new("", problem, format!("correct the {language}"))
}

/// Reads a value, refuses repeated keys, and stops before a small text becomes a huge value.
#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<usize>);

// === impl Bounded ===

impl Bounded<'_> {
    fn spend<E: Error>(self, text: usize) -> Result<(), E> {
        let rest = self.0.get().checked_sub(16 + text);
        self.0.set(rest.ok_or_else(|| E::custom("the document is too large once its aliases are expanded"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.spend(0)?;
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.spend(0)?;
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Value::Number(number))
    }

    /// Larger than any field takes: as a fraction it is refused with its path.
    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut fields = Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            self.spend(key.len())?;
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} is there twice")));
            }
            let value = entries.next_value_seed(self)?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

/// A key as it is written; a YAML key may look like a number.
#[derive(Deserialize)]
#[serde(transparent)]
struct Key(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        chunks(text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn documents_are_split_at_markers_only() {
        assert_eq!(lines("a: 1\n"), [0]);
        assert_eq!(lines("# licence\n---\na: 1\n---\nb: 1\n"), [0, 3]);
        assert_eq!(lines("a: 1\n---\r\nb: 1"), [0, 1]);
        assert_eq!(lines("a: |\n  ---\n  x\n---"), [0, 3]);
        assert_eq!(lines("a: ---b\n----\n"), [0]);
    }

    #[test]
    fn a_syntax_error_ends_with_its_document() {
        let found = documents("f.yaml", "a: 1\n---\nb: [\n---\nc: 1\n");
        assert_eq!(found.len(), 3);
        assert!(found[0].is_ok() && found[2].is_ok());
        let problem = &found[1].as_ref().unwrap_err()[0].problem;
        assert!(problem.starts_with("line 4, column 1: ") || problem.starts_with("line 3, "), "{problem}");
    }

    #[test]
    fn aliases_are_bounded() {
        let mut text = String::from("a0: &a0 [xxxxxxxxxxxxxxxx, xxxxxxxxxxxxxxxx]\n");
        for i in 1..30 {
            text += &format!("a{i}: &a{i} [*a{0}, *a{0}, *a{0}, *a{0}]\n", i - 1);
        }
        let found = documents("f.yaml", &text);
        let problem = &found[0].as_ref().unwrap_err()[0].problem;
        assert!(problem.contains("too large") || problem.contains("repetition"), "{problem}");
    }

    #[test]
    fn refused() {
        for (text, part) in [
            ("a: 1\na: 2\n", "the key \"a\" is there twice"),
            ("a: !tag x\n", "tag"),
            ("a: .nan\n", "finite"),
            ("a: 1\n...\nb: 1\n", "document start"),
            ("? [a]\n: 1\n", "string"),
        ] {
            let found = documents("f.yaml", text);
            let problem = &found[0].as_ref().unwrap_err()[0];
            assert!(problem.problem.contains(part) || problem.remedy.contains(part), "{text:?}: {problem:?}");
        }
        let deep = "[".repeat(10_000);
        assert!(documents("f.yaml", &deep)[0].is_err());
        assert!(documents("f.json", &deep)[0].is_err());
        let found = documents("f.json", "{\"a\": 1,}");
        let problem = &found[0].as_ref().unwrap_err()[0].problem;
        assert!(problem.starts_with("line 1, column 9: "), "{problem}");
    }
}
