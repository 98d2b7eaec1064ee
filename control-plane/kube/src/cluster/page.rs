//! One page of a list. Each object is read and pruned as it is met, so that a page of large objects is never held whole
//! but as text; and one that can't be read doesn't hold up the others.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use super::kinds::{Item, Kind};

#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) metadata: Metadata,
    pub(super) items: Vec<Item>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) resource_version: String,
    /// Of the next page; none, or "", on the last.
    pub(super) r#continue: Option<String>,
}

/// How entries are read: their kind, and the version that was asked for.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a Kind, &'a str);

struct Items<'a>(Reader<'a>);

/// # Errors
/// If it is no list.
pub(super) fn parse(text: &str, kind: &Kind, version: &str) -> serde_json::Result<Page> {
    let mut json = serde_json::Deserializer::from_str(text);
    let page = Reader(kind, version).deserialize(&mut json)?;
    json.end().map(|()| page)
}

// === impl Reader ===

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Page;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Page, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Page;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Page, A::Error> {
        let mut page = Page::default();
        let mut complete = false;
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "metadata" => page.metadata = map.next_value()?,
                "items" => {
                    page.items = map.next_value_seed(Items(self))?;
                    complete = true;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        // What isn't said can't count as "there are none".
        if complete && !page.metadata.resource_version.is_empty() {
            return Ok(page);
        }
        Err(A::Error::custom("a list without items or resourceVersion"))
    }
}

// === impl Items ===

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Vec<Item>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Item>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Vec<Item>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects")
    }

    /// How Go writes an empty list.
    fn visit_unit<E>(self) -> Result<Vec<Item>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<Item>, A::Error> {
        let Reader(kind, version) = self.0;
        let mut items = Vec::new();
        while let Some(value) = entries.next_element::<Value>()? {
            items.push(kind.read(version, value));
        }
        Ok(items)
    }
}
