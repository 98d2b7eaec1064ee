//! What a guard tells the controller of its pod, so that the pod's owners learn of it: its log is read by nobody who
//! doesn't know already where to look, and the kubelet doesn't say what a probe was answered.

use std::{future::Future, time::Duration};

use outrigger_wire::proto::trouble::{ReportRequest, Trouble, troubles_client::TroublesClient};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Code;

use crate::{
    Bootstrap,
    backoff::Backoff,
    client::{self, causes},
};

/// Told again after this while it lasts: events are forgotten after an hour.
const AGAIN: Duration = Duration::from_secs(30 * 60);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// For one try, from connecting to the answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Tells whenever the pod's traffic is no longer captured, until nobody says whether it is.
pub async fn tell_uncaptured(bootstrap: Bootstrap, captured: watch::Receiver<bool>) {
    follow(captured, || report(&bootstrap)).await;
}

async fn follow<F, R>(mut captured: watch::Receiver<bool>, report: R)
where
    R: Fn() -> F,
    F: Future<Output = Result<(), String>>,
{
    while captured.wait_for(|captured| !*captured).await.is_ok() {
        tokio::select! {
            () = insist(&report) => {}
            again = captured.wait_for(|captured| *captured) => {
                if again.is_err() {
                    return;
                }
            }
        }
    }
}

/// For ever: until somebody has heard it, and then now and again.
async fn insist<F, R>(report: &R)
where
    R: Fn() -> F,
    F: Future<Output = Result<(), String>>,
{
    loop {
        let mut backoff = Backoff::new(FIRST_BACKOFF, MAX_BACKOFF);
        while let Err(error) = report().await {
            let wait = backoff.next();
            tracing::warn!(error, ?wait, "the controller can't be told that nothing captures this pod's traffic");
            sleep(wait).await;
        }
        sleep(AGAIN).await;
    }
}

async fn report(bootstrap: &Bootstrap) -> Result<(), String> {
    let told = async {
        let channel = client::connect(bootstrap).await.map_err(|error| causes(&error))?;
        let request = ReportRequest { trouble: Trouble::NotCaptured.into() };
        let request = client::authorised(bootstrap, request).map_err(|error| causes(&error))?;
        match TroublesClient::new(channel).report(request).await {
            Ok(_) => Ok(()),
            // An earlier version, or one without a cluster: there is nobody to be told.
            Err(status) if status.code() == Code::Unimplemented => Ok(()),
            Err(status) => Err(format!("{}: {}", status.code(), status.message())),
        }
    };
    timeout(PATIENCE, told).await.unwrap_or_else(|_| Err("it doesn't answer in time".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_told_until_it_is_heard_and_again_while_it_lasts() {
        let (tell, captured) = watch::channel(true);
        let (tries, deaf) = (AtomicU32::new(0), AtomicU32::new(3));
        let report = || {
            tries.fetch_add(1, Relaxed);
            let heard = deaf.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err();
            std::future::ready(if heard { Ok(()) } else { Err("no".to_owned()) })
        };
        let test = async {
            sleep(AGAIN).await;
            assert_eq!(tries.load(Relaxed), 0, "all is well");
            tell.send_replace(false);
            sleep(Duration::from_secs(30)).await;
            assert_eq!(tries.load(Relaxed), 4);
            sleep(AGAIN).await;
            assert_eq!(tries.load(Relaxed), 5);
            tell.send_replace(true);
            sleep(2 * AGAIN).await;
            assert_eq!(tries.load(Relaxed), 5);
            tell.send_replace(false);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(tries.load(Relaxed), 6);
            drop(tell);
        };
        tokio::join!(follow(captured, report), test);
    }
}
