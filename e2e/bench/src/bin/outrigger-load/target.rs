//! What a URL and the options beside it say.

use std::{fmt, net::SocketAddr, str::FromStr};

use anyhow::{Context, Error, Result, bail};
use clap::Args;
use http::{HeaderName, HeaderValue, Request, Uri};
use tokio::net::TcpStream;

use crate::failure::Failure;

#[derive(Debug, Clone, Args)]
pub(crate) struct To {
    /// http:// (1.1, keep-alive), h2:// (prior knowledge), grpc:// (unary echo), grpc-stream:// (echo within a stream),
    /// tcp:// (echo) or tcp-bulk:// (echo, as much as goes), each with IP:PORT
    #[arg(long, value_name = "URL")]
    pub(crate) to: Target,
    /// Bytes of a message, for gRPC and TCP
    #[arg(long, default_value_t = 1024)]
    pub(crate) size: usize,
    /// Sent with each request; `host` replaces the address
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<Header>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    pub(crate) address: SocketAddr,
    /// With what is asked for behind it.
    pub(crate) path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Http2,
    Grpc,
    GrpcStream,
    Tcp,
    TcpBulk,
}

#[derive(Debug, Clone)]
pub(crate) struct Header {
    name: HeaderName,
    value: HeaderValue,
}

// === impl Scheme ===

impl Scheme {
    const ALL: [(&str, Self); 6] = [
        ("http", Self::Http),
        ("h2", Self::Http2),
        ("grpc", Self::Grpc),
        ("grpc-stream", Self::GrpcStream),
        ("tcp", Self::Tcp),
        ("tcp-bulk", Self::TcpBulk),
    ];

    pub(crate) fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcStream)
    }
}

// === impl Target ===

impl Target {
    pub(crate) async fn connect(&self) -> Result<TcpStream, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").context("a URL such as http://10.0.0.1:80/")?;
        let Some((_, scheme)) = Scheme::ALL.into_iter().find(|(name, _)| *name == scheme) else {
            bail!("{scheme}:// is none of {}", Scheme::ALL.map(|(name, _)| name).join(", "));
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let address = host.parse().or_else(|_| format!("{host}:80").parse());
        let address = address.with_context(|| format!("{host}: an IP address and a port, names aren't resolved"))?;
        let path = match (path, scheme) {
            ("", Scheme::Grpc | Scheme::GrpcStream) => "/outrigger.load.Echo/Echo",
            ("", _) => "/",
            (path, _) => path,
        };
        Ok(Self { scheme, address, path: path.to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Scheme::ALL.into_iter().find(|(_, scheme)| *scheme == self.scheme).map_or("", |(name, _)| name);
        write!(f, "{name}://{}{}", self.address, self.path)
    }
}

// === impl Header ===

impl FromStr for Header {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let (name, value) = line.split_once(':').with_context(|| format!("{line}: a header has a colon"))?;
        let name = name.trim().parse().with_context(|| format!("header {name:?}"))?;
        Ok(Self { name, value: value.trim().parse().with_context(|| format!("header {line:?}"))? })
    }
}

// === impl To ===

impl To {
    fn host(&self) -> Result<String> {
        match self.headers.iter().find(|header| header.name == http::header::HOST) {
            Some(header) => Ok(header.value.to_str().context("header host")?.to_owned()),
            None => Ok(self.to.address.to_string()),
        }
    }

    fn others(&self) -> impl Iterator<Item = &Header> {
        self.headers.iter().filter(|header| header.name != http::header::HOST)
    }

    /// All of an HTTP/1.1 request.
    pub(crate) fn http1(&self, close: bool) -> Result<Vec<u8>> {
        let mut text = format!("GET {} HTTP/1.1\r\nhost: {}\r\n", self.to.path, self.host()?).into_bytes();
        for Header { name, value } in self.others() {
            text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        text.extend_from_slice(if close { b"connection: close\r\n\r\n" } else { b"\r\n" });
        Ok(text)
    }

    /// The head of an HTTP/2 request.
    pub(crate) fn http2(&self) -> Result<Request<()>> {
        let uri = Uri::builder().scheme("http").authority(self.host()?).path_and_query(&*self.to.path).build();
        let mut request = Request::get(uri.with_context(|| format!("the path of {}", self.to))?);
        if self.to.scheme != Scheme::Http2 {
            request = request.method("POST").header("content-type", "application/grpc").header("te", "trailers");
        }
        for Header { name, value } in self.others() {
            request = request.header(name, value);
        }
        request.body(()).context("request")
    }
}
