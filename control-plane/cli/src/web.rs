//! HTTP GET over whatever stream leads to an admin page: a socket, or a port forwarded by the API server.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    body::Bytes,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

/// Largest page that is read.
const LARGEST: usize = 256 * 1024 * 1024;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// One kept-alive connection.
pub(crate) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// For each page, its body included.
    limit: Duration,
}

// === impl Connection ===

impl Connection {
    pub(crate) async fn new<S>(stream: S, limit: Duration) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender; what goes wrong is told to whoever waits for an answer.
        tokio::spawn(connection);
        Ok(Self { sender, limit })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Page> {
        let request = Request::get(path).header(header::HOST, "localhost").body(Empty::new())?;
        let answered = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            anyhow::Ok(Page { status, body })
        };
        let answer = tokio::time::timeout(self.limit, answered).await;
        answer.unwrap_or_else(|_| bail!("no answer within {:?}", self.limit)).with_context(|| format!("GET {path}"))
    }
}

// === impl Page ===

impl Page {
    /// The page as JSON; an error if it isn't there.
    pub(crate) fn json(&self) -> Result<Value> {
        if !self.status.is_success() {
            bail!("answered {}", self.status);
        }
        serde_json::from_slice(&self.body).context("not JSON")
    }
}
