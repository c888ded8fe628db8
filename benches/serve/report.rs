//! The comparison's numbers as Markdown: the table, and what the service is held to.
//!
//! Pure: takes numbers, gives text. Invariants: a figure is the median over the rounds; a ratio is the median of the
//! ratios of each round, since a machine that drifts hits both sides of one round alike.

use std::collections::BTreeMap;

use super::{
    costs::{Cost, Work},
    figures::{figure, median},
};

/// What is compared. The order is that of the table's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// Images per second at 32 connections.
    Images,
    /// The same again, with the next two in a row: what flatness is measured by.
    Images32,
    /// The same at 128.
    Images128,
    /// The same at 512.
    Images512,
    /// Images per second of ONNX Runtime alone, at its best batch size.
    Bare,
    /// Images per second that the cores' arithmetic allows.
    Limit,
    /// JPEGs of 12 megapixels per second at 16 connections.
    Phone,
    /// Milliseconds of one image at one connection: the median.
    ImageP50,
    /// The same: the 90th percentile.
    ImageP90,
    /// Texts per second at 32 connections, all different.
    Texts,
    /// Texts per second at 32 connections, from an embedding cache.
    CachedTexts,
    /// Milliseconds of one text at one connection: the median.
    TextP50,
    /// The same: the 90th percentile.
    TextP90,
    /// Memory at the end, MB.
    Resident,
    /// The most memory there was, MB.
    Peak,
    /// Cosine of an image's embedding to infinity's.
    ImageCosine,
    /// Cosine of a text's embedding to infinity's.
    TextCosine,
    /// Of ViT-L/14's sizes: images per second at 8 connections.
    LargeImages,
    /// The same: what the cores' arithmetic allows.
    LargeLimit,
    /// The same: milliseconds of one image at one connection, the median.
    LargeP50,
    /// The same: memory at the end, MB.
    LargeResident,
}

impl Measure {
    const ALL: [Self; 21] = [
        Self::Images,
        Self::Images32,
        Self::Images128,
        Self::Images512,
        Self::Bare,
        Self::Limit,
        Self::Phone,
        Self::ImageP50,
        Self::ImageP90,
        Self::Texts,
        Self::CachedTexts,
        Self::TextP50,
        Self::TextP90,
        Self::Resident,
        Self::Peak,
        Self::ImageCosine,
        Self::TextCosine,
        Self::LargeImages,
        Self::LargeLimit,
        Self::LargeP50,
        Self::LargeResident,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Images => "images/s, 32 connections",
            Self::Images32 => "in a row: images/s, 32 connections",
            Self::Images128 => "in a row: images/s, 128 connections",
            Self::Images512 => "in a row: images/s, 512 connections",
            Self::Bare => "images/s, ONNX Runtime alone",
            Self::Limit => "images/s, the cores' arithmetic at its limit",
            Self::Phone => "12-megapixel JPEGs/s, 16 connections",
            Self::ImageP50 => "one image at one connection, p50 ms",
            Self::ImageP90 => "one image at one connection, p90 ms",
            Self::Texts => "texts/s, 32 connections",
            Self::CachedTexts => "cached texts/s, 32 connections",
            Self::TextP50 => "one text at one connection, p50 ms",
            Self::TextP90 => "one text at one connection, p90 ms",
            Self::Resident => "resident memory, MB",
            Self::Peak => "peak memory, MB",
            Self::ImageCosine => "cosine to infinity's embedding, image",
            Self::TextCosine => "cosine to infinity's embedding, text",
            Self::LargeImages => "ViT-L/14: images/s, 8 connections",
            Self::LargeLimit => "ViT-L/14: images/s, the cores' arithmetic at its limit",
            Self::LargeP50 => "ViT-L/14: one image at one connection, p50 ms",
            Self::LargeResident => "ViT-L/14: resident memory, MB",
        }
    }
}

/// Whose numbers they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// clipserve, and what it is held to in this precision: of bare ONNX Runtime's speed, and of the cores' arithmetic with a large model.
    Ours { bare_bar: Option<f64>, limit_bar: f64 },
    /// infinity: what ratios are to.
    Infinity,
    /// A plain loop in Python, around `transformers` or OpenVINO.
    Loop,
}

/// One service's numbers, one for each round.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// The column's heading.
    pub(crate) name: String,
    /// Whose it is.
    pub(crate) kind: Kind,
    /// By measure.
    pub(crate) samples: BTreeMap<Measure, Vec<f64>>,
    /// What a picture cost in each round.
    pub(crate) costs: BTreeMap<Work, Vec<Cost>>,
}

impl Column {
    /// Without numbers yet.
    pub(crate) fn new(name: String, kind: Kind) -> Self {
        Self { name, kind, samples: BTreeMap::new(), costs: BTreeMap::new() }
    }

    /// One more round.
    pub(crate) fn push(&mut self, measure: Measure, value: f64) {
        self.samples.entry(measure).or_default().push(value);
    }

    /// What was measured of the same service with another model is its too.
    pub(crate) fn merge(&mut self, other: Self) {
        self.samples.extend(other.samples);
        self.costs.extend(other.costs);
    }

    /// The median over the rounds.
    pub(crate) fn median(&self, measure: Measure) -> Option<f64> {
        self.samples.get(&measure).filter(|samples| !samples.is_empty()).map(|samples| median(samples))
    }

    /// The median over the rounds of this one's `measure` to `other`'s `of`.
    pub(crate) fn ratio(&self, measure: Measure, other: &Self, of: Measure) -> Option<f64> {
        let (ours, theirs) = (self.samples.get(&measure)?, other.samples.get(&of)?);
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }
}

/// The table: one column for each service, ratios to infinity in brackets.
pub(crate) fn table(columns: &[Column]) -> String {
    let infinity = columns.iter().find(|column| column.kind == Kind::Infinity);
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    let mut table = format!("| | {} |\n|---|{}\n", names.join(" | "), "---:|".repeat(names.len()));
    for measure in Measure::ALL {
        if columns.iter().all(|column| column.median(measure).is_none()) {
            continue;
        }
        let cells = columns.iter().map(|column| cell(column, measure, infinity));
        table += &format!("| {} | {} |\n", measure.title(), cells.collect::<Vec<_>>().join(" | "));
    }
    table
}

fn cell(column: &Column, measure: Measure, infinity: Option<&Column>) -> String {
    let Some(value) = column.median(measure) else { return "-".to_owned() };
    if matches!(measure, Measure::ImageCosine | Measure::TextCosine) {
        return format!("{value:.6}");
    }
    let ratio = infinity
        .filter(|infinity| infinity.name != column.name)
        .and_then(|infinity| column.ratio(measure, infinity, measure));
    match ratio {
        Some(ratio) => format!("{} ({ratio:.2})", figure(value)),
        None => figure(value),
    }
}

/// One requirement, and how it was met.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bar {
    what: String,
    value: f64,
    required: f64,
    /// Whether more is better.
    at_least: bool,
    /// What the machine's arithmetic allows at most, where that is less than what is required.
    ceiling: Option<f64>,
}

impl Bar {
    fn met(&self) -> bool {
        if self.at_least { self.value >= self.required } else { self.value <= self.required }
    }

    fn row(&self) -> String {
        let (sign, word) = if self.at_least { ("≥", "over") } else { ("≤", "under") };
        let margin = (self.value / self.required - 1.0) * if self.at_least { 100.0 } else { -100.0 };
        let verdict = if self.met() {
            format!("**met**, {margin:.0} % {word}")
        } else {
            let ceiling = self.ceiling.map(|most| format!("; the cores' arithmetic allows {}", figure(most)));
            format!("**missed** by {:.0} %{}", -margin, ceiling.unwrap_or_default())
        };
        format!("| {} | {sign} {} | {} | {verdict} |\n", self.what, figure(self.required), figure(self.value))
    }
}

/// What the service is held to, for each precision.
pub(crate) fn bars(columns: &[Column]) -> Vec<Bar> {
    let mut bars = Vec::new();
    let infinity = columns.iter().find(|column| column.kind == Kind::Infinity);
    for column in columns {
        let Kind::Ours { bare_bar, limit_bar } = column.kind else { continue };
        let bar = |what: &str, value: Option<f64>, required: f64, at_least: bool| {
            let what = format!("{}: {what}", column.name);
            value.map(|value| Bar { what, value, required, at_least, ceiling: None })
        };
        let to_infinity = |measure| infinity.and_then(|infinity| column.ratio(measure, infinity, measure));
        if let Some(required) = bare_bar {
            let ratio = column.ratio(Measure::Images, column, Measure::Bare);
            bars.extend(bar("images/s served, of ONNX Runtime alone", ratio, required, true));
        }
        let images = bar("images/s at 32 connections, of infinity's", to_infinity(Measure::Images), 4.0, true);
        let limit = infinity.and_then(|infinity| column.ratio(Measure::Limit, infinity, Measure::Images));
        bars.extend(images.map(|bar| Bar { ceiling: limit.filter(|&limit| limit < bar.required), ..bar }));
        let p50 = to_infinity(Measure::ImageP50);
        bars.extend(bar("p50 of one image at one connection, of infinity's", p50, 0.25, false));
        bars.extend(bar("texts/s at 32 connections, of infinity's", to_infinity(Measure::Texts), 5.0, true));
        bars.extend(bar("resident memory, of infinity's", to_infinity(Measure::Resident), 0.5, false));
        for (measure, connections) in [(Measure::Images128, 128), (Measure::Images512, 512)] {
            let what = format!("images/s at {connections} connections, of that at 32");
            bars.extend(bar(&what, column.ratio(measure, column, Measure::Images32), 0.95, true));
        }
        let limit = column.ratio(Measure::LargeImages, column, Measure::LargeLimit);
        bars.extend(bar("ViT-L/14: images/s at 8 connections, of the cores' arithmetic", limit, limit_bar, true));
        let p50 = to_infinity(Measure::LargeP50);
        bars.extend(bar("ViT-L/14: p50 of one image at one connection, of infinity's", p50, 0.25, false));
        let resident = to_infinity(Measure::LargeResident);
        bars.extend(bar("ViT-L/14: resident memory, of infinity's", resident, 0.3, false));
        bars.extend(bar("cached texts/s", column.median(Measure::CachedTexts), 20_000.0, true));
    }
    bars
}

/// The bars as a table.
pub(crate) fn bar_table(bars: &[Bar]) -> String {
    let rows: String = bars.iter().map(Bar::row).collect();
    format!("| bar | required | measured | |\n|---|---:|---:|---|\n{rows}")
}
