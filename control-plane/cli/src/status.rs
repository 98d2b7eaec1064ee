//! `outrigger status`: who is connected to a controller and what they have accepted.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::probe;
use serde_json::Value;

/// Path of the controller's list of proxies.
const PROXIES: &str = "/debug/proxies";

pub(crate) fn run(controller: SocketAddr, json: bool) -> Result<ExitCode> {
    let page = probe::get_here(controller, PROXIES).with_context(|| format!("the controller at {controller}"))?;
    ensure!(page.status == 200, "the controller at {controller} answered {}", page.status);
    let proxies: Value = serde_json::from_str(&page.body).context("not JSON")?;
    if json {
        println!("{proxies:#}");
    } else {
        print!("{}", table(&proxies));
    }
    Ok(ExitCode::SUCCESS)
}

/// One row per proxy, one column per field of the first of them.
fn table(proxies: &Value) -> String {
    let rows = proxies.as_array().or_else(|| proxies.get("proxies")?.as_array());
    let Some(rows) = rows.filter(|rows| !rows.is_empty()) else { return "no proxies\n".to_owned() };
    let names: Vec<_> = rows[0].as_object().into_iter().flat_map(|fields| fields.keys().cloned()).collect();
    let head = names.iter().map(|name| name.replace('_', "-").to_uppercase()).collect();
    let lines = rows.iter().map(|row| names.iter().map(|name| cell(&row[name])).collect());
    columns(&std::iter::once(head).chain(lines).collect::<Vec<_>>())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{}:{}", short(name), cell(value))).collect::<Vec<_>>().join(" ")
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Type URLs by their last word.
fn short(name: &str) -> &str {
    name.rsplit(['.', '/']).next().unwrap_or(name)
}

fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..count).map(|at| width(at).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_per_proxy() {
        let proxies = json!([
            {"acked": {"type.googleapis.com/x.Service": 3}, "workload": "shop/front"},
            {"acked": {"type.googleapis.com/x.Service": 14}, "workload": "shop/cart"},
        ]);
        assert_eq!(table(&proxies), "ACKED       WORKLOAD\nService:3   shop/front\nService:14  shop/cart\n");
        assert_eq!(table(&json!([])), "no proxies\n");
    }
}
