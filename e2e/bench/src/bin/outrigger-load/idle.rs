//! Connections that are open and do nothing.

use std::io::{self, Write as _};

use anyhow::{Context, Result, anyhow};

use crate::{
    client::{Client, Crowd},
    target::To,
};

/// Opens them, makes one request on each, says so, and holds them until standard input ends.
pub(crate) async fn hold(to: &To, connections: usize) -> Result<()> {
    let _open = open(to, connections).await?;
    println!("{}", serde_json::json!({ "connections": connections }));
    io::stdout().flush()?;
    // On a thread of its own: the event loop goes on, for what HTTP/2 asks of whoever is connected.
    let ended = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
    ended.await?.map(|_| ()).context("standard input")
}

pub(crate) async fn open(to: &To, connections: usize) -> Result<Vec<Client>> {
    let crowd = Crowd { connections, streams: 1, new_connections: false };
    crowd.check(to)?;
    let mut clients = crowd.clients(to)?;
    for (index, client) in clients.iter_mut().enumerate() {
        let done = client.exchange().await;
        done.map_err(|failure| anyhow!("{}: connection {} of {connections}: {failure}", to.to, index + 1))?;
        if index % 5000 == 4999 {
            eprintln!("{}: {} of {connections} connections are open", to.to, index + 1);
        }
    }
    Ok(clients)
}
