//! One status to the API server. Our own kinds' by server-side apply with the epoch, so that a later leader's stands;
//! routes' as a whole list, with the version that it was made from.

use std::time::Duration;

use kube::{
    Client, Error,
    api::{DynamicObject, Patch, PatchParams},
};
use outrigger_crds::gateway::RouteParentStatus;
use outrigger_wire::names::CONTROLLER_NAME;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::subject::{Subject, Told};
use crate::api::said;

/// Time for one request: well below what remains of a term after a renewal.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The whole status now says this.
    Written(Told),
    /// The object is gone or has changed: the next view says more.
    Moot,
    /// A later leader has written it.
    Deposed,
    Failed(String),
}

/// Writes `told` (of a route our entries alone) over `before`.
pub(crate) async fn write(client: &Client, subject: &Subject, told: &Told, before: &Told, epoch: i64) -> Outcome {
    let result = match told {
        Told::Conditions(_) => timeout(PATIENCE, apply(client, subject, told, epoch)).await,
        Told::Parents(ours) => timeout(PATIENCE, replace(client, subject, ours, before)).await,
    };
    match result {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(Error::Api(status))) if status.code == 404 => Outcome::Moot,
        Ok(Err(Error::Api(status))) if status.code == 422 && status.message.contains("leaseTransitions") => {
            Outcome::Deposed
        }
        Ok(Err(error)) => Outcome::Failed(said(&error)),
        Err(_) => Outcome::Failed("the API server doesn't answer in time".to_owned()),
    }
}

async fn apply(client: &Client, subject: &Subject, told: &Told, epoch: i64) -> Result<Outcome, Error> {
    let conditions = told.ours();
    let resource = subject.api_resource();
    let status = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": { "name": subject.name() },
        "status": { "conditions": conditions, "leaseTransitions": epoch },
    });
    let ours = PatchParams::apply(CONTROLLER_NAME).force();
    subject.api(client.clone()).patch_status(subject.name(), &ours, &Patch::Apply(status)).await?;
    Ok(Outcome::Written(told.clone()))
}

async fn replace(
    client: &Client,
    subject: &Subject,
    ours: &[RouteParentStatus],
    before: &Told,
) -> Result<Outcome, Error> {
    let ours = Told::Parents(ours.to_vec());
    let whole = ours.over(before);
    match put_parents(client, subject, &whole, subject.version()).await {
        Err(Error::Api(status)) if status.code == 409 => {}
        result => return result.map(|()| Outcome::Written(whole)),
    }
    // Somebody else has written: read what they wrote and keep it.
    let read = subject.api(client.clone()).get(subject.name()).await?;
    if read.metadata.generation != subject.metadata().generation || read.metadata.uid != subject.metadata().uid {
        return Ok(Outcome::Moot);
    }
    let now = Told::Parents(parents_of(&read));
    if !ours.is_news(&now) {
        return Ok(Outcome::Moot);
    }
    let version = read.metadata.resource_version.unwrap_or_default();
    put_parents(client, subject, &ours.over(&now), &version).await?;
    // What the view has is older than what was read, so that its next version tells.
    Ok(Outcome::Moot)
}

async fn put_parents(client: &Client, subject: &Subject, whole: &Told, version: &str) -> Result<(), Error> {
    let Told::Parents(parents) = whole else { return Ok(()) };
    let status = json!({ "metadata": { "resourceVersion": version }, "status": { "parents": parents } });
    let ours = PatchParams { field_manager: Some(CONTROLLER_NAME.to_owned()), ..PatchParams::default() };
    subject.api(client.clone()).patch_status(subject.name(), &ours, &Patch::Merge(status)).await?;
    Ok(())
}

fn parents_of(read: &DynamicObject) -> Vec<RouteParentStatus> {
    let parents: Option<&Value> = read.data.get("status").and_then(|status| status.get("parents"));
    parents.and_then(|parents| serde_json::from_value(parents.clone()).ok()).unwrap_or_default()
}
