//! Before the pod ends: waits until those who call it know.

use std::time::Duration;

use outrigger_wire::proto::departure::{AwaitRequest, AwaitResponse, departures_client::DeparturesClient};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Code;

use crate::{
    Bootstrap,
    client::{self, ConnectError, causes},
};

/// Before the controller is asked again that could not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// The controller answers so much before the time is over: what it says is still heard.
const MARGIN: Duration = Duration::from_millis(200);

/// How a departure ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departure {
    /// All connected proxies have acknowledged that this pod ends.
    Left,
    /// The time was over before; and what was missing.
    TimeOver(String),
    /// The controller doesn't count departures.
    Unknown,
}

#[derive(Debug, thiserror::Error)]
enum DepartureError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
}

/// Resolves when every proxy that is connected to the control plane and knows this pod has acknowledged that it ends; at
/// the latest after `within`.
pub async fn departed(bootstrap: &Bootstrap, within: Duration) -> Departure {
    let end = Instant::now() + within;
    let mut missing = "the controller hasn't answered".to_owned();
    loop {
        match timeout_at(end, ask(bootstrap, end)).await {
            Ok(Ok(answer)) if answer.left => return Departure::Left,
            Ok(Ok(answer)) => missing = answer.missing,
            Ok(Err(DepartureError::Status(status))) if status.code() == Code::Unimplemented => {
                return Departure::Unknown;
            }
            Ok(Err(error)) => missing = causes(&error),
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= end {
            return Departure::TimeOver(missing);
        }
        sleep(PAUSE).await;
    }
}

async fn ask(bootstrap: &Bootstrap, end: Instant) -> Result<AwaitResponse, DepartureError> {
    let channel = client::connect(bootstrap).await?;
    let within = end.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
    let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
    let request = client::authorised(bootstrap, AwaitRequest { within_ms })?;
    let answer = DeparturesClient::new(channel).r#await(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| DepartureError::Status(Box::new(status)))
}
