//! Wiring of the Kubernetes mode: the cluster's objects, its tokens, its Secret; webhooks; and the leader's work.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use kube::Client;
use outrigger_kube::{
    Settings,
    cluster::{self, Sinks, WatchStatus},
    leader,
    lease::Leadership,
    unmeshed,
};
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, Pages},
    args::{Args, ClusterArgs},
    authenticate::Authenticator,
    certificate::OwnCertificate,
    injector,
    metrics::{ClusterView, Observed},
    root_secret,
    serve::{self, Listeners, bind},
    token_review::TokenReviews,
    webhook::Webhook,
    webhook_certificate::WebhookCertificate,
};

const CONNECT: Duration = Duration::from_secs(5);
/// Longer than the API server leaves a watch without a word.
const READ: Duration = Duration::from_secs(305);
/// How long webhooks and health are served after everything else has stopped: API servers learn late who is gone.
const LINGER: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: Args) -> Result<()> {
    let of = args.cluster;
    let config = injector::load(of.injector_config.as_ref()).context("--injector-config")?;
    let version = config.version.clone();
    let config = Arc::new(ArcSwap::from_pointee(config));
    let client = client().await?;
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let (listeners, webhooks, health) = listen(args.listen, args.admin, &of).await?;

    let (snapshot_sender, snapshots) = watch::channel(Arc::default());
    let (problem_sender, problems) = watch::channel(Vec::new());
    let (derived_sender, derived) = watch::channel(None);
    let (namespace_sender, namespaces) = watch::channel(Arc::default());
    let (leadership_sender, leadership) = watch::channel(Leadership::Follower { holder: None });
    let (unmeshed_sender, unmeshed) = watch::channel(Arc::new(unmeshed::Report::default()));
    let watches = WatchStatus::default();

    // Until there is a root, nothing can be served; the kubelet sees it start meanwhile.
    let (authority, secret) = root_secret::wait(&client, &of.root_secret, &args.trust_domain).await;
    let authority = Arc::new(authority);
    tokio::spawn(root_secret::watch(client.clone(), of.root_secret, secret));

    let observed = Observed {
        snapshots: snapshots.clone(),
        problems,
        acks: Arc::default(),
        authority: Arc::clone(&authority),
        cluster: Some(ClusterView { watches: watches.clone(), leadership, unmeshed }),
        stop: stop.clone(),
    };
    let acks = Arc::clone(&observed.acks);
    let certificate = OwnCertificate::new(Arc::clone(&authority))?;
    let reviews = TokenReviews::new(client.clone(), snapshots, args.trust_domain.clone());
    let authenticator = Arc::new(Authenticator::Reviews(Box::new(reviews)));
    let shown = WebhookCertificate::new(Arc::clone(&certificate), of.webhook_cert_dir.clone())?;
    tokio::spawn(Arc::clone(&shown).keep_fresh());
    if let Some(file) = of.injector_config {
        tokio::spawn(injector::follow(file, Arc::clone(&config)));
    }
    let webhook = Webhook {
        client: client.clone(),
        config,
        namespaces,
        derived: derived.clone(),
        acks: Arc::clone(&acks),
        reviews: Arc::clone(&authenticator),
    };
    let webhook = tokio::spawn(Arc::new(webhook).run(webhooks, shown, end.clone()));
    let health = tokio::spawn(Admin::new(observed.clone()).run(health, Pages::Health, end.clone()));

    let sinks = Sinks {
        snapshots: snapshot_sender,
        problems: problem_sender,
        derived: derived_sender,
        namespaces: namespace_sender,
    };
    let (_roots_sender, roots) = watch::channel(Arc::<str>::from(authority.roots_pem()));
    let settings = Settings { trust_domain: args.trust_domain, roots: authority.roots() };
    let (_settings_sender, settings) = watch::channel(settings);
    let source = watch_cluster(client.clone(), settings, sinks, watches);
    let work = lead(
        leader::Inputs { client, derived, roots, holdings: acks },
        leader::Config {
            pod_name: of.pod_name,
            version,
            publish_ca_bundle: of.webhook_cert_dir.is_none(),
            token_file: of.token,
        },
        leader::Reports { leadership: leadership_sender, unmeshed: unmeshed_sender },
        stop.clone(),
    );
    let linger = tokio::spawn(linger(stop.clone(), end));
    let ended = serve::run(listeners, observed, certificate, authenticator, source, work, stop).await;
    linger.await.context("lingering")?;
    let (webhook, health) = (webhook.await, health.await);
    ended.and(webhook.context("webhooks")?).and(health.context("health"))
}

/// Proxies' and people's ports, webhooks, health.
async fn listen(
    grpc: SocketAddr,
    admin: SocketAddr,
    of: &ClusterArgs,
) -> Result<(Listeners, TcpListener, TcpListener)> {
    let listeners = Listeners::bind(grpc, admin).await?;
    let webhooks = bind(of.webhook_listen, "--webhook-listen").await?;
    let health = bind(of.health_listen, "--health-listen").await?;
    serve::announce(&[
        ("grpc", &listeners.grpc),
        ("admin", &listeners.admin),
        ("webhook", &webhooks),
        ("health", &health),
    ])?;
    Ok((listeners, webhooks, health))
}

async fn watch_cluster(
    client: Client,
    settings: watch::Receiver<Settings>,
    sinks: Sinks,
    watches: WatchStatus,
) -> anyhow::Error {
    let ended = cluster::watch(client, settings, sinks, watches).await;
    anyhow!("the cluster is no longer watched: {ended:?}")
}

/// Ends only if the leader's work does so by itself, which it never should.
fn lead(
    inputs: leader::Inputs,
    config: leader::Config,
    reports: leader::Reports,
    stop: CancellationToken,
) -> impl Future<Output = anyhow::Error> {
    let work = tokio::spawn(leader::run(inputs, config, reports, stop.clone()));
    async move {
        let ended = work.await;
        if stop.is_cancelled() {
            std::future::pending::<()>().await;
        }
        anyhow!("the leader's work has ended: {ended:?}")
    }
}

/// Ends what is served longest, a while after `stop`.
async fn linger(stop: CancellationToken, end: CancellationToken) {
    stop.cancelled().await;
    sleep(LINGER).await;
    end.cancel();
}

async fn client() -> Result<Client> {
    let mut config = kube::Config::infer().await.context("neither in a cluster nor with a kubeconfig")?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.default_retry = false;
    Client::try_from(config).context("the API server's client")
}
