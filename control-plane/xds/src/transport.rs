//! gRPC, as tonic's generated server would do it, but for what stays behind: tonic encodes into a buffer that grows with the
//! largest message and lives as long as its stream. With thousands of streams that are idle for hours that is more than all
//! else that they need, so here each message has memory of its own, for as long as it is on its way.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{
    Status, Streaming,
    body::Body,
    codec::BufferSettings,
    codegen::{BoxFuture, Service},
    server::NamedService,
};
use tonic_prost::ProstDecoder;

use crate::Ads;

/// Longest request in bytes: `initial_resource_versions` of a proxy that holds the whole mesh.
const MAX_REQUEST: usize = 16 << 20;
/// Bytes that are held ready for requests: most are acknowledgements.
const REQUEST: usize = 512;
/// "Not compressed" and the length, before each message.
const HEADER: usize = 5;

/// One side of a stream, in the order of sending; what ends it with an error comes last.
pub(crate) type Outgoing = mpsc::Sender<Result<Bytes, Status>>;

/// The messages of one response.
pub(crate) struct Responses(Option<mpsc::Receiver<Result<Bytes, Status>>>);

/// A request's messages.
pub(crate) fn incoming<M: Message + Default + 'static>(body: Body) -> Streaming<M> {
    let buffers = BufferSettings::new(REQUEST, REQUEST);
    Streaming::new_request(ProstDecoder::new(buffers), body, None, Some(MAX_REQUEST))
}

/// A message as it is sent.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEADER + length);
    frame.put_u8(0);
    // A push is far from 4 GiB; one that were longer would be refused by every client.
    frame.put_u32(length.try_into().unwrap_or(u32::MAX));
    message.encode_raw(&mut frame);
    frame.freeze()
}

// === impl Responses ===

impl Responses {
    pub(crate) fn response(messages: mpsc::Receiver<Result<Bytes, Status>>) -> Response<Body> {
        let mut response = Response::new(Body::new(Self(Some(messages))));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }
}

impl http_body::Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(messages) = &mut self.0 else { return Poll::Ready(None) };
        let status = match ready!(messages.poll_recv(cx)) {
            Some(Ok(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.0 = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

// === impl Ads ===

impl NamedService for Ads {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<Request<Body>> for Ads {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let response = self.answer(request);
        Box::pin(async move { Ok(response) })
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use outrigger_wire::proto::discovery::DeltaDiscoveryResponse;
    use tonic::Code;

    use super::*;

    fn next(responses: &mut Responses) -> Option<Frame<Bytes>> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(frame) = Pin::new(responses).poll_frame(&mut cx) else { panic!("nothing is ready") };
        frame.map(Result::unwrap)
    }

    #[test]
    fn messages_and_then_how_it_ended() {
        for (error, code) in [(None, Code::Ok), (Some(Status::unavailable("over")), Code::Unavailable)] {
            let message = DeltaDiscoveryResponse { nonce: "7".repeat(300), ..DeltaDiscoveryResponse::default() };
            let (sender, receiver) = mpsc::channel(2);
            sender.try_send(Ok(framed(&message))).unwrap();
            if let Some(status) = error {
                sender.try_send(Err(status)).unwrap();
            }
            drop(sender);
            let mut responses = Responses(Some(receiver));
            let data = next(&mut responses).unwrap().into_data().unwrap();
            assert_eq!(data[..HEADER], [0, 0, 0, (message.encoded_len() >> 8) as u8, message.encoded_len() as u8]);
            assert_eq!(DeltaDiscoveryResponse::decode(&data[HEADER..]).unwrap(), message);
            let trailers = next(&mut responses).unwrap().into_trailers().unwrap();
            assert_eq!(Status::from_header_map(&trailers).unwrap().code(), code);
            assert!(next(&mut responses).is_none() && responses.is_end_stream());
        }
    }
}
