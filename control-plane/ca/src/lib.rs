//! Who may get which certificate: the caller's proven identity and nothing else.
//!
//! [`Authority`] signs, with the mesh's own root or with what somebody has brought ([`Signer`]); it knows no network.
//! [`Certificates`] is its thin gRPC edge. Neither authenticates: the caller's [`SpiffeId`](outrigger_wire::SpiffeId) is
//! found in the request's extensions, put there by whoever checked the credentials, or the call is refused. Nothing that a
//! caller asks for in its request is granted.

mod authority;
mod csr;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod service;
mod signer;

pub use authority::{Authority, AuthorityError, Issued, ServerCertificate};
pub use csr::CsrError;
pub use service::Certificates;
pub use signer::{Material, MaterialError, Part, Signer};
