//! The gRPC edge of the authority.

use std::{sync::Arc, time::Duration};

use outrigger_wire::{
    SpiffeId,
    proto::ca::{
        IssueRequest, IssueResponse,
        certificate_authority_server::{CertificateAuthority, CertificateAuthorityServer},
    },
};
use tonic::{Request, Response, Status};

use crate::{Authority, AuthorityError};

/// Longest message in bytes: a certification request and some framing.
const MAX_REQUEST: usize = 32 * 1024;

/// Issues each caller a certificate for the identity that it has proven.
#[derive(Debug, Clone)]
pub struct Certificates {
    authority: Arc<Authority>,
    ttl: Duration,
}

// === impl Certificates ===

impl Certificates {
    /// `ttl` is the lifetime of workload certificates.
    pub fn new(authority: Arc<Authority>, ttl: Duration) -> Self {
        Self { authority, ttl }
    }

    /// The service to be added to a router.
    pub fn into_service(self) -> CertificateAuthorityServer<Self> {
        CertificateAuthorityServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }
}

#[tonic::async_trait]
impl CertificateAuthority for Certificates {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let identity = request
            .extensions()
            .get::<SpiffeId>()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("the caller has not proven who it is"))?;
        let issued = self.authority.sign(&request.get_ref().csr, &identity, self.ttl).map_err(|error| match error {
            AuthorityError::Csr(reason) => Status::invalid_argument(reason.to_string()),
            AuthorityError::Waits => Status::unavailable(AuthorityError::Waits.to_string()),
            error => {
                tracing::error!(%identity, %error, "no certificate could be issued");
                Status::internal("no certificate could be issued")
            }
        })?;
        tracing::info!(%identity, not_after = issued.not_after, "certificate issued");
        Ok(Response::new(IssueResponse {
            chain: issued.chain,
            roots: self.authority.roots(),
            not_before: issued.not_before,
            not_after: issued.not_after,
            anchor: issued.anchor,
        }))
    }
}
