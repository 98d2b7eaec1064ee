//! Wiring of the embedded mode: a folder of YAML, a folder of tokens, a folder for the root.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use outrigger_ca::Authority;
use outrigger_kube::{Settings, folder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    args::Args,
    authenticate::Authenticator,
    certificate::OwnCertificate,
    metrics::Observed,
    serve::{self, Listeners},
    tokens::TokenFiles,
};

pub(crate) async fn run(args: Args) -> Result<()> {
    let (Some(config_dir), Some(tokens), Some(state)) = (args.config_dir, args.tokens, args.state) else {
        bail!("--config-dir, --tokens and --state go together");
    };
    if !config_dir.is_dir() {
        bail!("--config-dir {}: no such folder", config_dir.display());
    }
    let authority = Arc::new(Authority::load_or_create(&state, &args.trust_domain).context("--state")?);
    let (snapshot_sender, snapshots) = watch::channel(Arc::default());
    let (problem_sender, problems) = watch::channel(Vec::new());
    let stop = CancellationToken::new();
    let listeners = Listeners::bind(args.listen, args.admin).await?;
    serve::announce(&[("grpc", &listeners.grpc), ("admin", &listeners.admin)])?;

    let settings = Settings { trust_domain: args.trust_domain, roots: authority.roots() };
    let authenticator = Authenticator::Files(TokenFiles::new(tokens, snapshots.clone()));
    let certificate = OwnCertificate::new(Arc::clone(&authority))?;
    let observed = Observed { snapshots, problems, acks: Arc::default(), authority, cluster: None, stop: stop.clone() };
    let source = async move {
        let ended = folder::watch(config_dir, settings, snapshot_sender, problem_sender).await;
        anyhow!("the folder is no longer watched: {ended:?}")
    };
    serve::run(listeners, observed, certificate, Arc::new(authenticator), source, std::future::pending(), stop).await
}
