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
    /// What a program may go by.
    pub reason: Reason,
}

/// Kinds of findings, as the Gateway API names them where it has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A route's parent doesn't exist, or lacks the port.
    NoMatchingParent,
    /// What a policy is for doesn't exist, or the policy doesn't reach it.
    TargetNotFound,
    /// A value that this mesh doesn't support; what it was to act on fails closed.
    UnsupportedValue,
    /// A value that means nothing.
    Invalid,
    /// Another object has the same already; what it has counts.
    Conflicted,
    /// A reference to something that doesn't exist.
    BackendNotFound,
    /// A reference into a namespace that doesn't permit it.
    RefNotPermitted,
    /// A reference to something of a kind that can't be used there.
    InvalidKind,
    /// A reference to something that speaks another protocol.
    UnsupportedProtocol,
    /// An older object is for the same; where both say something, that one counts.
    Overridden,
    /// Something that has no effect; all else holds.
    Ignored,
}

/// What a finding says of its object as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// The object, or a part of it, isn't in force as written.
    Acceptance,
    /// A reference doesn't resolve.
    References,
    /// Worth knowing, no more.
    Notice,
}

// === impl Finding ===

impl Finding {
    pub fn new(object: &str, field: &str, reason: Reason, message: String, remedy: &str) -> Self {
        Self { object: object.to_owned(), field: field.to_owned(), message, remedy: remedy.to_owned(), reason }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} ({})", self.object, self.field, self.message, self.remedy)
    }
}

// === impl Reason ===

impl Reason {
    /// As in a condition's `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoMatchingParent => "NoMatchingParent",
            Self::TargetNotFound => "TargetNotFound",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::Invalid => "Invalid",
            Self::Conflicted => "Conflicted",
            Self::BackendNotFound => "BackendNotFound",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::InvalidKind => "InvalidKind",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::Overridden => "Overridden",
            Self::Ignored => "Ignored",
        }
    }

    pub fn concern(self) -> Concern {
        match self {
            Self::NoMatchingParent
            | Self::TargetNotFound
            | Self::UnsupportedValue
            | Self::Invalid
            | Self::Conflicted => Concern::Acceptance,
            Self::BackendNotFound | Self::RefNotPermitted | Self::InvalidKind | Self::UnsupportedProtocol => {
                Concern::References
            }
            Self::Overridden | Self::Ignored => Concern::Notice,
        }
    }
}
