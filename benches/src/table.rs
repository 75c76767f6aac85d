//! What a benchmark prints: a table for people, or one JSON object a line.

use serde::Serialize;

/// One figure.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The bound that it should keep, if there is one: `<= 1.4`.
    pub target: Option<String>,
    /// Whether it does.
    pub met: Option<bool>,
}

/// A bound.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// Where figures go.
#[derive(Debug)]
pub struct Table {
    json: bool,
}

impl Table {
    /// A table on standard output, or JSON lines.
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a figure that is only told.
    pub fn tell(&self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.print(&Figure { name: name.into(), value, unit, target: None, met: None });
    }

    /// Prints a figure against its bound.
    pub fn judge(&self, name: impl Into<String>, value: f64, unit: &'static str, target: Target) {
        let (text, met) = match target {
            Target::AtMost(bound) => (format!("<= {bound}"), value <= bound),
            Target::AtLeast(bound) => (format!(">= {bound}"), value >= bound),
        };
        self.print(&Figure { name: name.into(), value, unit, target: Some(text), met: Some(met) });
    }

    /// Prints a heading; JSON has none.
    pub fn heading(&self, text: &str) {
        if !self.json {
            println!("\n{text}");
        }
    }

    fn print(&self, figure: &Figure) {
        if self.json {
            println!("{}", serde_json::to_string(figure).unwrap_or_default());
            return;
        }
        let met = match figure.met {
            None => "",
            Some(true) => "met",
            Some(false) => "NOT MET",
        };
        let target = figure.target.as_deref().unwrap_or("");
        println!("  {:<58} {:>12.3} {:<10} {:>12}  {met}", figure.name, figure.value, figure.unit, target);
    }
}

/// The median.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
