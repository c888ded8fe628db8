//! The parts of the benchmarks that are arithmetic: arrival times, what a window counts, requests, the report.
//!
//! Nothing is timed here and no server runs: a benchmark is a program that people run. What is tested is what its numbers
//! mean.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::BodyExt;

#[path = "../../benches/serve/chart.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod chart;
#[path = "../../benches/serve/figures.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod figures;
#[path = "../../benches/serve/report.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod report;
#[path = "../../benches/serve/load/request.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod request;
#[path = "../../benches/serve/load/schedule.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod schedule;
#[path = "../../benches/serve/load/summary.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod summary;

use report::{Column, Kind, Measure, bar_table, bars, table};
use request::{Ask, Template, Wire};
use schedule::{Arrivals, Schedule};
use summary::{Outcome, Recorder};

#[test]
fn fixed_arrivals_are_evenly_spaced() {
    let times: Vec<_> = Schedule::new(Arrivals::Fixed, 4.0, 0).take(3).map(|time| time.as_secs_f64()).collect();
    assert_eq!(times, [0.25, 0.5, 0.75]);
}

#[test]
fn poisson_arrivals_keep_the_rate_and_vary_as_much_as_their_mean() {
    let times: Vec<_> = Schedule::new(Arrivals::Poisson, 50.0, 7).take(20_000).map(|time| time.as_secs_f64()).collect();
    assert!(times.is_sorted());
    let gaps: Vec<_> = std::iter::once(times[0]).chain(times.windows(2).map(|pair| pair[1] - pair[0])).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
    assert!((mean / 0.02 - 1.0).abs() < 0.03, "{mean}");
    assert!((deviation / mean - 1.0).abs() < 0.03, "{deviation}");
}

#[test]
fn a_seed_gives_the_same_arrivals_again() {
    let times = |seed| Schedule::new(Arrivals::Poisson, 9.0, seed).take(5).collect::<Vec<_>>();
    assert_eq!(times(1), times(1));
    assert_ne!(times(1), times(2));
}

const MS: Duration = Duration::from_millis(1);

/// A window from 1 s to 3 s after the start, and a second for the SLO.
fn recorder() -> (Instant, Recorder) {
    let start = Instant::now();
    (start, Recorder::new(start, start + 1000 * MS..start + 3000 * MS, 1000 * MS))
}

#[test]
fn a_closed_loop_counts_from_answer_to_answer() {
    let (start, mut recorder) = recorder();
    // Bursts of two every 800 ms: 0.8, 1.6, 2.4, 3.2 s. The window cuts off neither half of a burst.
    for burst in 1..=4 {
        for _ in 0..2 {
            recorder.closed(start + (burst - 1) * 800 * MS, start + burst * 800 * MS, Outcome::Answered);
        }
    }
    let summary = recorder.summary(false, 0.0);
    assert_eq!((summary.answered, summary.offered), (4, None));
    assert!((summary.rate - 2.5).abs() < 1e-9, "{}", summary.rate);
    assert!(summary.latency(0.5).abs_diff(800 * MS) < MS);
}

#[test]
fn an_open_loop_counts_latency_from_the_arrival_and_what_was_never_answered() {
    let (start, mut recorder) = recorder();
    for (arrival, latency) in [(500, 10), (900, 200), (1500, 600), (1600, 1500), (2900, 900)] {
        recorder.arrived(start + arrival * MS);
        recorder.open(start + arrival * MS, start + (arrival + latency) * MS, Outcome::Answered);
    }
    recorder.arrived(start + 2950 * MS);
    recorder.arrived(start + 2960 * MS);
    recorder.open(start + 2960 * MS, start + 2961 * MS, Outcome::Refused(None));
    let summary = recorder.summary(true, 0.0);
    assert_eq!(summary.offered, Some(2.5));
    assert_eq!(
        (summary.rate, summary.goodput),
        (1.0, 1.0),
        "two answers end in the window, two of its arrivals are in time"
    );
    assert_eq!((summary.answered, summary.refused, summary.failed), (3, 1, 1));
    assert!(summary.first_failure.is_some());
    assert!(summary.latency(1.0).abs_diff(1500 * MS) < 2 * MS);
}

#[test]
fn a_window_is_prolonged_until_a_slow_service_has_answered() {
    let (start, mut recorder) = recorder();
    recorder.closed(start, start + 900 * MS, Outcome::Answered);
    assert_eq!(recorder.answered(), 0);
    recorder.prolong(start + 5000 * MS);
    for _ in 0..8 {
        recorder.closed(start + 900 * MS, start + 4900 * MS, Outcome::Answered);
    }
    assert_eq!((recorder.answered(), recorder.summary(false, 0.0).rate), (8, 2.0));
}

#[test]
fn a_window_without_an_answer_has_no_rate_and_names_the_first_failure() {
    let (start, mut recorder) = recorder();
    for failure in ["first", "second"] {
        recorder.closed(start, start + 2000 * MS, Outcome::Failed(failure.to_owned()));
    }
    let summary = recorder.summary(false, 0.0);
    assert_eq!((summary.rate, summary.failed, summary.first_failure.as_deref()), (0.0, 2, Some("first")));
}

const PICTURE: &[u8] = include_bytes!("../fixtures/images/photo_640x480.jpg");

async fn body(ask: Ask, wire: Wire, distinct: u64, number: u64) -> Bytes {
    let template = Template::new(ask, wire, PICTURE, distinct).expect("a template");
    template.request(number).into_body().collect().await.expect("bytes").to_bytes()
}

#[tokio::test]
async fn pictures_differ_as_files_and_not_in_their_pixels() {
    let files = [body(Ask::Image, Wire::Native, 10, 1).await, body(Ask::Image, Wire::Native, 10, 2).await];
    assert_ne!(files[0], files[1]);
    let pixels =
        files.each_ref().map(|file| turbojpeg::decompress(file, turbojpeg::PixelFormat::RGB).expect("a JPEG").pixels);
    assert!(pixels[0] == pixels[1]);
    let original = turbojpeg::decompress(PICTURE, turbojpeg::PixelFormat::RGB).expect("a JPEG").pixels;
    assert!(pixels[0] == original);
    assert_eq!(files[0], body(Ask::Image, Wire::Native, 10, 11).await, "ten of them, then again");
}

#[tokio::test]
async fn infinity_gets_the_same_picture() {
    let json: serde_json::Value = serde_json::from_slice(&body(Ask::Image, Wire::Infinity, 10, 7).await).expect("JSON");
    let data = json["input"].as_str().and_then(|uri| uri.strip_prefix("data:image/jpeg;base64,")).expect("a data URI");
    let file = STANDARD.decode(data).expect("base64");
    assert_eq!(file, body(Ask::Image, Wire::Native, 10, 7).await);
}

#[tokio::test]
async fn texts_differ_and_are_the_same_for_every_service() {
    let mut texts = BTreeSet::new();
    for number in 0..20_000 {
        texts.insert(body(Ask::Text, Wire::Native, 20_000, number).await);
    }
    assert_eq!(texts.len(), 20_000);
    let native: serde_json::Value =
        serde_json::from_slice(&body(Ask::Text, Wire::Native, 100, 42).await).expect("JSON");
    let infinity: serde_json::Value =
        serde_json::from_slice(&body(Ask::Text, Wire::Infinity, 100, 42).await).expect("JSON");
    assert_eq!(native["texts"][0], infinity["input"]);
}

fn column(name: &str, kind: Kind, samples: &[(Measure, &[f64])]) -> Column {
    let samples = samples.iter().map(|(measure, values)| (*measure, values.to_vec())).collect();
    Column { name: name.to_owned(), kind, samples }
}

fn columns() -> [Column; 2] {
    let ours = [
        (Measure::Images, &[80.0, 50.0, 84.0][..]),
        (Measure::Bare, &[81.0, 51.0, 85.0]),
        (Measure::Images32, &[75.0, 50.0, 66.0]),
        (Measure::Images512, &[75.0, 45.0, 60.0]),
        (Measure::ImageP50, &[12.0, 20.0, 13.0]),
    ];
    let infinity = [(Measure::Images, &[20.0, 10.0, 20.0][..]), (Measure::ImageP50, &[50.0, 100.0, 40.0])];
    [column("ours", Kind::Ours { bare_bar: Some(0.95) }, &ours), column("infinity", Kind::Infinity, &infinity)]
}

#[test]
fn a_median_of_an_even_number_lies_between_the_middle_two() {
    assert_eq!(figures::median(&[4.0, 1.0, 2.0]), 2.0);
    assert_eq!(figures::median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
}

#[test]
fn a_ratio_is_the_median_of_the_rounds_ratios() {
    let [ours, infinity] = columns();
    assert_eq!(ours.ratio(Measure::Images, &infinity, Measure::Images), Some(4.2));
    assert_eq!(ours.ratio(Measure::Texts, &infinity, Measure::Texts), None);
}

#[test]
fn the_table_has_medians_and_ratios_and_leaves_out_what_nobody_measured() {
    let table = table(&columns());
    assert!(table.contains("| images/s, 32 connections | 80.0 (4.20) | 20.0 |\n"), "{table}");
    assert!(table.contains("| in a row: images/s, 512 connections | 60.0 | - |\n"), "{table}");
    assert!(!table.contains("texts/s"), "{table}");
}

#[test]
fn bars_say_by_how_much_they_are_met_or_missed() {
    let rows = bar_table(&bars(&columns()));
    for row in [
        "| ours: images/s served, of ONNX Runtime alone | ≥ 0.95 | 0.99 | **met**, 4 % over |",
        "| ours: images/s at 32 connections, of infinity's | ≥ 4.00 | 4.20 | **met**, 5 % over |",
        "| ours: p50 of one image at one connection, of infinity's | ≤ 0.25 | 0.24 | **met**, 4 % under |",
        "| ours: images/s at 512 connections, of that at 32 | ≥ 0.95 | 0.91 | **missed** by 4 % |",
    ] {
        assert!(rows.contains(row), "{row}\n{rows}");
    }
    assert_eq!(rows.lines().count(), 2 + 4);
}
