//! One call of one of our demo apps, over a connection that the caller sees: opened when, by whom, reused or not. The
//! load client and the apps that call others share it. It knows nothing of the mesh, and tries nothing twice: it says
//! whether that would be safe.

use std::{
    error::Error,
    fmt, io,
    net::SocketAddr,
    str::FromStr,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};
use tonic::codegen::{BoxFuture, Service};

use crate::{
    apps::grpc::{CartReply, CartRequest, METHOD},
    apps::store::GREETING,
    now_us,
    samples::Outcome,
};

/// Sent with a call, and given back by the app that answered: a wrong one is somebody else's answer.
pub const NONCE: &str = "x-nonce";
/// Which version of an app answered.
pub const VERSION: &str = "x-version";

/// `http://ADDRESS:PORT/PATH`, `grpc://ADDRESS:PORT` or `store://ADDRESS:PORT`, of our own apps; `echo://ADDRESS:PORT/PATH`
/// or `grpc-echo://ADDRESS:PORT`, of podinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub kind: Kind,
    pub address: SocketAddr,
    /// From the slash on; only HTTP has one.
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Http,
    Grpc,
    /// The TCP store, whose server speaks first.
    Store,
    /// A POST whose body comes back.
    Echo,
    /// podinfo's gRPC method of the same.
    GrpcEcho,
}

/// A connection on which calls follow one another.
#[derive(Debug)]
pub struct Connection {
    /// When `connect` had succeeded, by [`now_us`].
    pub opened: u64,
    stream: Stream,
}

#[derive(Debug)]
enum Stream {
    Http(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<tonic::body::Body>),
    Store(Box<BufStream<TcpStream>>),
}

/// How an answered call went: what the app said of its version.
pub type Answer = Result<String, Outcome>;

// === impl Target ===

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("a target is KIND://ADDRESS:PORT")?;
        let kind = match scheme {
            "http" => Kind::Http,
            "grpc" => Kind::Grpc,
            "store" => Kind::Store,
            "echo" => Kind::Echo,
            "grpc-echo" => Kind::GrpcEcho,
            other => return Err(format!("unknown kind {other}: http, grpc, store, echo or grpc-echo")),
        };
        let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { kind, address, path: path.to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Http => "http",
            Kind::Grpc => "grpc",
            Kind::Store => "store",
            Kind::Echo => "echo",
            Kind::GrpcEcho => "grpc-echo",
        };
        write!(f, "{kind}://{}{}", self.address, self.path)
    }
}

// === impl Connection ===

impl Connection {
    /// Opens one; an error is the outcome of the call that it was for.
    pub async fn open(target: &Target) -> Result<Self, Outcome> {
        let tcp = TcpStream::connect(target.address).await.map_err(|error| outcome(&error))?;
        let opened = now_us();
        tcp.set_nodelay(true).map_err(|error| outcome(&error))?;
        let stream = match target.kind {
            Kind::Http | Kind::Echo => {
                let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(|_| Outcome::Reset)?;
                tokio::spawn(connection);
                Stream::Http(sender)
            }
            Kind::Grpc | Kind::GrpcEcho => {
                let io = TokioIo::new(tcp);
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), io).await.map_err(|_| Outcome::Reset)?;
                tokio::spawn(connection);
                Stream::Grpc(sender)
            }
            Kind::Store => Stream::Store(Box::new(greeted(tcp).await?)),
        };
        Ok(Self { opened, stream })
    }

    /// Whether the other end has kept it so far.
    pub fn is_open(&self) -> bool {
        match &self.stream {
            Stream::Http(sender) => !sender.is_closed(),
            Stream::Grpc(sender) => !sender.is_closed(),
            Stream::Store(_) => true,
        }
    }

    /// One call, to its last byte.
    pub async fn call(&mut self, target: &Target, nonce: u64, headers: &HeaderMap) -> Answer {
        match &mut self.stream {
            Stream::Http(sender) => http(sender, target, nonce, headers).await,
            Stream::Grpc(sender) if target.kind == Kind::GrpcEcho => {
                let sent = Echoed { body: nonce.to_string() };
                let reply: Echoed = unary(sender.clone(), target, ECHO_METHOD, sent.clone(), headers).await?;
                if reply == sent { Ok(String::new()) } else { Err(Outcome::Wrong) }
            }
            Stream::Grpc(sender) => {
                let reply: CartReply = unary(sender.clone(), target, METHOD, CartRequest { nonce }, headers).await?;
                if reply.nonce == nonce { Ok(reply.version) } else { Err(Outcome::Wrong) }
            }
            Stream::Store(stream) => store(stream, nonce).await.map_err(|error| outcome(&error)),
        }
    }
}

/// Open, one call, close.
pub async fn once(target: &Target, nonce: u64, headers: &HeaderMap) -> Answer {
    Connection::open(target).await?.call(target, nonce, headers).await
}

async fn http(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    target: &Target,
    nonce: u64,
    headers: &HeaderMap,
) -> Answer {
    let mut request = Request::new(Full::default());
    if target.kind == Kind::Echo {
        *request.method_mut() = Method::POST;
        *request.body_mut() = nonce.to_string().into();
    }
    *request.uri_mut() = target.path.parse().map_err(|_| Outcome::Wrong)?;
    *request.headers_mut() = headers.clone();
    let host = target.address.to_string().parse().map_err(|_| Outcome::Wrong)?;
    request.headers_mut().entry(http::header::HOST).or_insert(host);
    request.headers_mut().insert(NONCE, nonce.into());
    // After the answer before, the connection's task may not have come round to saying that it's free.
    sender.ready().await.map_err(|error| broken(&error))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|_| Outcome::Reset)?.to_bytes();
    if target.kind == Kind::Echo {
        return echoed(head.status, &body, nonce);
    }
    if head.status != StatusCode::OK {
        return Err(Outcome::Status(head.status.as_u16()));
    }
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if text(NONCE) != nonce.to_string() {
        return Err(Outcome::Wrong);
    }
    Ok(text(VERSION).to_owned())
}

/// podinfo answers 202 with the body, or 200 with a list of its backends' answers. Of a backend that failed it says so in
/// words, with 200 all the same.
fn echoed(status: StatusCode, body: &[u8], nonce: u64) -> Answer {
    let body = String::from_utf8_lossy(body);
    match status {
        StatusCode::OK | StatusCode::ACCEPTED if body.contains("backend ") => Err(Outcome::Status(502)),
        StatusCode::OK | StatusCode::ACCEPTED => {
            let answer = body.trim_matches(|c: char| !c.is_ascii_digit());
            if answer == nonce.to_string() { Ok(String::new()) } else { Err(Outcome::Wrong) }
        }
        other => Err(Outcome::Status(other.as_u16())),
    }
}

/// podinfo's gRPC echo.
const ECHO_METHOD: &str = "/echo.EchoService/Echo";

#[derive(Clone, PartialEq, prost::Message)]
struct Echoed {
    #[prost(string, tag = "1")]
    body: String,
}

/// What tonic's client needs to speak over a connection of ours.
#[derive(Debug, Clone)]
struct OneConnection(http2::SendRequest<tonic::body::Body>);

impl Service<Request<tonic::body::Body>> for OneConnection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn unary<Q, R>(
    sender: http2::SendRequest<tonic::body::Body>,
    target: &Target,
    method: &'static str,
    message: Q,
    headers: &HeaderMap,
) -> Result<R, Outcome>
where
    Q: prost::Message + 'static,
    R: prost::Message + Default + 'static,
{
    let origin = format!("http://{}", target.address).parse().map_err(|_| Outcome::Wrong)?;
    let mut client = tonic::client::Grpc::with_origin(OneConnection(sender), origin);
    client.ready().await.map_err(|error| broken(&error))?;
    let mut request = tonic::Request::new(message);
    *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers.clone());
    let path = http::uri::PathAndQuery::from_static(method);
    match client.unary(request, path, tonic_prost::ProstCodec::<Q, R>::default()).await {
        Ok(reply) => Ok(reply.into_inner()),
        // A status that tonic made of a broken connection carries its source.
        Err(status) if status.source().is_some() => Err(broken(&status)),
        Err(status) => Err(Outcome::Grpc(u16::try_from(i32::from(status.code())).unwrap_or(u16::MAX))),
    }
}

/// What became of a call whose connection broke.
fn broken(error: &(dyn Error + 'static)) -> Outcome {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let unsent = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
            || error.downcast_ref::<h2::Error>().is_some_and(|error| {
                error.reason() == Some(h2::Reason::REFUSED_STREAM)
                    || (error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR))
            });
        if unsent {
            return Outcome::Unsent;
        }
        cause = error.source();
    }
    Outcome::Reset
}

async fn greeted(tcp: TcpStream) -> Result<BufStream<TcpStream>, Outcome> {
    let mut stream = BufStream::new(tcp);
    match line(&mut stream).await {
        Ok(greeting) if greeting == GREETING => Ok(stream),
        Ok(_) => Err(Outcome::Wrong),
        Err(error) => Err(outcome(&error)),
    }
}

/// Writes a value under a key of its own and reads it back.
async fn store(stream: &mut BufStream<TcpStream>, nonce: u64) -> io::Result<String> {
    let key = nonce % 1024;
    stream.write_all(format!("SET k{key} {nonce}\nGET k{key}\n").as_bytes()).await?;
    stream.flush().await?;
    let (stored, value) = (line(stream).await?, line(stream).await?);
    // Others may have written in between, so the value need not be ours, but it's a number.
    if stored != "STORED" || value.strip_prefix("VALUE ").and_then(|number| number.parse::<u64>().ok()).is_none() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(String::new())
}

async fn line(stream: &mut BufStream<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    match line.strip_suffix('\n') {
        Some(text) => Ok(text.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn outcome(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::TimedOut => Outcome::Timeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Outcome::Unreachable,
        io::ErrorKind::InvalidData => Outcome::Wrong,
        _ => Outcome::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podinfos_answers() {
        for (status, body, want) in [
            (202, "17", Ok(String::new())),
            (200, "[\n  \"17\"\n]", Ok(String::new())),
            (200, "[\n  \"18\"\n]", Err(Outcome::Wrong)),
            (200, "[\"backend http://b:9898/echo response status code 503\"]", Err(Outcome::Status(502))),
            (503, "17", Err(Outcome::Status(503))),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(echoed(status, body.as_bytes(), 17), want, "{status} {body}");
        }
    }

    #[test]
    fn targets() {
        for text in [
            "http://10.96.0.1:80/shop?x=1",
            "http://[fd77::1]:80/",
            "grpc://10.96.0.1:80/",
            "store://1.2.3.4:5/",
            "echo://1.2.3.4:5/echo",
            "grpc-echo://1.2.3.4:5/",
        ] {
            assert_eq!(text.parse::<Target>().map(|target| target.to_string()).as_deref(), Ok(text));
        }
        for text in ["10.96.0.1:80", "ftp://10.96.0.1:80", "http://shop/", "http://10.96.0.1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
