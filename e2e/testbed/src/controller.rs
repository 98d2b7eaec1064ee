//! The controller as a process of the machine's own namespace.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use outrigger_wire::names::ports;

use crate::{machine::binary, net::GATEWAY};

/// The running control plane.
#[derive(Debug)]
pub struct Controller {
    child: Child,
    /// Where proxies connect.
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
}

// === impl Controller ===

impl Controller {
    pub(crate) fn start(dir: &Path, wrapper: &[String]) -> Result<Self> {
        let log = fs::File::options().create(true).append(true).open(dir.join("controller.log"))?;
        let line: Vec<_> = wrapper.iter().map(OsString::from).chain([binary("outrigger-controller")?.into()]).collect();
        let (program, args) = line.split_first().context("a command")?;
        let mut child = Command::new(program)
            .args(args)
            .arg("--config-dir")
            .arg(dir.join("config"))
            .arg("--tokens")
            .arg(dir.join("tokens"))
            .arg("--state")
            .arg(dir.join("controller"))
            .args(["--listen", &format!("{GATEWAY}:{}", ports::CONTROLLER), "--admin", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("outrigger-controller")?;
        let stdout = child.stdout.take().context("the controller's output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("the controller's first line")?;
        match addresses(&line) {
            Ok((grpc, admin)) => Ok(Self { child, grpc, admin }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(dir.join("controller.log")).unwrap_or_default();
                Err(error.context(format!("outrigger-controller said {line:?}\n{log}")))
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("SIGKILL to the controller")?;
        self.child.wait().context("the controller")?;
        Ok(())
    }
}

/// The controller's first line of output: a JSON object with its addresses.
fn addresses(line: &str) -> Result<(SocketAddr, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).context("not JSON")?;
    let field = |name: &str| -> Result<SocketAddr> {
        line[name].as_str().with_context(|| format!("no {name}"))?.parse().with_context(|| name.to_owned())
    };
    Ok((field("grpc")?, field("admin")?))
}

impl Drop for Controller {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
