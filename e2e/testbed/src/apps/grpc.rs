//! The cart: one unary gRPC method, with messages written by hand so that there is no build script.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::Ipv6Addr,
    task::{Context, Poll},
};

use anyhow::{Context as _, Result};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service},
    server::{NamedService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;

/// Path of the method.
pub const METHOD: &str = "/shop.Cart/Get";

#[derive(Clone, PartialEq, prost::Message)]
pub struct CartRequest {
    #[prost(uint64, tag = "1")]
    pub nonce: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CartReply {
    #[prost(uint64, tag = "1")]
    pub nonce: u64,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Debug, Clone)]
struct Cart {
    version: String,
}

/// Serves until the process ends.
pub async fn run(port: u16, version: String) -> Result<Infallible> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await.with_context(|| format!("port {port}"))?;
    println!("{}", serde_json::json!({ "app": "cart", "listening": listener.local_addr()? }));
    let incoming = TcpListenerStream::new(listener);
    Server::builder().tcp_nodelay(true).add_service(Cart { version }).serve_with_incoming(incoming).await?;
    anyhow::bail!("the listener has ended")
}

// === impl Cart ===

impl NamedService for Cart {
    const NAME: &'static str = "shop.Cart";
}

impl Service<Request<Body>> for Cart {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented(request.uri().path().to_owned()).into_http());
            }
            let codec = ProstCodec::<CartReply, CartRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(method, request).await)
        })
    }
}

impl UnaryService<CartRequest> for Cart {
    type Response = CartReply;
    type Future = Ready<Result<tonic::Response<CartReply>, Status>>;

    fn call(&mut self, request: tonic::Request<CartRequest>) -> Self::Future {
        let nonce = request.get_ref().nonce;
        ready(Ok(tonic::Response::new(CartReply { nonce, version: self.version.clone() })))
    }
}
