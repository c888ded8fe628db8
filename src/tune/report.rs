//! What `tune` prints: for each stage a table and a chart, then what to put into the configuration. Markdown, so that it can be
//! kept as it is.
//!
//! Owns the layout. Does not own what was measured or chosen.
//!
//! Invariant: no line of a table or chart is wider than 100 columns.

use std::{fmt::Write, time::Duration};

use super::{
    knobs::{Knob, Knobs},
    search::{Findings, Row, Stage},
};
use crate::embedder::Modality;

/// Columns of the longest bar.
const BAR: usize = 50;

/// The findings, with the configuration they began from and the one that nobody has changed.
pub(super) fn render(findings: &Findings, given: &Knobs, defaults: &Knobs) -> String {
    let mut text = String::new();
    for stage in &findings.stages {
        let names: Vec<&str> = stage.varied.iter().map(|knob| knob.key()).collect();
        let _ = writeln!(text, "## {}: {}\n", items(stage.modality), names.join(" x "));
        text.push_str(&table(stage));
        let _ = writeln!(text, "\n```text\n{}```\n", chart(stage));
    }
    for (goal, knobs) in [("throughput", findings.throughput), ("latency", findings.latency)] {
        let _ = writeln!(text, "## For {goal}\n\n```toml\n{}```\n", knobs.toml(defaults, given));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn items(modality: Modality) -> &'static str {
    match modality {
        Modality::Image => "images",
        Modality::Text => "texts",
    }
}

/// One line for each combination, the columns as wide as they need to be.
fn table(stage: &Stage) -> String {
    let mut rows = vec![header(stage)];
    for (at, row) in stage.rows.iter().enumerate() {
        let mut cells: Vec<String> = stage.varied.iter().map(|&knob| row.knobs[knob].to_string()).collect();
        cells.push(format!("{:.1}", row.rate()));
        cells.push(milliseconds(row.latency(0.5)));
        cells.push(milliseconds(row.latency(0.99)));
        cells.push(row.resident().map_or("?".to_owned(), |bytes| (bytes >> 20).to_string()));
        cells.push(choice(stage, at).to_owned());
        rows.push(cells);
    }
    let widths: Vec<usize> =
        (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let numbers = row.len() - 1;
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < numbers { format!(" {cell:>width$} ") } else { format!(" {cell:<width$} ") }
        });
        let _ = writeln!(text, "|{}|", cells.collect::<Vec<_>>().join("|"));
        if at == 0 {
            let rules = widths.iter().enumerate().map(|(column, &width)| {
                if column < numbers { format!("{}:", "-".repeat(width + 1)) } else { "-".repeat(width + 2) }
            });
            let _ = writeln!(text, "|{}|", rules.collect::<Vec<_>>().join("|"));
        }
    }
    text
}

fn header(stage: &Stage) -> Vec<String> {
    // The encoder is named by the heading: its two knobs side by side would leave no room for figures.
    let short = |knob: &Knob| knob.key().rsplit('.').next().unwrap_or_default().to_owned();
    let names = stage.varied.iter().map(short);
    let rate = format!("{}/s", items(stage.modality));
    names.chain([rate, "p50 ms".into(), "p99 ms".into(), "MiB".into(), "best for".into()]).collect()
}

fn milliseconds(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.1}") }
}

/// What the row was chosen for. The batch and the preprocess threads are nothing to a lone item.
fn choice(stage: &Stage, row: usize) -> &'static str {
    let latency = row == stage.quickest && stage.varied.contains(&Knob::IntraThreads);
    match (row == stage.fastest, latency) {
        (true, true) => "both",
        (true, false) => "throughput",
        (false, true) => "latency",
        (false, false) => "",
    }
}

/// A bar for each combination, as long as its items a second.
fn chart(stage: &Stage) -> String {
    let label = |row: &Row| {
        let values: Vec<String> = stage.varied.iter().map(|&knob| row.knobs[knob].to_string()).collect();
        values.join(" x ")
    };
    let most = stage.rows.iter().map(Row::rate).fold(0.0, f64::max);
    let width = stage.rows.iter().map(|row| label(row).len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &stage.rows {
        let rate = row.rate();
        let _ = writeln!(text, "{:>width$}  {} {rate:.1}", label(row), bar(rate / most));
    }
    text
}

/// A bar of `share` of [`BAR`] columns, to an eighth of one.
fn bar(share: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::BatchSizes;
    use crate::tune::search::Sample;

    fn row(knobs: Knobs, rate: f64, latency_us: u64, resident: Option<u64>) -> Row {
        Row { knobs, samples: vec![Sample { rate, latencies: vec![Duration::from_micros(latency_us)], resident }] }
    }

    fn findings() -> (Findings, Knobs) {
        let defaults = Knobs::defaults(BatchSizes { images: 8, texts: 64 }).unwrap();
        let all = defaults.with(Knob::IntraThreads, 2);
        let halves = defaults.with(Knob::VisionSessions, 2).with(Knob::IntraThreads, 1);
        let threads = Stage {
            modality: Modality::Image,
            varied: vec![Knob::VisionSessions, Knob::IntraThreads],
            rows: vec![row(all, 20.0, 51_234, Some(1000 << 20)), row(halves, 22.54, 92_000, Some(1500 << 20))],
            fastest: 1,
            quickest: 0,
        };
        let texts = Stage {
            modality: Modality::Text,
            varied: vec![Knob::TextBatch],
            rows: vec![row(halves, 1234.56, 1_500, None), row(halves.with(Knob::TextBatch, 1), 0.0, 1_500, None)],
            fastest: 0,
            quickest: 0,
        };
        (Findings { stages: vec![threads, texts], throughput: halves, latency: all }, all)
    }

    #[test]
    fn a_report_is_tables_charts_and_what_to_set() {
        let (findings, given) = findings();
        let expected = "\
## images: engine.vision.sessions x engine.intra_threads

| sessions | intra_threads | images/s | p50 ms | p99 ms |  MiB | best for   |
|---------:|--------------:|---------:|-------:|-------:|-----:|------------|
|        1 |             2 |     20.0 |   51.2 |   51.2 | 1000 | latency    |
|        2 |             1 |     22.5 |   92.0 |   92.0 | 1500 | throughput |

```text
1 x 2  ████████████████████████████████████████████▍ 20.0
2 x 1  ██████████████████████████████████████████████████ 22.5
```

## texts: batch.text.max_batch_size

| max_batch_size | texts/s | p50 ms | p99 ms | MiB | best for   |
|---------------:|--------:|-------:|-------:|----:|------------|
|             64 |  1234.6 |   1.50 |   1.50 |   ? | throughput |
|              1 |     0.0 |   1.50 |   1.50 |   ? |            |

```text
64  ██████████████████████████████████████████████████ 1234.6
 1   0.0
```

## For throughput

```toml
[engine]
intra_threads = 1

[engine.vision]
sessions = 2
```

## For latency

```toml
# Nothing: the defaults are the best here.
```
";
        let rendered = render(&findings, &given, &given);
        assert_eq!(rendered, expected);
        assert!(rendered.lines().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn a_bar_has_eighths_and_never_more_than_its_width() {
        assert_eq!((bar(0.0), bar(1.0), bar(f64::NAN)), (String::new(), "█".repeat(BAR), String::new()));
        assert_eq!(bar(1.0 / 8.0 / BAR as f64), "▏");
        assert_eq!(bar(2.0).chars().count(), BAR);
    }
}
