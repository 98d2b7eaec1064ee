//! Wiring of the embedded mode: a folder of YAML, a folder of tokens, a folder for the root.

use std::{future::pending, sync::Arc};

use anyhow::{Context, Result, anyhow, bail};
use outrigger_ca::Authority;
use outrigger_kube::{Settings, folder};
use tokio::sync::watch;

use crate::{
    admin::{Admin, Pages},
    args::Args,
    authenticate::Authenticator,
    certificate::{self, OwnCertificate},
    descriptors::Rooms,
    metrics::Observed,
    serve::{self, Proxies, Signals, bind},
    tokens::TokenFiles,
};

pub(crate) async fn run(args: Args, rooms: Rooms) -> Result<()> {
    let of = args.embedded;
    let (Some(config_dir), Some(tokens), Some(state)) = (of.config_dir, of.tokens, of.state) else {
        bail!("--config-dir, --tokens and --state go together");
    };
    if !config_dir.is_dir() {
        bail!("--config-dir {}: no such folder", config_dir.display());
    }
    let mut signals = Signals::new()?;
    let authority = Arc::new(Authority::load_or_create(&state, &args.trust_domain).context("--state")?);
    let (snapshot_sender, snapshots) = watch::channel(Arc::default());
    let (problem_sender, problems) = watch::channel(Vec::new());
    let listener = bind(args.listen, "--listen").await?;
    let admin = bind(args.admin, "--admin").await?;
    serve::announce(&[("grpc", &listener), ("admin", &admin)])?;

    let observed = Observed::new(snapshots.clone(), problems, None);
    observed.sign_with(&authority);
    let admin = tokio::spawn(Admin::new(observed.clone()).run(admin, rooms.pages, Pages::All, observed.stop.clone()));
    let settings = Settings { trust_domain: args.trust_domain, roots: authority.roots(), anchor: authority.anchor() };
    let source = async move {
        let ended = folder::watch(config_dir, settings, snapshot_sender, problem_sender).await;
        anyhow!("the folder is no longer watched: {ended:?}")
    };
    let proxies = Proxies {
        listener,
        room: rooms.proxies,
        certificate: OwnCertificate::new(Arc::clone(&authority), certificate::names(None))?,
        authority,
        authenticator: Arc::new(Authenticator::Files(TokenFiles::new(tokens, snapshots))),
        departures: None,
        troubles: None,
    };
    let ended = serve::run(proxies, &observed, source, pending(), &mut signals).await;
    ended.and(admin.await.context("admin"))
}
