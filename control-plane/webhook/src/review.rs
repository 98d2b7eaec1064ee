//! The JSON edge: an AdmissionReview (`admission.k8s.io/v1`) in, one out. No side effects, so a dry run is like any
//! other.

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    InjectorConfig, NamespaceView, Outcome, Untouched, inject,
    validate::{self, Judgement},
};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Longest message of a denial, in bytes: what a terminal shows.
const MAX_MESSAGE: usize = 8 << 10;
/// API servers cut longer ones off.
const MAX_WARNING: usize = 250;
const MAX_WARNINGS: usize = 10;

/// A question of the API server.
#[derive(Debug, Clone)]
pub struct Review {
    request: Request,
}

/// Not an AdmissionReview that can be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no AdmissionReview of {API_VERSION} with a request: {0}")]
pub struct BadReview(String);

/// What is sent back, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub verdict: Verdict,
    /// For the log; "" if there is nothing to say.
    pub message: String,
    /// JSON, to be answered with HTTP 200.
    pub body: Vec<u8>,
}

/// What came of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Injected,
    Untouched,
    Refused,
    /// The namespace isn't known yet; asking again helps.
    Unknown,
    Allowed,
    Denied,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(default)]
    kind: GroupKind,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct GroupKind {
    group: String,
    kind: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

// === impl Review ===

impl Review {
    /// # Errors
    /// If the body is no AdmissionReview of version 1 with a request. There is no uid then, so that the edge answers with
    /// HTTP 400.
    pub fn parse(body: &[u8]) -> Result<Self, BadReview> {
        let envelope: Envelope = serde_json::from_slice(body).map_err(|error| BadReview(error.to_string()))?;
        if envelope.api_version != API_VERSION || envelope.kind != KIND {
            return Err(BadReview(format!("it is a {} of {}", envelope.kind, envelope.api_version)));
        }
        match envelope.request {
            Some(request) if request.uid.is_empty() => Err(BadReview("its uid is empty".to_owned())),
            Some(request) => Ok(Self { request }),
            None => Err(BadReview("there is none".to_owned())),
        }
    }

    /// The object's namespace; "" for cluster-scoped ones.
    pub fn namespace(&self) -> &str {
        self.request.namespace.as_deref().unwrap_or_default()
    }

    /// Gives a pod its proxies. `namespace` is the one of [`namespace`](Self::namespace), `None` if it isn't known.
    pub fn inject(&self, namespace: Option<&NamespaceView>, config: &InjectorConfig) -> Answer {
        let request = &self.request;
        let created = request.operation == "CREATE" && self.whole();
        if !created || !request.kind.group.is_empty() || request.kind.kind != "Pod" {
            return self.allow(Verdict::Untouched, Untouched::NotAPod.to_string(), Vec::new());
        }
        let Some(namespace) = namespace else {
            let message = format!("namespace {} isn't known here yet; try again", self.namespace());
            return self.deny(Verdict::Unknown, (503, "ServiceUnavailable"), message);
        };
        match inject(&request.object, namespace, config) {
            Ok(Outcome::Untouched { why, warnings }) => self.allow(Verdict::Untouched, why.to_string(), warnings),
            Ok(Outcome::Patched { patch, warnings }) => match serde_json::to_vec(&patch) {
                Ok(patch) => self.answer(Verdict::Injected, String::new(), Some(patch), warnings, None),
                Err(error) => self.deny(Verdict::Refused, (500, "InternalError"), error.to_string()),
            },
            Err(refusal) => {
                let name = self.name();
                let lines: Vec<String> = refusal.to_string().lines().map(|line| format!("{name}: {line}")).collect();
                self.deny(Verdict::Refused, (422, "Invalid"), lines.join("\n"))
            }
        }
    }

    /// Judges an object of our kinds, a route or a namespace; anything else is allowed.
    pub fn validate(&self) -> Answer {
        let request = &self.request;
        let written = ["CREATE", "UPDATE"].contains(&request.operation.as_str()) && self.whole();
        if !written {
            return self.allow(Verdict::Allowed, String::new(), Vec::new());
        }
        let Judgement { problems, warnings } =
            validate::judge(&request.kind.group, &request.kind.kind, &request.object, &request.old_object);
        if problems.is_empty() {
            return self.allow(Verdict::Allowed, String::new(), warnings);
        }
        let name = self.name();
        let lines: Vec<String> = problems.iter().map(|problem| format!("{name}: {problem}")).collect();
        self.deny(Verdict::Denied, (422, "Invalid"), lines.join("\n"))
    }

    /// Whether the object itself is meant, not its status or the like.
    fn whole(&self) -> bool {
        self.request.sub_resource.as_deref().unwrap_or_default().is_empty()
    }

    /// `KIND/NAMESPACE/NAME`; of a pod that has no name yet, what its name will begin with.
    fn name(&self) -> String {
        let Request { kind, name, object, .. } = &self.request;
        let metadata = &object["metadata"];
        let given = [name.as_deref(), metadata["name"].as_str(), metadata["generateName"].as_str()];
        let name = given.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or("?");
        match self.namespace() {
            "" => format!("{}/{name}", kind.kind),
            namespace => format!("{}/{namespace}/{name}", kind.kind),
        }
    }

    fn allow(&self, verdict: Verdict, message: String, warnings: Vec<String>) -> Answer {
        self.answer(verdict, message, None, warnings, None)
    }

    fn deny(&self, verdict: Verdict, (code, reason): (u16, &'static str), mut message: String) -> Answer {
        cut(&mut message, MAX_MESSAGE);
        let status = Status { code, reason, message: message.clone() };
        self.answer(verdict, message, None, Vec::new(), Some(status))
    }

    fn answer(
        &self,
        verdict: Verdict,
        message: String,
        patch: Option<Vec<u8>>,
        mut warnings: Vec<String>,
        status: Option<Status>,
    ) -> Answer {
        warnings.truncate(MAX_WARNINGS);
        for warning in &mut warnings {
            cut(warning, MAX_WARNING);
        }
        let response = Response {
            uid: &self.request.uid,
            allowed: status.is_none(),
            patch_type: patch.as_ref().map(|_| "JSONPatch"),
            patch: patch.map(ByteString),
            warnings,
            status,
        };
        let reply = Reply { api_version: API_VERSION, kind: KIND, response };
        let body = serde_json::to_vec(&reply).expect("strings, numbers and lists of them are JSON");
        Answer { verdict, message, body }
    }
}

/// Cuts at a character.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
}

// === impl Verdict ===

impl Verdict {
    /// As a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Untouched => "untouched",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}
