//! Fuzz targets of what callers and servers send. `./dev fuzz` runs them by coverage, the tests below on their corpora in
//! `fuzz/corpus/`.

use rustls_pki_types::CertificateDer;

pub use crate::{
    http1::fuzz::{request as http1_request, response as http1_response},
    telemetry::access_log::fuzz::access_log,
};
use crate::{telemetry::trace::TraceContext, tls};

/// An identity is a certificate's own, and no byte may stand behind the certificate.
pub fn svid(data: &[u8]) {
    let claimed = |der: &[u8]| tls::spiffe_id(&CertificateDer::from(der));
    if let Ok(id) = claimed(data) {
        let id = id.as_str().as_bytes();
        assert!(data.windows(id.len()).any(|part| part == id), "it isn't in there");
        assert!(claimed(&[data, &[0]].concat()).is_err());
    }
}

/// A position in a trace is written as it was read.
pub fn traceparent(data: &[u8]) {
    let Some(context) = TraceContext::parse(data) else { return };
    let written = context.header_value();
    assert_eq!(TraceContext::parse(written.as_bytes()), Some(context));
    assert_eq!(written.as_bytes()[2..53], data[2..53]);
}

#[cfg(test)]
mod tests {
    outrigger_replay::replays! {
        http1_request: 50_000,
        http1_response: 50_000,
        access_log: 50_000,
        svid: 50_000,
        traceparent: 100_000,
    }
}
