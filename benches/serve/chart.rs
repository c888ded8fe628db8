//! The comparison as one SVG: four panels of labelled bars.
//!
//! Pure: takes columns, gives text. Legible on light and dark pages: colours follow `prefers-color-scheme`, and every bar has
//! its name and figure beside it, so that colour alone says nothing.

use std::fmt::Write;

use super::{
    figures::figure,
    report::{Column, Kind, Measure},
};

/// Panels: title, what is better, measure.
const PANELS: [(&str, &str, Measure); 4] = [
    ("Images per second", "32 connections, more is better", Measure::Images),
    ("Texts per second", "32 connections, more is better", Measure::Texts),
    ("Milliseconds for one image", "p50 at one connection, less is better", Measure::ImageP50),
    ("Resident memory, MB", "less is better", Measure::Resident),
];

// Pixels.
const WIDTH: usize = 900;
const MARGIN: usize = 24;
const PANEL_WIDTH: usize = (WIDTH - 3 * MARGIN) / 2;
const NAME_WIDTH: usize = 184;
const FIGURE_WIDTH: usize = 92;
const BAR_HEIGHT: usize = 20;
const BAR_STEP: usize = 28;
const HEAD: usize = 56;

const STYLE: &str = "\
    text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}\
    .title{font-weight:600;font-size:15px}.note{fill:#59636e;font-size:12px}\
    .ours{fill:#0969da}.ours-name{font-weight:600}.infinity{fill:#bc4c00}.loop{fill:#818b98}.axis{stroke:#d1d9e0}\
    @media(prefers-color-scheme:dark){text{fill:#f0f6fc}.note{fill:#9198a1}.ours{fill:#4493f8}.infinity{fill:#db6d28}\
    .loop{fill:#656c76}.axis{stroke:#3d444d}}";

/// The chart.
pub(crate) fn svg(columns: &[Column]) -> String {
    let panel_height = HEAD + columns.len() * BAR_STEP + MARGIN;
    let height = 2 * panel_height + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"clipserve beside infinity and plain loops around transformers and OpenVINO\">\n<style>{STYLE}</style>\n"
    );
    let infinity = columns.iter().find(|column| column.kind == Kind::Infinity);
    for (at, (title, note, measure)) in PANELS.into_iter().enumerate() {
        let (x, y) = (MARGIN + at % 2 * (PANEL_WIDTH + MARGIN), MARGIN + at / 2 * panel_height);
        let _ = writeln!(svg, "<text class=\"title\" x=\"{x}\" y=\"{}\">{title}</text>", y + 14);
        let _ = writeln!(svg, "<text class=\"note\" x=\"{x}\" y=\"{}\">{note}</text>", y + 34);
        panel(&mut svg, (x, y + HEAD), measure, columns, infinity);
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, (x, y): (usize, usize), measure: Measure, columns: &[Column], infinity: Option<&Column>) {
    let longest = columns.iter().filter_map(|column| column.median(measure)).fold(f64::MIN_POSITIVE, f64::max);
    let room = (PANEL_WIDTH - NAME_WIDTH - FIGURE_WIDTH) as f64;
    let left = x + NAME_WIDTH;
    for (at, column) in columns.iter().enumerate() {
        let (top, class) = (y + at * BAR_STEP, class(column.kind));
        let middle = top + BAR_HEIGHT / 2 + 5;
        let _ = writeln!(
            svg,
            "<text class=\"{class}-name\" x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
            left - 8,
            column.name
        );
        let Some(value) = column.median(measure) else { continue };
        let length = (value / longest * room).max(1.0);
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\"/>"
        );
        let ratio = infinity
            .filter(|infinity| infinity.name != column.name)
            .and_then(|infinity| column.ratio(measure, infinity, measure))
            .map(|ratio| format!(" <tspan class=\"note\">×{}</tspan>", figure(ratio)))
            .unwrap_or_default();
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{middle}\">{}{ratio}</text>",
            left as f64 + length + 6.0,
            figure(value)
        );
    }
    let bottom = y + columns.len() * BAR_STEP - (BAR_STEP - BAR_HEIGHT) / 2;
    let _ = writeln!(svg, "<line class=\"axis\" x1=\"{left}\" y1=\"{}\" x2=\"{left}\" y2=\"{bottom}\"/>", y - 4);
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Ours { .. } => "ours",
        Kind::Infinity => "infinity",
        Kind::Loop => "loop",
    }
}
