//! What the containers request and may use. A file names what differs; the rest keeps its default.

use serde::{Deserialize, Deserializer, Serialize, de};

/// By container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Partial")]
pub struct Resources {
    pub sidecar: ContainerResources,
    pub guard: ContainerResources,
    pub redirect: ContainerResources,
}

/// Of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerResources {
    pub requests: Amounts,
    pub limits: Amounts,
}

/// Kubernetes' quantities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Amounts {
    #[serde(deserialize_with = "amount", skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    #[serde(deserialize_with = "amount", skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// As it is written, before defaults are filled in. "" takes a default away.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Partial {
    sidecar: ContainerResources,
    guard: ContainerResources,
    redirect: ContainerResources,
}

/// Accepts numbers, which YAML makes of `cpu: 1`.
fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = Option<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a quantity such as 100m or 64Mi")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }

        fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Visitor)
}

// === impl Resources ===

impl Default for Resources {
    fn default() -> Self {
        let container = |cpu, memory, limit| ContainerResources {
            requests: Amounts::new(Some(cpu), Some(memory)),
            limits: Amounts::new(None, limit),
        };
        Self {
            sidecar: container("10m", "20Mi", Some("256Mi")),
            guard: container("5m", "8Mi", Some("64Mi")),
            redirect: container("10m", "16Mi", None),
        }
    }
}

impl From<Partial> for Resources {
    fn from(partial: Partial) -> Self {
        let mut resources = Self::default();
        resources.sidecar.merge(partial.sidecar);
        resources.guard.merge(partial.guard);
        resources.redirect.merge(partial.redirect);
        resources
    }
}

// === impl ContainerResources ===

impl ContainerResources {
    fn merge(&mut self, over: Self) {
        self.requests.merge(over.requests);
        self.limits.merge(over.limits);
    }
}

// === impl Amounts ===

impl Amounts {
    fn new(cpu: Option<&str>, memory: Option<&str>) -> Self {
        Self { cpu: cpu.map(str::to_owned), memory: memory.map(str::to_owned) }
    }

    fn merge(&mut self, over: Self) {
        for (own, over) in [(&mut self.cpu, over.cpu), (&mut self.memory, over.memory)] {
            if let Some(over) = over {
                *own = Some(over).filter(|amount| !amount.is_empty());
            }
        }
    }

    /// By Kubernetes' names.
    pub(crate) fn named(&self) -> [(&'static str, Option<&str>); 2] {
        [("cpu", self.cpu.as_deref()), ("memory", self.memory.as_deref())]
    }
}
