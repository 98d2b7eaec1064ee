//! The shared proxy: one mesh port, the whole mesh's configuration.

use anyhow::{Context, Result};
use outrigger_config::Role as ClientRole;
use outrigger_dataplane::{
    Role,
    listeners::{Listeners, bind_port},
    worker::Workers,
};
use outrigger_wire::names::ports;
use tokio::sync::watch;

use crate::{
    runtime::{Levels, Start},
    settings::Settings,
    sidecar::{drain, engine},
};

pub(crate) async fn run(settings: Settings, levels: Levels) -> Result<()> {
    let start = Start::restore(settings.bootstrap(ClientRole::Shared))?;
    let face = start.base.face();
    let base = start.serve(&settings, levels, face).await?;
    let engine = engine(&base, &settings, Role::Shared)?;
    let mesh = bind_port(ports::MESH, settings.workers).context("listening on the mesh port")?;
    let all = Listeners { mesh, ..Listeners::default() };
    let listeners =
        (0..settings.workers).map(|worker| all.for_worker(worker, settings.workers)).collect::<std::io::Result<_>>()?;
    let accept = watch::Sender::new(false);
    let workers = Workers::start(&engine, listeners, &accept.subscribe(), &base.drain.subscribe(), &base.memory())?;
    base.lives_by(&workers);
    let mut ready = base.ready.clone();
    let serve = async {
        // Connections wait in the sockets' queues until there is something to answer them with.
        if ready.wait_for(|ready| *ready).await.is_ok() {
            accept.send_replace(true);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serve => {}
        () = base.ended() => {}
    }
    // The sockets close with the drain: guards go on to the next shared proxy at once.
    drop(all);
    drain(&base, &engine, settings.drain_limit()).await;
    Ok(())
}
