//! Requests to a peer, one after the other on each connection.

use std::{future::poll_fn, rc::Rc, task::Poll};

use http::{Method, Request, Response, StatusCode, header};

use super::{
    Error, Receiving,
    decode::Decoder,
    encode::{self, Framing},
    parse::{self, ResponseHead},
    wire::Wire,
    write::{Outgoing, Unsent, scratch},
};
use crate::{
    http::{Arriving, Relay},
    pool::Failed,
    stream::Io,
};

/// Carries one request at a time.
pub(crate) struct Connection(Rc<Wire>);

impl Connection {
    pub(crate) fn new(io: impl Io) -> Self {
        Self(Wire::new(io))
    }

    /// Whether the peer has neither closed it nor said anything, as far as the event loop has heard.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// Whether both the last request and its answer are through, and both sides want to go on.
    pub(crate) fn is_reusable(&self) -> bool {
        let wire = &self.0;
        wire.keep.get() && !wire.unwritten.get() && wire.is_read() && wire.is_blank()
    }
}

/// Words before an answer. Who works on something for long may say so every 20 seconds (RFC 2518 section 10.1), for half an
/// hour; who never comes to an answer has no end.
const WORDS: usize = 100;

pub(crate) struct Answer {
    pub(crate) response: Response<Arriving>,
    /// `None`: it has changed its protocol.
    pub(crate) connection: Option<Connection>,
    /// What was asked, if it has no body.
    pub(crate) request: Option<Box<Request<Relay>>>,
}

/// Sends a request. What is left of its body when the answer begins is sent on beside it.
pub(crate) async fn send(
    Connection(wire): Connection,
    request: Box<Request<Relay>>,
    header_bytes: usize,
) -> Result<Answer, Failed> {
    let is_head = request.method() == Method::HEAD;
    let changes = request.headers().contains_key(header::UPGRADE);
    let mut out = scratch();
    let framing = encode::request(&mut out, &request);
    wire.unwritten.set(true);
    let (mut upload, mut whole) = (None, None);
    if framing == Framing::None {
        let mut sending = Outgoing::new(wire.clone(), out, Relay::Empty, framing);
        if let Err(broken) = poll_fn(|cx| sending.poll(cx)).await {
            return Err(Failed { error: Error::from(broken).into(), request: Some(request), unsent: !sending.begun });
        }
        wire.unwritten.set(false);
        whole = Some(request);
    } else {
        upload = Some(Box::new(Outgoing::new(wire.clone(), out, request.into_body(), framing)));
    }
    let mut words = 0;
    let head = loop {
        let head = match answer(&wire, &mut upload, header_bytes).await {
            Ok(head) => head,
            Err(error) => return Err(Failed { error: error.into(), request: whole, unsent: false }),
        };
        if head.parts.status == StatusCode::SWITCHING_PROTOCOLS {
            let bare = if changes && upload.is_none() { Rc::into_inner(wire) } else { None };
            let Some(wire) = bare else {
                let error = Error::Malformed("101 without having been asked for it");
                return Err(Failed { error: error.into(), request: None, unsent: false });
            };
            let response = Response::from_parts(head.parts, Arriving::Tunnel(wire.into_stream()));
            return Ok(Answer { response, connection: None, request: None });
        }
        if !head.parts.status.is_informational() {
            break head;
        }
        words += 1;
        if words > WORDS {
            let error = Error::Malformed("informational answers without end");
            return Err(Failed { error: error.into(), request: whole, unsent: false });
        }
    };
    wire.keep.set(head.keep);
    let comes = wire.expect(if is_head { Decoder::Done } else { head.body });
    let rest = upload.map(|rest| tokio::task::spawn_local(finish(rest, wire.clone())).abort_handle());
    let body = if comes {
        let mut body = Receiving::new(wire.clone());
        if let Some(rest) = rest {
            body.abort_with(rest);
        }
        Arriving::Http1(body)
    } else {
        Arriving::Empty
    };
    let response = Response::from_parts(head.parts, body);
    Ok(Answer { response, connection: Some(Connection(wire)), request: whole })
}

/// The next head that comes, while what is left of the request is sent.
async fn answer(
    wire: &Wire,
    upload: &mut Option<Box<Outgoing<Relay>>>,
    header_bytes: usize,
) -> Result<ResponseHead, Error> {
    let (mut seen, mut refused) = (0, None);
    let head = poll_fn(|cx| {
        if let Some(sending) = upload
            && let Poll::Ready(sent) = sending.poll(cx)
        {
            *upload = None;
            match sent {
                Ok(()) => wire.unwritten.set(false),
                // It may have answered before it closed.
                Err(Unsent::Peer(error)) => refused = Some(error),
                Err(Unsent::Source) => return Poll::Ready(Err(Error::Source)),
            }
        }
        wire.poll_head(cx, &mut seen, header_bytes, parse::response)
    });
    match (head.await, refused) {
        (Ok(Some(head)), _) => Ok(head),
        (_, Some(error)) => Err(Error::Io(error)),
        (Ok(None), None) => Err(Error::Cut),
        (Err(error), None) => Err(error),
    }
}

/// Sends the rest of a request whose answer has begun.
async fn finish(mut rest: Box<Outgoing<Relay>>, wire: Rc<Wire>) {
    match poll_fn(|cx| rest.poll(cx)).await {
        Ok(()) => wire.unwritten.set(false),
        Err(Unsent::Peer(error)) => tracing::debug!(%error, "the peer takes no more of a request"),
        // The peer mustn't wait for what never comes.
        Err(Unsent::Source) => drop(poll_fn(|cx| wire.poll_shutdown(cx)).await),
    }
}

impl From<Unsent> for Error {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Peer(error) => Self::Io(error),
            Unsent::Source => Self::Source,
        }
    }
}
