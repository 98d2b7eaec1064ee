//! `outrigger validate`: what the controller would say of files, said before it sees them.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use outrigger_crds::load;

pub(crate) fn run(files: &[PathBuf]) -> Result<ExitCode> {
    let (mut objects, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let (loaded, found) = load::parse(&file.display().to_string(), &text);
        objects.extend(loaded);
        problems.extend(found);
    }
    problems.extend(load::duplicates(&objects));
    for problem in &problems {
        eprintln!("{problem}");
    }
    println!("{} valid, {} problems", objects.len(), problems.len());
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
