//! The way to controllers' admin pages: of an embedded one by its address, of a cluster's through the API server.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use futures_util::future::join_all;
use http::StatusCode;
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::Pod;
use outrigger_wire::names::{CONTROLLER_NAME, SYSTEM_NAMESPACE};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{
    cluster::Cluster,
    exit,
    web::{Connection, Page},
};

/// Of the controller's admin interface, on its loopback.
pub(crate) const ADMIN: u16 = 15014;

/// Until an embedded controller's socket is open.
const CONNECT: Duration = Duration::from_secs(2);
/// For one page.
const ANSWER: Duration = Duration::from_secs(10);

/// One controller that answers.
pub(crate) struct Controller {
    /// Its pod's name, or its address.
    pub(crate) name: String,
    connection: Connection,
}

/// One of a cluster's controllers, reachable or not.
pub(crate) struct Replica {
    pub(crate) pod: Pod,
    pub(crate) controller: Result<Controller>,
}

// === impl Controller ===

impl Controller {
    /// An embedded one.
    pub(crate) async fn embedded(admin: SocketAddr) -> Result<Self> {
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(admin)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(exit::unreachable(format!("the controller at {admin}: {error}"))),
            Err(_) => return Err(exit::unreachable(format!("the controller at {admin} doesn't answer"))),
        };
        let connection = Connection::new(stream, ANSWER).await?;
        Ok(Self { name: admin.to_string(), connection })
    }

    /// Any of the cluster's that answers.
    pub(crate) async fn of_cluster(cluster: &Cluster) -> Result<Self> {
        let mut replicas = replicas(cluster).await?;
        if replicas.is_empty() {
            return Err(none());
        }
        match replicas.iter().position(|replica| replica.controller.is_ok()) {
            Some(at) => replicas.swap_remove(at).controller,
            None => replicas.swap_remove(0).controller.map_err(|error| exit::unreachable(format!("{error:#}"))),
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Page> {
        self.connection.get(path).await.with_context(|| format!("controller {}", self.name))
    }

    pub(crate) async fn json(&mut self, path: &str) -> Result<Value> {
        self.get(path).await?.json().with_context(|| format!("controller {}: {path}", self.name))
    }

    /// A served resource, encoded; `None` if there is none of this name or alias.
    pub(crate) async fn resource(&mut self, kind: &str, name: &str) -> Result<Option<Bytes>> {
        let page = self.get(&format!("/debug/resource?type={kind}&name={name}")).await?;
        match page.status {
            StatusCode::OK => Ok(Some(page.body)),
            StatusCode::NOT_FOUND => Ok(None),
            status => anyhow::bail!("controller {}: {kind} {name}: answered {status}", self.name),
        }
    }

    /// Names of the served resources of a type.
    pub(crate) async fn names(&mut self, kind: &str) -> Result<Vec<String>> {
        let page = self.json(&format!("/debug/resources?type={kind}")).await?;
        let sets = page["types"].as_object().into_iter().flat_map(|types| types.values());
        Ok(sets.filter_map(Value::as_object).flat_map(|set| set.keys().cloned()).collect())
    }
}

/// What there is to say of a cluster without a controller.
pub(crate) fn none() -> anyhow::Error {
    exit::unreachable(format!(
        "no controller in namespace {SYSTEM_NAMESPACE}; install the mesh with `outrigger install`"
    ))
}

/// The cluster's controllers, each with a connection or why there is none.
pub(crate) async fn replicas(cluster: &Cluster) -> Result<Vec<Replica>> {
    let pods = cluster.pods_of(SYSTEM_NAMESPACE, CONTROLLER_NAME).await?.unwrap_or_default();
    Ok(join_all(pods.into_iter().map(|pod| async move {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let connection = cluster.connect_pod(SYSTEM_NAMESPACE, &name, ADMIN, ANSWER).await;
        let controller = connection.map(|connection| Controller { name: name.clone(), connection });
        Replica { pod, controller: controller.with_context(|| format!("{CONTROLLER_NAME} pod {name}")) }
    }))
    .await)
}
