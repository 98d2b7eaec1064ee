//! The HTTP app: an echo that says who it is, may call others first, and can be slow, stream, fail or upgrade.
//!
//! | path | answer |
//! |---|---|
//! | `/shop` | calls every upstream, each over a connection of its own; 200 if all answered, else 502 |
//! | `/status/CODE` | that status |
//! | `/slow?ms=N` | the echo, N milliseconds late |
//! | `/stream?chunks=N&ms=M` | N chunks, M milliseconds apart |
//! | `/upgrade` with `Connection: upgrade` | 101, then every byte back |
//! | ends in `/forged` | 403, with headers that only proxies of the mesh may send |
//! | `POST` anything | the request's body |
//! | else | JSON: app, version, method, path, peer, headers |

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;

use crate::call::{NONCE, Target, VERSION, once};

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

#[derive(Debug, Clone)]
pub struct App {
    pub name: String,
    pub version: String,
    /// Called by `/shop`, by name. The version that the first of them answers with becomes our own answer's.
    pub upstreams: Vec<(String, Target)>,
}

/// Serves HTTP/1.1 and HTTP/2 until the process ends.
pub async fn run(port: u16, app: App) -> Result<Infallible> {
    let app = Arc::new(app);
    let name = app.name.clone();
    super::serve(&name, port, move |stream| {
        let (app, peer) = (Arc::clone(&app), stream.peer_addr().ok());
        async move {
            let service = service_fn(move |request| {
                let app = Arc::clone(&app);
                async move { app.answer(request, peer).await }
            });
            let http = auto::Builder::new(TokioExecutor::new());
            // The client's own doing, either way.
            let _ = http.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        }
    })
    .await
}

// === impl App ===

impl App {
    async fn answer(&self, request: Request<Incoming>, peer: Option<SocketAddr>) -> Result<Answer, hyper::Error> {
        let nonce = request.headers().get(NONCE).cloned();
        let path = request.uri().path().to_owned();
        let mut answer = match path.as_str() {
            "/upgrade" if request.headers().contains_key(header::UPGRADE) => upgrade(request),
            "/shop" => self.shop(request.headers()).await,
            "/stream" => streamed(number(&request, "chunks").unwrap_or(10), number(&request, "ms").unwrap_or(10)),
            "/slow" => {
                tokio::time::sleep(Duration::from_millis(number(&request, "ms").unwrap_or(100))).await;
                self.echo(&request, peer)
            }
            _ if request.method() == Method::POST => Response::new(request.into_body().boxed()),
            _ => self.echo(&request, peer),
        };
        if let Some(code) = path.strip_prefix("/status/").and_then(|code| code.parse().ok()) {
            *answer.status_mut() = code;
        }
        if path.ends_with("/forged") {
            *answer.status_mut() = StatusCode::FORBIDDEN;
            for name in ["outrigger-denied-by", "outrigger-unsent", "outrigger-status", "outrigger-made-up"] {
                answer.headers_mut().insert(name, header::HeaderValue::from_static("200"));
            }
        }
        if let Some(nonce) = nonce {
            answer.headers_mut().insert(NONCE, nonce);
        }
        if let Ok(version) = self.version.parse() {
            answer.headers_mut().entry(VERSION).or_insert(version);
        }
        Ok(answer)
    }

    fn echo<B>(&self, request: &Request<B>, peer: Option<SocketAddr>) -> Answer {
        let headers: BTreeMap<_, _> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
            .collect();
        whole(&json!({
            "app": self.name, "version": self.version, "method": request.method().as_str(),
            "path": request.uri().to_string(), "peer": peer, "headers": headers,
        }))
    }

    async fn shop(&self, headers: &HeaderMap) -> Answer {
        let nonce: u64 = headers.get(NONCE).and_then(|nonce| nonce.to_str().ok()?.parse().ok()).unwrap_or_default();
        let calls = self.upstreams.iter().map(|(name, target)| {
            let headers = trace(headers);
            async move { (name, tokio::time::timeout(Duration::from_secs(5), once(target, nonce, &headers)).await) }
        });
        let mut said = BTreeMap::new();
        let (mut all_well, mut version) = (true, None);
        for (name, result) in futures_util::future::join_all(calls).await {
            let text = match result {
                Ok(Ok(answered)) => {
                    version.get_or_insert_with(|| answered.clone());
                    answered
                }
                Ok(Err(outcome)) => {
                    all_well = false;
                    format!("{outcome:?}")
                }
                Err(_) => {
                    all_well = false;
                    "Timeout".to_owned()
                }
            };
            said.insert(name, text);
        }
        if !all_well {
            eprintln!("{}", json!({ "app": self.name, "failed": said }));
        }
        let mut answer = whole(&json!({ "app": self.name, "version": self.version, "upstreams": said }));
        if !all_well {
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
        }
        if let Some(Ok(version)) = version.map(|version| version.parse()) {
            answer.headers_mut().insert(VERSION, version);
        }
        answer
    }
}

/// What an app has to pass on for a trace to hold together.
fn trace(headers: &HeaderMap) -> HeaderMap {
    let passed = headers.iter().filter(|(name, _)| matches!(name.as_str(), "traceparent" | "tracestate"));
    passed.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn whole(body: &serde_json::Value) -> Answer {
    let body = Full::new(Bytes::from(format!("{body}\n"))).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed());
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

fn streamed(chunks: u64, pause_ms: u64) -> Answer {
    let frames = stream::unfold(0, move |sent| async move {
        if sent == chunks {
            return None;
        }
        if sent > 0 {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        Some((Ok(Frame::data(Bytes::from(format!("chunk {sent}\n")))), sent + 1))
    });
    Response::new(BoxBody::new(StreamBody::new(frames)))
}

fn upgrade(request: Request<Incoming>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    if let Some(protocol) = request.headers().get(header::UPGRADE) {
        answer.headers_mut().insert(header::UPGRADE, protocol.clone());
    }
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
            // The client's own doing, either way.
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    answer
}

fn number<B>(request: &Request<B>, name: &str) -> Option<u64> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}
