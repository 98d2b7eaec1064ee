//! What requests to an API server have in common.

/// An error in one line. The library's own words hold the whole answer twice.
pub(crate) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server answered {}: {}", status.code, status.message),
        kube::Error::Service(source) => format!("the API server can't be reached: {source}"),
        other => other.to_string(),
    }
}
