//! `docs/benchmarks.md` between its markers, made of the data alone.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    charts,
    data::{Measured, Results, Tables},
    goals,
    groups::Group,
    measure::Plan,
    peers::{envoy, haproxy, nginx},
};

const BEGIN: &str = "<!-- written by ./dev bench: begin -->";
const END: &str = "<!-- written by ./dev bench: end -->";

/// One group's figures, and what they were measured on.
pub(crate) fn measured(tables: Tables, plan: &Plan) -> Result<Measured> {
    let Plan { rounds, seconds, .. } = plan;
    Ok(Measured {
        at: said("date", &["--utc", "+%Y-%m-%d %H:%M"])?,
        machine: machine()?,
        options: format!("--rounds {rounds} --seconds {seconds}"),
        tables,
    })
}

/// Writes page and charts anew.
pub(crate) fn write(page: &Path, results: &Results) -> Result<()> {
    let folder = page.with_extension("");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut charts = Vec::new();
    for (name, title, svg) in charts::all(results) {
        let path = folder.join(&name).with_extension("svg");
        fs::write(&path, svg).with_context(|| path.display().to_string())?;
        charts.push((name, title));
    }
    let old = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let (head, rest) = old.split_once(BEGIN).context("no begin marker")?;
    let (_, tail) = rest.split_once(END).context("no end marker")?;
    let folder = folder.file_name().context("the page's name")?.to_string_lossy().into_owned();
    let text = text(results, &charts, &folder);
    fs::write(page, format!("{head}{BEGIN}\n\n{text}\n{END}{tail}")).with_context(|| page.display().to_string())
}

fn text(results: &Results, charts: &[(String, String)], folder: &str) -> String {
    let mut out = format!("### Goals\n\n{}\n", goals::markdown(results));
    // Writing to a String can't fail.
    for (name, title) in charts {
        let _ = writeln!(out, "![{title}]({folder}/{name}.svg)\n");
    }
    for group in Group::value_variants() {
        let Some(measured) = results.0.get(group.name()) else { continue };
        let _ = writeln!(out, "### {}", group.title());
        for sheet in group.sheets() {
            if let Some(table) = measured.tables.get(sheet.table) {
                out.push_str(&sheet.markdown(table));
            }
        }
        let _ = writeln!(
            out,
            "\n<sub>{} UTC, {}; `--only {} {}`</sub>\n",
            measured.at,
            measured.machine,
            group.name(),
            measured.options
        );
    }
    out.trim_end().to_owned() + "\n"
}

fn machine() -> Result<String> {
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |it| it.1);
    let cpus = info.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!("{cpus} × {model}, Linux {}, {}", said("uname", &["-r"])?, versions()?))
}

/// Of those that are measured, and of wrk.
fn versions() -> Result<String> {
    let of = |program: &Path, argument: &str| said(&program.display().to_string(), &[argument]);
    let word = |text: &str, at: usize| text.split([' ', '/']).nth(at).unwrap_or("unknown").to_owned();
    // `nginx version: nginx/1.2.3`, `HAProxy version 1.2.3-4 ...`, `FILE  version: HASH/1.2.3/...`, `wrk debian/1.2.3 ...`
    let nginx = word(&of(&nginx::binary()?, "-v")?, 3);
    let haproxy = word(&of(&haproxy::binary()?, "-v")?, 2);
    let envoy = of(&envoy::binary()?, "--version")?;
    let envoy = word(envoy.split_once("version: ").map_or("", |(_, version)| version), 1);
    let wrk = word(&said("wrk", &["-v"])?, 2);
    Ok(format!("nginx {nginx}, HAProxy {haproxy}, Envoy {envoy}, wrk {wrk}"))
}

/// The first line that a program prints.
fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    // nginx says its version on its error output.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned())
}
