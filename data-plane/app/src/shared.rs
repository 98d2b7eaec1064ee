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
    runtime::{Base, Levels, stopped},
    settings::Settings,
    sidecar::{drain, engine},
};

pub(crate) async fn run(settings: Settings, levels: Levels) -> Result<()> {
    let admin = settings.admin.unwrap_or(([127, 0, 0, 1], ports::ADMIN).into());
    let base = Base::start(settings.bootstrap(ClientRole::Shared), levels, admin).await?;
    let engine = engine(&base, &settings, Role::Shared)?;
    let mesh = bind_port(ports::MESH, settings.workers).context("listening on the mesh port")?;
    let all = Listeners { mesh, ..Listeners::default() };
    let listeners =
        (0..settings.workers).map(|worker| all.for_worker(worker, settings.workers)).collect::<std::io::Result<_>>()?;
    let accept = watch::Sender::new(false);
    let _workers = Workers::start(&engine, listeners, &accept.subscribe(), &base.drain.subscribe())?;
    let mut ready = base.ready.clone();
    let serve = async {
        // Connections wait in the sockets' queues until there is something to answer them with.
        if ready.wait_for(|ready| *ready).await.is_ok() {
            accept.send_replace(true);
        }
        std::future::pending::<()>().await;
    };
    let mut draining = base.drain.subscribe();
    tokio::select! {
        () = serve => {}
        () = stopped() => {}
        _ = draining.wait_for(|on| *on) => {}
    }
    // The sockets close with the drain: guards go on to the next shared proxy at once.
    drop(all);
    drain(&base, &engine, settings.drain_limit()).await;
    Ok(())
}
