//! The way to a cluster: a client by kubectl's rules, and GET from a port of a pod's loopback.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::Deployment, core::v1::Pod},
};
use kube::{
    Api, Client, Config, Resource,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
    core::Selector,
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    exit,
    web::{Connection, Page},
};

/// The API server answers this fast, or isn't reachable.
const CONNECT: Duration = Duration::from_secs(5);
/// For one answer; watches aren't used here.
const ANSWER: Duration = Duration::from_secs(30);
/// Until a pod's port is open.
const FORWARD: Duration = Duration::from_secs(3);
/// Objects per page of a list.
const PAGE: u32 = 500;

/// Which cluster, as with kubectl.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct Options {
    /// Kubeconfig file; else $KUBECONFIG, else ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; else its current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace of what is named without one; else the context's
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

/// A cluster that answers.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// Of what is named without one.
    pub(crate) namespace: String,
    /// `v1.34.4`
    pub(crate) version: String,
}

/// Runs a command that waits for others.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

// === impl Options ===

impl Options {
    /// The client's settings, nobody asked yet.
    async fn config(&self) -> Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match (&self.kubeconfig, &self.context) {
            (Some(file), _) => Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?,
            (None, Some(_)) => Config::from_kubeconfig(&options).await?,
            // Also from within a pod.
            (None, None) => Config::infer().await?,
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(ANSWER);
        config.reset_reader_on_write = true;
        Ok(config)
    }
}

// === impl Cluster ===

impl Cluster {
    /// Asks the API server for its version, so that whoever has a `Cluster` has one that answers.
    pub(crate) async fn connect(options: &Options) -> Result<Self> {
        // An error means that there is one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = options.config().await.map_err(|error| exit::unreachable(format!("kubeconfig: {error:#}")))?;
        let address = config.cluster_url.clone();
        let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| exit::unreachable(format!("{address}: {error}")))?;
        let asked = tokio::time::timeout(CONNECT * 2, client.apiserver_version()).await;
        let version = match asked {
            Ok(Ok(info)) => info.git_version,
            Ok(Err(error)) => return Err(exit::unreachable(format!("the cluster at {address}: {}", told(&error)))),
            Err(_) => return Err(exit::unreachable(format!("the cluster at {address} doesn't answer"))),
        };
        Ok(Self { client, namespace, version })
    }

    /// Objects of one namespace.
    pub(crate) fn of<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Every object of a kind that matches, page by page.
    pub(crate) async fn all<K>(&self, params: ListParams) -> Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        list(&Api::all(self.client.clone()), params).await
    }

    /// The pods of a Deployment, by its selector; `None` if there is no such Deployment.
    pub(crate) async fn pods_of(&self, namespace: &str, deployment: &str) -> Result<Option<Vec<Pod>>> {
        let Some(deployment) = found(self.of::<Deployment>(namespace).get(deployment).await)? else { return Ok(None) };
        self.selected(namespace, &deployment).await.map(Some)
    }

    /// The pods that a Deployment of this namespace selects.
    pub(crate) async fn selected(&self, namespace: &str, deployment: &Deployment) -> Result<Vec<Pod>> {
        let selector = deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let selector = Selector::try_from(selector).map_err(|error| anyhow!("the selector: {error}"))?;
        list(&self.of::<Pod>(namespace), ListParams::default().labels_from(&selector)).await
    }

    /// A stream to a port of a pod's loopback.
    pub(crate) async fn forward(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static + use<>> {
        let opened = async {
            let forwarded = self.of::<Pod>(namespace).portforward(pod, &[port]).await;
            forwarded.map_err(|error| anyhow!(told(&error)))?.take_stream(port).context("no stream")
        };
        let opened = tokio::time::timeout(FORWARD, opened).await;
        opened.unwrap_or_else(|_| Err(anyhow!("no port-forward within {FORWARD:?}")))
    }

    /// A connection to a port of a pod's loopback; `limit` is for each page.
    pub(crate) async fn connect_pod(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        limit: Duration,
    ) -> Result<Connection> {
        Connection::new(self.forward(namespace, pod, port).await?, limit).await
    }

    /// One page of a pod's loopback.
    pub(crate) async fn get(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<Page> {
        self.connect_pod(namespace, pod, port, FORWARD).await?.get(path).await
    }
}

/// Everything that matches, page by page.
pub(crate) async fn list<K>(api: &Api<K>, params: ListParams) -> Result<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut params = params.limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = api.list(&params).await.map_err(|error| anyhow!(told(&error)))?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// What an error of the client's means, its causes included, each said once.
pub(crate) fn told(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// `None` where there is no such object.
pub(crate) fn found<T>(answer: kube::Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(anyhow!(told(&error))),
    }
}
