//! Who a caller is, by its bearer token: the one question that all ports ask, however tokens are checked.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, header};
use outrigger_xds::Principal;

use crate::{token_review::TokenReviews, tokens::TokenFiles};

/// How tokens are checked.
pub(crate) enum Authenticator {
    /// Files of the embedded mode.
    Files(TokenFiles),
    /// The API server, which made them.
    Reviews(Arc<TokenReviews>),
}

/// Why a caller isn't let in. It hears no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its token is no good.
    Denied,
    /// Whoever knows can't be asked now.
    Unavailable,
}

// === impl Authenticator ===

impl Authenticator {
    pub(crate) async fn authenticate(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<Principal, Refusal> {
        let Some(token) = bearer(headers) else {
            tracing::warn!(%peer, "a call without token was refused");
            return Err(Refusal::Denied);
        };
        match self {
            Self::Files(files) => files.authenticate(token).map_err(|error| {
                tracing::warn!(%peer, %error, "a call was refused");
                Refusal::Denied
            }),
            Self::Reviews(reviews) => reviews.principal(token).await.map_err(|error| {
                tracing::warn!(%peer, %error, "a call was refused");
                error.refusal()
            }),
        }
    }
}

/// The token of an `authorization` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
}
