//! The figures: a table on the console and one JSON object a line in `target/bench.jsonl`. Never judges them.

use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// One figure beside its limit.
pub(crate) struct Figure {
    /// Its name.
    pub(crate) name: String,
    /// The daemon's.
    pub(crate) value: f64,
    /// What both count.
    pub(crate) unit: &'static str,
    /// What it is compared with, measured in the same run; none where there is nothing to compare with.
    pub(crate) limit: Option<f64>,
    /// The median of the pairs' ratios, which is not the ratio of the medians.
    pub(crate) ratio: Option<f64>,
    /// How far the runs lie apart.
    pub(crate) runs: String,
}

/// All figures of this run.
#[derive(Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure and shows it.
    pub(crate) fn add(&mut self, figure: Figure) {
        println!("{}", line(&figure));
        self.figures.push(figure);
    }

    /// Adds what the runs had of memory at most, MiB.
    pub(crate) fn memory(&mut self, name: String, peaks: &[f64]) {
        let (value, runs) = (median(peaks), format!("{peaks:.0?}"));
        self.add(Figure { name, value, unit: "MiB", limit: None, ratio: None, runs });
    }

    /// Prints the table and writes the file.
    pub(crate) fn finish(&self) {
        println!("\n{:<28} {:>12} {:>12} {:>7}  unit, runs", "name", "value", "limit", "ratio");
        self.figures.iter().for_each(|figure| println!("{}", line(figure)));
        let path = target().join("bench.jsonl");
        let mut file = fs::File::create(&path).expect("target/bench.jsonl can be written");
        for Figure { name, value, unit, limit, ratio, .. } in &self.figures {
            let line = json!({ "name": name, "value": value, "unit": unit, "limit": limit, "ratio": ratio });
            writeln!(file, "{line}").expect("target/bench.jsonl can be written");
        }
        println!("written: {}", path.display());
    }
}

fn line(figure: &Figure) -> String {
    let optional = |value: Option<f64>, digits| value.map_or("-".into(), |v| format!("{v:.digits$}"));
    let Figure { name, value, unit, limit, ratio, runs } = figure;
    let (limit, ratio) = (optional(*limit, 1), optional(*ratio, 2));
    format!("{name:<28} {value:>12.1} {limit:>12} {ratio:>7}  {unit} {runs}")
}

/// `target` in the clone, wherever cargo builds.
fn target() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    fs::create_dir_all(&target).expect("target/ can be made");
    target
}

/// The value below which `share` of the values lie; the values must be there.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// The middle one.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}
