//! One HTTP call by name, as a person would make it with curl: everything that came back, as JSON.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::{net::TcpStream, time::timeout};

/// For the whole call, the name's look-up included.
const LIMIT: Duration = Duration::from_secs(10);

/// `{"status":…,"headers":{…},"body":…}`, or `{"error":…}`. A body of JSON is given as such.
pub async fn once(url: &Uri, method: &Method, headers: &[(HeaderName, HeaderValue)]) -> Value {
    match timeout(LIMIT, call(url, method, headers)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => json!({ "error": format!("{error:#}") }),
        Err(_) => json!({ "error": "timeout" }),
    }
}

async fn call(url: &Uri, method: &Method, headers: &[(HeaderName, HeaderValue)]) -> Result<Value> {
    let host = url.host().context("no host")?;
    let authority = url.authority().context("no authority")?.as_str();
    let stream =
        TcpStream::connect((host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80))).await.context("connect")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, authority);
    for (name, value) in headers {
        // A Host of the caller's own takes the place of ours.
        if name == header::HOST {
            request.headers_mut().context("a bad request")?.remove(header::HOST);
        }
        request = request.header(name, value);
    }
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = answer.status().as_u16();
    let said: Map<String, Value> = answer
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let body = answer.into_body().collect().await?.to_bytes();
    let body =
        serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned()));
    Ok(json!({ "status": status, "headers": said, "body": body }))
}
