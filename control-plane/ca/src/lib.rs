//! Who may get which certificate: the caller's proven identity and nothing else.
//!
//! [`Authority`] is the mesh's own root and signs; it knows no network. [`Certificates`] is its thin gRPC edge. Neither
//! authenticates: the caller's [`SpiffeId`](outrigger_wire::SpiffeId) is found in the request's extensions, put there by
//! whoever checked the credentials, or the call is refused. Nothing that a caller asks for in its request is granted.

mod authority;
mod csr;
mod service;

pub use authority::{Authority, AuthorityError, Issued, ServerCertificate};
pub use csr::CsrError;
pub use service::Certificates;
