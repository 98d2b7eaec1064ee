//! Builds JSON patches (RFC 6902).

use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, jsonptr::PointerBuf};
use serde_json::Value;

/// Operations, in order.
#[derive(Debug, Default)]
pub(crate) struct Operations(Vec<PatchOperation>);

/// A place in a document.
#[derive(Debug, Clone)]
pub(crate) struct Place(PointerBuf);

// === impl Operations ===

impl Operations {
    /// Adds a member or an array's entry; a member that is there already is replaced.
    pub(crate) fn add(&mut self, place: &Place, value: Value) {
        self.0.push(PatchOperation::Add(AddOperation { path: place.0.clone(), value }));
    }

    pub(crate) fn remove(&mut self, place: &Place) {
        self.0.push(PatchOperation::Remove(RemoveOperation { path: place.0.clone() }));
    }

    /// Puts entries at the front of an array, in their order. `None`: there is no array yet.
    pub(crate) fn prepend(&mut self, array: &Place, present: Option<&[Value]>, entries: Vec<Value>) {
        if present.is_none() {
            return self.add(array, entries.into());
        }
        for (index, entry) in entries.into_iter().enumerate() {
            self.add(&array.at(index), entry);
        }
    }

    /// Puts entries at the end of an array. `None`: there is no array yet.
    pub(crate) fn append(&mut self, array: &Place, present: Option<&[Value]>, entries: Vec<Value>) {
        if present.is_none() {
            return self.add(array, entries.into());
        }
        for entry in entries {
            self.add(&array.of("-"), entry);
        }
    }

    pub(crate) fn into_patch(self) -> Patch {
        Patch(self.0)
    }
}

// === impl Place ===

impl Place {
    pub(crate) fn new(members: &[&str]) -> Self {
        Self(PointerBuf::from_tokens(members.iter().copied()))
    }

    /// A member of this place.
    pub(crate) fn of(&self, member: &str) -> Self {
        let mut pointer = self.0.clone();
        pointer.push_back(member);
        Self(pointer)
    }

    /// An entry of this place.
    pub(crate) fn at(&self, index: usize) -> Self {
        self.of(&index.to_string())
    }
}
