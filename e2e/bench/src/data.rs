//! What was measured, as `docs/benchmarks.json` keeps it: by group, table, row and name, one figure per round. Tells
//! nothing about how it is shown.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Results(pub(crate) BTreeMap<String, Measured>);

/// One group. A new run of the group replaces it, and nothing else.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// UTC.
    pub(crate) at: String,
    pub(crate) machine: String,
    pub(crate) options: String,
    pub(crate) tables: BTreeMap<String, Table>,
}

/// Rows in the order in which they are shown.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Table(pub(crate) Vec<Row>);

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Figures by name, in the order of rounds.
    pub(crate) values: BTreeMap<String, Vec<f64>>,
}

/// What one run gave, by name.
pub(crate) type Figures = Vec<(&'static str, f64)>;

pub(crate) type Tables = BTreeMap<String, Table>;

/// Median, least and most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

// === impl Results ===

impl Results {
    /// Nothing yet is well.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{}: not what we write; remove it", path.display()))
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    pub(crate) fn table(&self, group: &str, table: &str) -> Option<&Table> {
        self.0.get(group)?.tables.get(table)
    }

    /// Figures of a row, by round; none if it wasn't measured.
    pub(crate) fn of(&self, group: &str, table: &str, row: &str, figure: &str) -> Option<&[f64]> {
        self.table(group, table)?.of(row, figure)
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn of(&self, row: &str, figure: &str) -> Option<&[f64]> {
        let row = self.0.iter().find(|it| it.name == row)?;
        row.values.get(figure).map(Vec::as_slice)
    }

    /// Takes over the rows of another table, its figures under names of `suffix`.
    pub(crate) fn merge(&mut self, suffix: &str, other: Self) {
        for row in other.0 {
            let at = self.at(&row.name);
            let figures = row.values.into_iter().map(|(name, values)| (format!("{name} {suffix}"), values));
            self.0[at].values.extend(figures);
        }
    }

    /// Where a row is; it's new if there is none of this name.
    fn at(&mut self, row: &str) -> usize {
        self.0.iter().position(|it| it.name == row).unwrap_or_else(|| {
            self.0.push(Row { name: row.to_owned(), values: BTreeMap::new() });
            self.0.len() - 1
        })
    }

    /// Adds a round's figures to a row, which is new if there is none of this name.
    pub(crate) fn add(&mut self, row: &str, figures: &[(&'static str, f64)]) {
        let at = self.at(row);
        for (name, value) in figures {
            // Thousandths are less than anything that we claim.
            let value = (value * 1000.0).round() / 1000.0;
            self.0[at].values.entry((*name).to_owned()).or_default().push(value);
        }
    }
}

// === impl Spread ===

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Self { median, least, most })
    }

    /// Median and, in brackets, least and most.
    pub(crate) fn text(self, digits: usize) -> String {
        let Self { median, least, most } = self;
        format!("{median:.digits$} ({least:.digits$}..{most:.digits$})")
    }
}

/// Round by round.
pub(crate) fn by_round(one: &[f64], other: &[f64], of: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    one.iter().zip(other).map(|(one, other)| of(*one, *other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        let text = |values: &[f64]| Spread::of(values).map(|spread| spread.text(1));
        assert_eq!(text(&[3.0, 1.0, 2.0]).as_deref(), Some("2.0 (1.0..3.0)"));
        assert_eq!(text(&[1.0, 2.0]).as_deref(), Some("1.5 (1.0..2.0)"));
        assert_eq!(text(&[]), None);
    }

    #[test]
    fn rows_gather_rounds() {
        let mut table = Table::default();
        table.add("a", &[("cpu", 1.0)]);
        table.add("b", &[("cpu", 2.0)]);
        table.add("a", &[("cpu", 3.0)]);
        assert_eq!(table.of("a", "cpu"), Some([1.0, 3.0].as_slice()));
        assert_eq!(table.of("c", "cpu"), None);
    }
}
