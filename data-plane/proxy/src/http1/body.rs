//! A body as it comes.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::{Error, wire::Wire};

/// Read from its connection as it is asked for, so whoever doesn't ask slows the peer down.
pub(crate) struct Receiving {
    wire: Rc<Wire>,
    /// Of the request whose answer this is, if its body hasn't been sent to its end.
    upload: Option<AbortHandle>,
}

impl Receiving {
    pub(super) fn new(wire: Rc<Wire>) -> Self {
        Self { wire, upload: None }
    }

    /// Ends the upload when this is dropped before its own end: nobody will see what comes of it.
    pub(super) fn abort_with(&mut self, upload: AbortHandle) {
        self.upload = Some(upload);
    }
}

impl Body for Receiving {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.wire.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.wire.is_read()
    }

    fn size_hint(&self) -> SizeHint {
        self.wire.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take()
            && !self.wire.is_read()
        {
            upload.abort();
        }
        self.wire.release();
    }
}
