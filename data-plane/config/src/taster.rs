//! A shared proxy has others answer for new configuration with their lives first: a process of its own takes each new version
//! in before it does. Here is that process, and whoever asks it.
//!
//! A question is the length of a message in four bytes, big-endian, and a `DeltaDiscoveryResponse`; the answer is one byte,
//! once all of it has been taken in and published. No answer is an answer, too.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use outrigger_core::Snapshot;
use outrigger_wire::proto::discovery::{DeltaDiscoveryResponse, Resource};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, timeout},
};

use crate::{
    Role,
    state::{State, WARM_UP},
};

#[cfg(test)]
mod tests;

/// Longer than the largest mesh takes on a busy machine; who takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);
const SURVIVED: u8 = 1;
/// Of the program: it calls [`taste`].
const MODE: &str = "taste";

/// Asks.
pub(crate) struct Taster {
    program: PathBuf,
    running: Option<Running>,
}

/// A process that waits for questions.
struct Running {
    questions: ChildStdin,
    answers: ChildStdout,
    /// Ends with it.
    child: Child,
}

/// What became of who took something in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    Dead,
}

/// Takes in what comes on standard input, until it ends. The caller bounds what this process may use.
///
/// # Errors
/// If a question can't be read or understood, or whoever asks is gone.
pub fn taste() -> io::Result<()> {
    let (mut questions, mut answers) = (io::stdin().lock(), io::stdout().lock());
    let mut length = [0; 4];
    loop {
        match questions.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let mut message = Vec::new();
        let length = u32::from_be_bytes(length);
        (&mut questions).take(length.into()).read_to_end(&mut message)?;
        take_in(DeltaDiscoveryResponse::decode(message.as_slice())?);
        answers.write_all(&[SURVIVED])?;
        answers.flush()?;
    }
}

/// As a shared proxy does that holds nothing else. What is refused was read, too.
fn take_in(response: DeltaDiscoveryResponse) {
    let (mut state, now) = (State::new(Role::Shared, ""), Instant::now());
    let snapshot = state.apply(response, &Snapshot::default(), now).snapshot.unwrap_or_default();
    // Services don't wait for what they lead to: nothing more comes.
    drop(state.expire(&snapshot, now + WARM_UP));
}

// === impl Taster ===

impl Taster {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program, running: None }
    }

    /// The resources that nobody survives. What only all of them together do to a process isn't found.
    pub(crate) async fn deadly(&mut self, response: DeltaDiscoveryResponse) -> Vec<Resource> {
        if self.fate(&response).await == Fate::Lives {
            return Vec::new();
        }
        let DeltaDiscoveryResponse { type_url, resources, .. } = response;
        let mut deadly = Vec::new();
        for resource in resources {
            let (type_url, resources) = (type_url.clone(), vec![resource]);
            let mut alone = DeltaDiscoveryResponse { type_url, resources, ..DeltaDiscoveryResponse::default() };
            if self.fate(&alone).await == Fate::Dead {
                deadly.append(&mut alone.resources);
            }
        }
        deadly
    }

    /// Of a process that takes this in. If there can't be any, it isn't the configuration's fault.
    async fn fate(&mut self, response: &DeltaDiscoveryResponse) -> Fate {
        let mut running = match self.running.take().map_or_else(|| self.start(), Ok) {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(%error, "configuration is taken in untried");
                return Fate::Lives;
            }
        };
        match timeout(PATIENCE, running.ask(response)).await {
            Ok(Ok(())) => {
                self.running = Some(running);
                Fate::Lives
            }
            ended => {
                let how = running.end().await;
                let names: Vec<_> = response.resources.iter().take(5).map(|it| it.name.as_str()).collect();
                tracing::error!(
                    type_url = response.type_url,
                    resources = response.resources.len(),
                    ?names,
                    hung = ended.is_err(),
                    how,
                    "a process that tried new configuration is dead"
                );
                Fate::Dead
            }
        }
    }

    fn start(&self) -> io::Result<Running> {
        let mut command = Command::new(&self.program);
        command.arg(MODE).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (questions, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(questions), Some(answers)) = (questions, answers) else {
            return Err(io::Error::other("it has no pipes"));
        };
        Ok(Running { questions, answers, child })
    }
}

// === impl Running ===

impl Running {
    async fn ask(&mut self, response: &DeltaDiscoveryResponse) -> io::Result<()> {
        let message = response.encode_to_vec();
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        self.questions.write_all(&length.to_be_bytes()).await?;
        self.questions.write_all(&message).await?;
        self.questions.flush().await?;
        self.answers.read_u8().await.map(drop)
    }

    /// Kills it if it still runs, and says how it ended.
    async fn end(mut self) -> String {
        let _ = self.child.start_kill();
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}
