//! Shows results as a Markdown table whose last columns are the target and whether it is met.

use std::fmt;

/// What a row has to reach.
pub struct Target {
    text: String,
    met: Option<bool>,
}

impl Target {
    /// The row stands for comparison only.
    pub fn none() -> Self {
        Self { text: String::new(), met: None }
    }

    /// The value must not be above the limit, in hundredths, as the table shows both.
    pub fn at_most(limit: f64, value: f64) -> Self {
        Self { text: format!("≤ {limit}"), met: Some((value * 100.0).round() <= (limit * 100.0).round()) }
    }

    /// A target in words.
    pub fn that(text: impl Into<String>, met: bool) -> Self {
        Self { text: text.into(), met: Some(met) }
    }
}

/// One section's result.
pub struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<(Vec<String>, Target)>,
}

impl Table {
    /// An empty table; the columns for the target come by themselves.
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>, target: Target) {
        self.rows.push((cells.into_iter().collect(), target));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        writeln!(f, "| {} | target | |", self.columns.join(" | "))?;
        writeln!(f, "| --- |{} --- | --- |", " ---: |".repeat(self.columns.len() - 1))?;
        for (cells, target) in &self.rows {
            let verdict = target.met.map_or("", |met| if met { "ok" } else { "MISS" });
            writeln!(f, "| {} | {} | {verdict} |", cells.join(" | "), target.text)?;
        }
        Ok(())
    }
}
