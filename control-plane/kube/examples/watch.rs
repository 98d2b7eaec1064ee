//! What a cluster says, as the controller understands it: `KUBECONFIG=… cargo run -p outrigger-kube --example watch`.
//! One line per derivation: what it serves and how each watch is doing. For trying the source against a real API server.

use std::time::Duration;

use kube::{Client, Config};
use outrigger_kube::{
    Settings,
    cluster::{self, Sinks, WatchStatus},
};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    config.read_timeout = Some(Duration::from_secs(300));
    let client = Client::try_from(config)?;
    let settings = watch::Sender::new(Settings { trust_domain: "cluster.local".to_owned(), ..Settings::default() });
    let sinks = Sinks {
        snapshots: watch::Sender::default(),
        problems: watch::Sender::default(),
        derived: watch::Sender::new(None),
        namespaces: watch::Sender::default(),
    };
    let mut derived = sinks.derived.subscribe();
    let status = WatchStatus::default();
    let mut source = tokio::spawn(cluster::watch(client, settings.subscribe(), sinks, status.clone()));
    loop {
        tokio::select! {
            ended = &mut source => return Ok(ended??),
            changed = derived.changed() => changed?,
            () = tokio::time::sleep(Duration::from_secs(30)) => {}
        }
        let now = derived.borrow_and_update().clone();
        for kind in status.kinds() {
            let silence = kind.silence().map_or(-1.0, |silence| silence.as_secs_f32());
            print!("{} {}{silence:.0}s ", kind.kind, if kind.synced { "" } else { "UNSYNCED " });
            print!("[{} objects, {} relists, {} failures {}] ", kind.objects, kind.relists, kind.failures, kind.error);
        }
        println!();
        let Some(now) = now else { continue };
        let sizes = now.snapshot.types.values().map(|set| set.resources.len());
        let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros();
        println!("generation {} at {at}: {:?} resources", now.snapshot.generation, sizes.collect::<Vec<_>>());
        for problem in now.problems.iter() {
            println!("  {problem}");
        }
        for (name, resource) in now.snapshot.types.values().flat_map(|set| &set.resources) {
            println!("  {name} {} {}", resource.version, resource.body.len());
        }
    }
}
