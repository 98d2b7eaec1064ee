//! The chart of this version, inside the binary: `install` needs no repository and no network of its own.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use tempfile::TempDir;

mod files;

use files::FILES;

/// Writes the chart to a folder that goes with the returned value.
pub(crate) fn unpack() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("outrigger-chart-").tempdir().context("a temporary folder")?;
    for (path, text) in FILES {
        write(&dir.path().join(path), text).with_context(|| format!("the chart's {path}"))?;
    }
    Ok(dir)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(path, text)?)
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::PathBuf};

    use super::*;

    /// Every file of a folder, as paths below it; what Helm doesn't package is left out.
    fn files(folder: &Path, below: &str) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = format!("{below}{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true if name == "tests" => {}
                true => found.extend(files(&entry.path(), &format!("{name}/"))),
                false => found.push(name),
            }
        }
        found.sort();
        found
    }

    fn table(names: &[String]) -> String {
        let lines = names
            .iter()
            .map(|name| format!("    ({name:?}, include_str!(\"../../../../charts/outrigger/{name}\")),\n"));
        format!(
            "//! Generated from charts/outrigger by `BLESS=1 cargo test -p outrigger-cli chart`.\n\n\
             /// Paths within the chart and what is there.\n#[rustfmt::skip]\npub(super) const FILES: &[(&str, &str)] = &[\n{}];\n",
            lines.collect::<String>()
        )
    }

    #[test]
    fn the_whole_chart_is_inside() {
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let wanted = table(&files(&here.join("../../charts/outrigger"), ""));
        let path = here.join("src/chart/files.rs");
        if env::var_os("BLESS").is_some() {
            fs::write(&path, &wanted).unwrap();
        }
        let is = fs::read_to_string(&path).unwrap();
        assert!(is == wanted, "{} isn't current: run BLESS=1 cargo test -p outrigger-cli chart", path.display());
    }

    #[test]
    fn it_is_of_this_version_and_unpacks() {
        let dir = unpack().unwrap();
        let chart = fs::read_to_string(dir.path().join("Chart.yaml")).unwrap();
        assert!(chart.contains(&format!("\nappVersion: {}\n", env!("CARGO_PKG_VERSION"))), "{chart}");
        assert!(dir.path().join("templates/_helpers.tpl").is_file());
        assert!(dir.path().join("values-ha.yaml").is_file());
    }
}
