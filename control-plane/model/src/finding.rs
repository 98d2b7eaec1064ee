//! What is wrong with the inputs. A finding never stops the build: what it is about is left out, or fails closed.

use std::fmt;

/// One thing that its author should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// `KIND/NAMESPACE/NAME`.
    pub object: String,
    /// Path of the field in the object, such as `spec.rules[0].backendRefs[1]`.
    pub field: String,
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

// === impl Finding ===

impl Finding {
    pub fn new(object: &str, field: &str, message: String, remedy: &str) -> Self {
        Self { object: object.to_owned(), field: field.to_owned(), message, remedy: remedy.to_owned() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} ({})", self.object, self.field, self.message, self.remedy)
    }
}
