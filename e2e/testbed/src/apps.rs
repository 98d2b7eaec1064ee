//! Small apps for demo and tests: each a server that says who it is. They know nothing of the mesh.

use std::{convert::Infallible, future::Future, net::Ipv6Addr};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};

pub mod grpc;
pub mod http;
pub mod store;

/// Serves each connection on a task of its own, on every address of both families; says so once it does.
async fn serve<F>(name: &str, port: u16, mut one: impl FnMut(TcpStream) -> F) -> Result<Infallible>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await.with_context(|| format!("port {port}"))?;
    println!("{}", serde_json::json!({ "app": name, "listening": listener.local_addr()? }));
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        // An error here is the peer's early end; its own task will see it.
        let _ = stream.set_nodelay(true);
        tokio::spawn(one(stream));
    }
}
