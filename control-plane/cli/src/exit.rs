//! Exit codes, the same for every command and every form of output: 0 ok, 1 findings, 2 usage, 3 cluster not reachable.

use std::{error::Error, fmt, process::ExitCode};

/// Something is wrong with what was looked at, or the command itself failed.
pub(crate) const FINDINGS: u8 = 1;
/// The command can't be understood.
const USAGE: u8 = 2;
/// There is no way to the cluster, or to the controller.
const UNREACHABLE: u8 = 3;

/// Why a command ends early, where that decides its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Usage,
    Unreachable,
}

/// An [`Ended`] with what to tell the person.
#[derive(Debug)]
pub(crate) struct Early {
    pub(crate) why: Ended,
    message: String,
}

/// The command can't be understood.
pub(crate) fn usage(message: impl fmt::Display) -> anyhow::Error {
    Early { why: Ended::Usage, message: message.to_string() }.into()
}

/// There is no way to what was asked.
pub(crate) fn unreachable(message: impl fmt::Display) -> anyhow::Error {
    Early { why: Ended::Unreachable, message: message.to_string() }.into()
}

/// The exit code of a command that failed.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<Early>().map(|early| early.why) {
        Some(Ended::Usage) => USAGE.into(),
        Some(Ended::Unreachable) => UNREACHABLE.into(),
        None => FINDINGS.into(),
    }
}

/// 0, or 1 if there is something to be seen to.
pub(crate) fn findings(any: bool) -> ExitCode {
    if any { FINDINGS.into() } else { ExitCode::SUCCESS }
}

// === impl Early ===

impl fmt::Display for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Early {}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_reason_survives_its_context() {
        let code_of = |error: anyhow::Error| format!("{:?}", code(&error.context("and so it failed")));
        let plain = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code_of(usage("no such word")), plain(2));
        assert_eq!(code_of(unreachable("nobody there")), plain(3));
        assert_eq!(code_of(anyhow::anyhow!("helm failed")), plain(1));
        let nested: anyhow::Result<()> = Err(unreachable("nobody there")).context("outer");
        assert_eq!(code_of(nested.unwrap_err()), plain(3));
    }
}
