//! How figures are shown: columns of a table, each made of the rounds of one figure, or of two rows' in the same round.

use std::fmt::Write as _;

use crate::data::{Spread, Table, by_round};

pub(crate) struct Sheet {
    /// Name of the table in the data.
    pub(crate) table: &'static str,
    pub(crate) title: &'static str,
    pub(crate) note: &'static str,
    pub(crate) columns: &'static [Column],
}

pub(crate) struct Column {
    pub(crate) head: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) show: Show,
    pub(crate) digits: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Show {
    Median,
    Spread,
    /// To that row.
    Ratio(&'static str),
    /// Less that row.
    Added(&'static str),
    /// What it adds to the first row, to what the second adds to it.
    AddedRatio(&'static str, &'static str),
}

pub(crate) const fn column(head: &'static str, figure: &'static str, show: Show, digits: usize) -> Column {
    Column { head, figure, show, digits }
}

// === impl Sheet ===

impl Sheet {
    pub(crate) fn markdown(&self, table: &Table) -> String {
        let mut out = format!("\n**{}**\n\n", self.title);
        if !self.note.is_empty() {
            out.push_str(self.note);
            out.push_str("\n\n");
        }
        let heads: String = self.columns.iter().map(|column| format!(" {} |", column.head)).collect();
        // Writing to a String can't fail.
        let _ = writeln!(out, "| |{heads}\n|---|{}", "---|".repeat(self.columns.len()));
        for row in &table.0 {
            let cells: String =
                self.columns.iter().map(|column| format!(" {} |", column.cell(table, &row.name))).collect();
            let _ = writeln!(out, "| {} |{cells}", row.name);
        }
        out
    }
}

// === impl Show ===

impl Show {
    /// By round; nothing where a row or a figure is missing.
    pub(crate) fn values(self, table: &Table, row: &str, figure: &str) -> Option<Vec<f64>> {
        let own = table.of(row, figure)?;
        match self {
            Self::Median | Self::Spread => Some(own.to_vec()),
            Self::Ratio(to) => Some(by_round(own, table.of(to, figure)?, |own, to| own / to)),
            Self::Added(to) => Some(by_round(own, table.of(to, figure)?, |own, to| own - to)),
            Self::AddedRatio(base, to) => {
                let base = table.of(base, figure)?;
                let own = by_round(own, base, |own, base| own - base);
                let to = by_round(table.of(to, figure)?, base, |to, base| to - base);
                Some(by_round(&own, &to, |own, to| own / to))
            }
        }
    }
}

// === impl Column ===

impl Column {
    fn cell(&self, table: &Table, row: &str) -> String {
        let meaningless = matches!(self.show, Show::AddedRatio(base, _) | Show::Added(base) if base == row);
        let values = self.show.values(table, row, self.figure).filter(|_| !meaningless);
        match values.as_deref().and_then(Spread::of) {
            None => "–".to_owned(),
            Some(spread) if matches!(self.show, Show::Median) || spread.least == spread.most => {
                format!("{:.*}", self.digits, spread.median)
            }
            Some(spread) => spread.text(self.digits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_each_round() {
        let mut table = Table::default();
        for round in [1.0, 2.0] {
            table.add("no proxy", &[("p50", 10.0)]);
            table.add("nginx", &[("p50", 10.0 + round)]);
            table.add("pair", &[("p50", 10.0 + 3.0 * round)]);
        }
        let of = |show: Show, row| show.values(&table, row, "p50");
        assert_eq!(of(Show::Added("no proxy"), "pair"), Some(vec![3.0, 6.0]));
        assert_eq!(of(Show::AddedRatio("no proxy", "nginx"), "pair"), Some(vec![3.0, 3.0]));
        assert_eq!(of(Show::Ratio("nowhere"), "pair"), None);
        const COLUMNS: &[Column] =
            &[column("added", "p50", Show::Added("no proxy"), 0), column("none", "cpu", Show::Median, 0)];
        let sheet = Sheet { table: "c1", title: "One", note: "", columns: COLUMNS };
        let want = "\n**One**\n\n| | added | none |\n|---|---|---|\n| no proxy | – | – |\n| nginx | 2 (1..2) | – |\n\
                    | pair | 4 (3..6) | – |\n";
        assert_eq!(sheet.markdown(&table), want);
    }
}
