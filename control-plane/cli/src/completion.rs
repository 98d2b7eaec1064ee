//! `outrigger completion`: what a shell needs to complete this program's arguments.

use std::{io::stdout, process::ExitCode};

use clap::Command;
use clap_complete::{Shell, generate};

pub(crate) fn run(shell: Shell, mut command: Command) -> ExitCode {
    let name = command.get_name().to_owned();
    generate(shell, &mut command, name, &mut stdout());
    ExitCode::SUCCESS
}
