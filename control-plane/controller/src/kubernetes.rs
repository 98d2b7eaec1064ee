//! Wiring of the Kubernetes mode: the cluster's objects, its tokens, its Secret; webhooks; and the leader's work.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Error, Result, anyhow};
use arc_swap::ArcSwap;
use kube::{Client, Config, config::KubeConfigOptions};
use outrigger_ca::Authority;
use outrigger_kube::{
    Settings,
    acknowledged::Acknowledgements,
    cluster::{self, Derived, Namespace, Sinks, Store, WatchStatus},
    leader,
    lease::Leadership,
    pod_events::PodEvents,
    rotation::{Decided, Stage},
    unmeshed,
};
use outrigger_webhook::InjectorConfig;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, Pages},
    args::{Args, ClusterArgs},
    authenticate::Authenticator,
    certificate::{self, OwnCertificate},
    departures::Departures,
    descriptors::Rooms,
    injector,
    metrics::{ClusterView, Observed},
    root_secret::{Loaded, RootSecret},
    rotation::{News, Rotation},
    serve::{self, Proxies, Signals, bind},
    token_review::TokenReviews,
    troubles::Troubles,
    webhook::{self, Admissions, Webhook},
    webhook_certificate::WebhookCertificate,
};

const CONNECT: Duration = Duration::from_secs(5);
/// Longer than the API server leaves a watch without a word.
const READ: Duration = Duration::from_secs(305);
/// How long webhooks and pages are served after everything else has stopped: API servers learn late who is gone.
const LINGER: Duration = Duration::from_secs(5);

/// What most parts need.
struct Mesh {
    of: ClusterArgs,
    trust_domain: String,
    /// Of the controller, in its certificate.
    names: Vec<String>,
    client: Client,
    observed: Observed,
    reviews: Arc<TokenReviews>,
    admissions: Arc<Admissions>,
    derived: watch::Receiver<Option<Arc<Derived>>>,
    namespaces: watch::Receiver<Store<Namespace>>,
    leadership: watch::Receiver<Leadership>,
    /// Ends what lingers.
    end: CancellationToken,
}

/// Where proxies and API servers connect.
struct Ports {
    grpc: TcpListener,
    webhook: TcpListener,
    rooms: Rooms,
}

/// What is written to.
struct Outputs {
    sinks: Sinks,
    watches: WatchStatus,
    reports: leader::Reports,
    stage: watch::Sender<Stage>,
}

/// The root as it was found.
struct Root {
    secret: RootSecret,
    authority: Arc<Authority>,
    loaded: Loaded,
}

/// Tells everybody who passes the roots on.
struct Roots {
    settings: watch::Sender<Settings>,
    /// PEM.
    pem: watch::Sender<Arc<str>>,
    decided: watch::Sender<Decided>,
    stage: watch::Sender<Stage>,
    certificate: Arc<OwnCertificate>,
}

pub(crate) async fn run(args: Args, rooms: Rooms) -> Result<()> {
    let mut signals = Signals::new()?;
    let of = args.cluster;
    let injector = injector::load(of.injector_config.as_ref()).context("--injector-config")?;
    let client = client().await?;
    let ports = Ports {
        grpc: bind(args.listen, "--listen").await?,
        webhook: bind(of.webhook_listen, "--webhook-listen").await?,
        rooms,
    };
    let health = bind(of.health_listen, "--health-listen").await?;
    let admin = bind(args.admin, "--admin").await?;
    let listeners = [("grpc", &ports.grpc), ("admin", &admin), ("webhook", &ports.webhook), ("health", &health)];
    serve::announce(&listeners)?;
    let (mesh, outputs) = Mesh::new(of, args.trust_domain, client);

    // From the beginning: whoever waits can see what for.
    let pages = Admin::new(mesh.observed.clone());
    let mut serving = JoinSet::new();
    serving.spawn(Arc::clone(&pages).run(admin, rooms.pages, Pages::All, mesh.end.clone()));
    serving.spawn(pages.run(health, rooms.pages, Pages::Health, mesh.end.clone()));

    let root = RootSecret::new(
        mesh.client.clone(),
        mesh.of.root_secret.clone(),
        mesh.trust_domain.clone(),
        mesh.names.clone(),
    );
    let loaded = tokio::select! {
        loaded = root.wait() => Some(loaded),
        signal = signals.next() => {
            tracing::info!(signal, "it ends before there was a root");
            None
        }
    };
    let ended = match loaded {
        Some((authority, loaded)) => {
            let root = Root { secret: root, authority: Arc::new(authority), loaded };
            mesh.run(ports, root, injector, outputs, &mut signals).await
        }
        None => Ok(()),
    };
    mesh.end.cancel();
    while serving.join_next().await.is_some() {}
    ended
}

// === impl Mesh ===

impl Mesh {
    fn new(of: ClusterArgs, trust_domain: String, client: Client) -> (Self, Outputs) {
        let (snapshot_sender, snapshots) = watch::channel(Arc::default());
        let (problem_sender, problems) = watch::channel(Vec::new());
        let (derived_sender, derived) = watch::channel(None);
        let (namespace_sender, namespaces) = watch::channel(Store::default());
        let (leadership_sender, leadership) = watch::channel(Leadership::Follower { holder: None });
        let (stage_sender, stage) = watch::channel(Stage::default());
        let (unmeshed_sender, unmeshed) = watch::channel(Arc::new(unmeshed::Report::default()));
        let outputs = Outputs {
            sinks: Sinks {
                snapshots: snapshot_sender,
                problems: problem_sender,
                derived: derived_sender,
                namespaces: namespace_sender,
            },
            watches: WatchStatus::default(),
            reports: leader::Reports { leadership: leadership_sender, unmeshed: unmeshed_sender },
            stage: stage_sender,
        };
        let reviews = Arc::new(TokenReviews::new(client.clone(), snapshots.clone(), trust_domain.clone()));
        let admissions = Arc::<Admissions>::default();
        let view = ClusterView {
            watches: outputs.watches.clone(),
            leadership: leadership.clone(),
            unmeshed,
            stage,
            reviews: Arc::clone(&reviews),
            admissions: Arc::clone(&admissions),
        };
        let observed = Observed::new(snapshots, problems, Some(view));
        let (names, end) = (certificate::names(Some(&of.cluster_domain)), CancellationToken::new());
        let mesh = Self {
            of,
            trust_domain,
            names,
            client,
            observed,
            reviews,
            admissions,
            derived,
            namespaces,
            leadership,
            end,
        };
        (mesh, outputs)
    }

    /// With a root: everything, until a signal or until a part has failed.
    async fn run(
        &self,
        ports: Ports,
        root: Root,
        injector: InjectorConfig,
        outputs: Outputs,
        signals: &mut Signals,
    ) -> Result<()> {
        let Root { secret, authority, loaded } = root;
        self.observed.sign_with(&authority);
        let certificate = OwnCertificate::new(Arc::clone(&authority), self.names.clone())?;
        let shown = WebhookCertificate::new(Arc::clone(&certificate), self.of.webhook_cert_dir.clone())
            .context("--webhook-cert-dir")?;
        let roots = Roots::new(&authority, &self.trust_domain, &certificate, outputs.stage);
        let settings = roots.settings.subscribe();
        let mut leading = self.lead(outputs.reports, &roots, injector.version.clone());
        let injector = Arc::new(ArcSwap::from_pointee(injector));
        let acknowledged = Arc::new(self.acknowledged(roots.pem.subscribe()));
        let departures = Departures::new(Arc::clone(&acknowledged));

        let mut followers = JoinSet::new();
        if let Some(file) = self.of.injector_config.clone() {
            followers.spawn(injector::follow(file, Arc::clone(&injector)));
        }
        followers.spawn(Arc::clone(&shown).keep_fresh());
        followers.spawn(departures.clone().run());
        followers.spawn({
            let authority = Arc::clone(&authority);
            let leadership = self.leadership.clone();
            let tell = move |authority: &Authority, news| roots.tell(authority, news);
            Rotation::new(secret, loaded, authority, acknowledged, tell).run(leadership)
        });
        let stop = webhook::Stop { drain: self.observed.stop.clone(), end: self.end.clone() };
        let webhook = self.webhook(injector, Arc::clone(&authority));
        let mut webhook = tokio::spawn(webhook.run(ports.webhook, ports.rooms.webhook, shown, stop));
        let source = {
            let (client, sinks, watches) = (self.client.clone(), outputs.sinks, outputs.watches);
            async move {
                let ended = cluster::watch(client, settings, sinks, watches).await;
                anyhow!("the cluster is no longer watched: {ended:?}")
            }
        };
        let work = async {
            tokio::select! {
                ended = &mut leading => anyhow!("the leader's work has ended: {ended:?}"),
                ended = &mut webhook => anyhow!("webhooks are no longer served: {ended:?}"),
                Some(ended) = followers.join_next() => anyhow!("a file or the root is no longer followed: {ended:?}"),
            }
        };
        let proxies = Proxies {
            listener: ports.grpc,
            room: ports.rooms.proxies,
            authority,
            certificate,
            authenticator: Arc::new(Authenticator::Reviews(Arc::clone(&self.reviews))),
            departures: Some(departures),
            troubles: Some(self.troubles()),
        };
        // The Lease is given back at once, while proxies move to other replicas.
        let ended = serve::run(proxies, &self.observed, source, work, signals).await;
        sleep(LINGER).await;
        self.end.cancel();
        finish(leading).await;
        finish(webhook).await;
        ended
    }

    fn webhook(&self, config: injector::Current, authority: Arc<Authority>) -> Arc<Webhook> {
        Webhook::new(webhook::Sources {
            client: self.client.clone(),
            config,
            namespaces: self.namespaces.clone(),
            derived: self.derived.clone(),
            acks: Arc::clone(&self.observed.acks),
            reviews: Arc::clone(&self.reviews),
            admissions: Arc::clone(&self.admissions),
            authority,
        })
    }

    fn acknowledged(&self, pem: watch::Receiver<Arc<str>>) -> Acknowledgements {
        let own = self.of.pod_name.clone().unwrap_or_default();
        let (token, holdings) = (self.of.token.clone(), Arc::clone(&self.observed.acks) as _);
        Acknowledgements::new(self.client.clone(), own, pem, token, self.derived.clone(), holdings)
    }

    fn troubles(&self) -> Troubles {
        let own = self.of.pod_name.clone().unwrap_or_default();
        Troubles::new(PodEvents::new(self.client.clone(), own, self.derived.clone()))
    }

    fn lead(
        &self,
        reports: leader::Reports,
        roots: &Roots,
        version: String,
    ) -> JoinHandle<Result<(), leader::LeaderError>> {
        let inputs = leader::Inputs {
            client: self.client.clone(),
            derived: self.derived.clone(),
            roots: roots.pem.subscribe(),
            decided: roots.decided.subscribe(),
            holdings: Arc::clone(&self.observed.acks) as _,
        };
        let config = leader::Config {
            pod_name: self.of.pod_name.clone().unwrap_or_default(),
            version,
            publish_ca_bundle: self.of.webhook_cert_dir.is_none(),
            token_file: self.of.token.clone(),
        };
        tokio::spawn(leader::run(inputs, config, reports, self.observed.stop.clone()))
    }
}

// === impl Roots ===

impl Roots {
    fn new(
        authority: &Authority,
        trust_domain: &str,
        certificate: &Arc<OwnCertificate>,
        stage: watch::Sender<Stage>,
    ) -> Self {
        let (roots, anchor) = (authority.roots(), authority.anchor());
        Self {
            settings: watch::Sender::new(Settings { trust_domain: trust_domain.to_owned(), roots, anchor }),
            pem: watch::Sender::new(authority.roots_pem().into()),
            decided: watch::Sender::default(),
            stage,
            certificate: Arc::clone(certificate),
        }
    }

    fn tell(&self, authority: &Authority, news: News) {
        let News { decided, stage, signs } = news;
        if signs {
            self.certificate.renew();
        }
        let (roots, anchor) = (authority.roots(), authority.anchor());
        self.settings.send_if_modified(|settings| {
            let modified = settings.roots != roots || settings.anchor != anchor;
            (settings.roots, settings.anchor) = (roots, anchor);
            modified
        });
        replace(&self.pem, authority.roots_pem().into());
        replace(&self.decided, decided);
        replace(&self.stage, stage);
    }
}

/// Wakes nobody if it is what they know.
fn replace<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|known| {
        let modified = *known != value;
        *known = value;
        modified
    });
}

/// Waits for a task that was told to end, unless it has ended before.
async fn finish<T>(task: JoinHandle<T>) {
    if !task.is_finished()
        && let Err(error) = task.await
    {
        tracing::error!(%error, "a part of this process has failed");
    }
}

/// Of the cluster that this pod runs in, or of a developer's kubeconfig.
async fn client() -> Result<Client> {
    let config = match Config::incluster() {
        Ok(config) => Ok::<_, Error>(config),
        Err(_) => Config::from_kubeconfig(&KubeConfigOptions::default()).await.map_err(Error::from),
    };
    let mut config = config.context("neither in a cluster nor with a kubeconfig")?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    // A pooled connection may have been idle for long when it is used again.
    config.reset_reader_on_write = true;
    config.default_retry = false;
    Client::try_from(config).context("the API server's client")
}
