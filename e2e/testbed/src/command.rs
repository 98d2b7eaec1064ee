//! The apps, the load client and the faults as subcommands: of `outrigger-testapp`, and of `outrigger`, whose image is in
//! every cluster that has the mesh.

use std::{str::FromStr, time::Duration};

use anyhow::{Context, Result};
use clap::Subcommand;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    apps::{grpc, http as web, store},
    call::Target,
    fault, get,
    load::{self, LoadSpec},
};

#[derive(Debug, Subcommand)]
pub enum App {
    /// An HTTP echo that may call others
    Http {
        #[arg(long, default_value = "echo")]
        name: String,
        #[arg(long, default_value = "v1")]
        version: String,
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// NAME=TARGET, called by /shop
        #[arg(long = "upstream", value_parser = upstream)]
        upstreams: Vec<(String, Target)>,
    },
    /// A gRPC service
    Grpc {
        #[arg(long, default_value = "v1")]
        version: String,
        #[arg(long, default_value_t = 9090)]
        port: u16,
    },
    /// A TCP store that speaks first
    Store {
        #[arg(long, default_value_t = 6379)]
        port: u16,
    },
    /// Calls an HTTP server by name, once or more often; each answer is one line of JSON
    Get {
        /// http://HOST:PORT/PATH
        url: http::Uri,
        #[arg(long, default_value = "GET")]
        method: http::Method,
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// `NAME: VALUE`
        #[arg(long = "header", value_parser = header)]
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    /// Calls a target at a fixed rate until standard input ends; reports every call
    Load {
        target: Target,
        /// Calls per second
        #[arg(long, default_value_t = 100)]
        rate: u32,
        #[arg(long)]
        keep_alive: bool,
        /// `NAME: VALUE`, sent with every call
        #[arg(long = "header", value_parser = header)]
        headers: Vec<(HeaderName, HeaderValue)>,
        #[arg(long, default_value_t = 5000)]
        timeout_ms: u64,
        #[arg(long, default_value_t = 100)]
        report_ms: u64,
    },
    /// Breaks something in the pod that it runs in, and says as JSON when
    #[command(subcommand)]
    Fault(fault::Fault),
}

/// Runs until the app has ended, or is told to.
pub async fn run(app: App) -> Result<()> {
    // The first process of a container ignores signals that it has no handler for.
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = whole(app) => ended,
        _ = terminate.recv() => Ok(()),
    }
}

async fn whole(app: App) -> Result<()> {
    match app {
        App::Http { name, version, port, upstreams } => {
            match web::run(port, web::App { name, version, upstreams }).await? {}
        }
        App::Grpc { version, port } => match grpc::run(port, version).await? {},
        App::Store { port } => match store::run(port).await? {},
        App::Get { url, method, count, headers } => {
            for _ in 0..count {
                println!("{}", get::once(&url, &method, &headers).await);
            }
            Ok(())
        }
        App::Load { target, rate, keep_alive, headers, timeout_ms, report_ms } => {
            let timeout = Duration::from_millis(timeout_ms);
            let report = Duration::from_millis(report_ms.max(1));
            let headers = headers.into_iter().collect::<HeaderMap>();
            load::run(LoadSpec { target, rate, keep_alive, headers, timeout, report }).await.context("load")
        }
        App::Fault(fault) => {
            println!("{}", serde_json::to_string(&fault::run(fault)?)?);
            Ok(())
        }
    }
}

fn upstream(text: &str) -> Result<(String, Target), String> {
    let (name, target) = text.split_once('=').ok_or("NAME=TARGET")?;
    Ok((name.to_owned(), target.parse()?))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("NAME: VALUE")?;
    let name = HeaderName::from_str(name.trim()).map_err(|error| error.to_string())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?;
    Ok((name, value))
}
