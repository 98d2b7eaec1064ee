//! Binary `outrigger-testapp`: the demo's and the tests' apps, and their load client.

use anyhow::Result;
use clap::Parser;
use outrigger_testbed::command::{App, run};

#[derive(Debug, Parser)]
#[command(name = "outrigger-testapp", version, about = "Apps of the demo and the tests, and their load client")]
struct Args {
    #[command(subcommand)]
    command: App,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    run(Args::parse().command).await
}
