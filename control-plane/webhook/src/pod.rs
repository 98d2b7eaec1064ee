//! A pod as JSON, read. A null is a member that isn't there, as for API servers.

use outrigger_crds::load::closest;
use outrigger_wire::names::{INJECTED_ANNOTATION, MODE_LABEL, containers};
use serde_json::{Map, Value};

use crate::refusal::Problems;

/// Lists of containers, those that the API server starts first before the others.
pub(crate) const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// How a pod takes part in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Sidecar,
    Shared,
    None,
}

/// A pod, or a template of pods.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod<'a> {
    pub(crate) spec: &'a Map<String, Value>,
    /// Empty if there is none.
    metadata: Option<&'a Map<String, Value>>,
}

/// A container and where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Container<'a> {
    pub(crate) list: &'static str,
    pub(crate) index: usize,
    pub(crate) value: &'a Value,
}

// === impl Mode ===

impl Mode {
    const NAMES: [&str; 3] = ["sidecar", "shared", "none"];

    fn parse(text: &str) -> Option<Self> {
        match text {
            "sidecar" => Some(Self::Sidecar),
            "shared" => Some(Self::Shared),
            "none" => Some(Self::None),
            _ => None,
        }
    }

    /// The mode that a label or annotation names; a wrong one is a problem of `field`.
    pub(crate) fn read(text: &str, field: &str, problems: &mut Problems) -> Option<Self> {
        let mode = Self::parse(text);
        if mode.is_none() {
            let remedy = match closest(text, Self::NAMES.into_iter()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => "write sidecar, shared or none".to_owned(),
            };
            problems.add(field, format!("{text:?} is no mode"), remedy);
        }
        mode
    }
}

// === impl Pod ===

impl<'a> Pod<'a> {
    /// `None` if it has no spec, or what should be lists or objects isn't.
    pub(crate) fn read(value: &'a Value) -> Option<Self> {
        let spec = value.get("spec")?.as_object()?;
        for list in LISTS.into_iter().chain(["volumes"]) {
            let list = spec.get(list).unwrap_or(&Value::Null);
            if !list.is_null() && !list.as_array().is_some_and(|entries| entries.iter().all(Value::is_object)) {
                return None;
            }
        }
        let metadata = match value.get("metadata") {
            None | Some(Value::Null) => None,
            Some(metadata) => Some(metadata.as_object()?),
        };
        let object = |name| match metadata.and_then(|metadata| metadata.get(name)) {
            None | Some(Value::Null | Value::Object(_)) => Some(()),
            Some(_) => None,
        };
        object("labels").and(object("annotations"))?;
        Some(Self { spec, metadata })
    }

    pub(crate) fn has_metadata(self) -> bool {
        self.metadata.is_some()
    }

    /// `None` if there is no such map.
    pub(crate) fn map(self, name: &str) -> Option<&'a Map<String, Value>> {
        self.metadata?.get(name)?.as_object()
    }

    pub(crate) fn label(self, key: &str) -> Option<&'a str> {
        self.map("labels")?.get(key)?.as_str()
    }

    pub(crate) fn annotation(self, key: &str) -> Option<&'a str> {
        self.map("annotations")?.get(key)?.as_str()
    }

    /// What the pod itself says, and the field in which it does.
    pub(crate) fn mode(self, problems: &mut Problems) -> Option<Mode> {
        if let Some(text) = self.label(MODE_LABEL) {
            return Mode::read(text, &format!("metadata.labels[{MODE_LABEL:?}]"), problems);
        }
        let text = self.annotation(MODE_LABEL)?;
        Mode::read(text, &format!("metadata.annotations[{MODE_LABEL:?}]"), problems)
    }

    /// `None` if there is no such list.
    pub(crate) fn list(self, name: &str) -> Option<&'a [Value]> {
        self.spec.get(name)?.as_array().map(Vec::as_slice)
    }

    pub(crate) fn containers(self) -> impl Iterator<Item = Container<'a>> {
        LISTS.into_iter().flat_map(move |list| {
            let entries = self.list(list).unwrap_or_default().iter().enumerate();
            entries.map(move |(index, value)| Container { list, index, value })
        })
    }

    /// Whether the spec says true.
    pub(crate) fn flag(self, name: &str) -> bool {
        self.spec.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// Whether it went through the injector: its containers and its word.
    pub(crate) fn is_injected(self) -> bool {
        let ours = |name: &str| self.list("initContainers").unwrap_or_default().iter().any(|of| of["name"] == *name);
        self.annotation(INJECTED_ANNOTATION).is_some() && ours(containers::REDIRECT) && ours(containers::GUARD)
    }
}

// === impl Container ===

impl<'a> Container<'a> {
    pub(crate) fn name(self) -> &'a str {
        self.value["name"].as_str().unwrap_or_default()
    }

    /// As in `spec.containers[0]`.
    pub(crate) fn field(self) -> String {
        format!("spec.{}[{}]", self.list, self.index)
    }

    /// Whether it is one of the injector's.
    pub(crate) fn is_ours(self) -> bool {
        self.list == "initContainers"
            && [containers::REDIRECT, containers::GUARD, containers::SIDECAR].contains(&self.name())
    }
}
