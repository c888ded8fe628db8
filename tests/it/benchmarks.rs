//! The parts of the benchmarks that are arithmetic: arrival times, what a window counts, requests, the report.
//!
//! Nothing is timed here and no server runs: a benchmark is a program that people run. What is tested is what its numbers
//! mean.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::BodyExt;

#[path = "../../benches/serve/attack/bodies.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod bodies;
#[path = "../../benches/serve/mutants/bytes.rs"]
mod broken;
#[path = "../../benches/serve/chart.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod chart;
#[path = "../../benches/serve/costs.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod costs;
#[path = "../../benches/serve/figures.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod figures;
#[path = "../../benches/serve/attack/finding.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod finding;
#[path = "../../benches/serve/report.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod report;
#[path = "../../benches/serve/load/request.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod request;
#[path = "../../benches/serve/load/schedule.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod schedule;
#[path = "../../benches/serve/attack/slope.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod slope;
#[path = "../../benches/serve/load/summary.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark uses the rest")]
mod summary;

use costs::{Account, Cost, Threads, Work};
use finding::Finding;
use report::{Column, Kind, Measure, bar_table, bars, table};
use request::{Ask, Template, Wire};
use schedule::{Arrivals, Schedule};
use slope::theil_sen;
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
    assert_eq!(summary.all, 8, "what ends before and after the window has been work, too");
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
    assert_eq!(summary.unanswered, 1);
    assert!(summary.first_failure.is_some());
    assert!(summary.latency(1.0).abs_diff(1500 * MS) < 2 * MS);
}

#[test]
fn refusals_have_latencies_of_their_own_and_say_when_to_come_back() {
    let (start, mut recorder) = recorder();
    for (arrival, latency, retry_after) in [(1500, 10, Some(2)), (1600, 40, Some(2)), (1700, 20, None)] {
        recorder.arrived(start + arrival * MS);
        let outcome = Outcome::Refused(retry_after.map(Duration::from_secs));
        recorder.open(start + arrival * MS, start + (arrival + latency) * MS, outcome);
    }
    recorder.arrived(start + 1800 * MS);
    recorder.open(start + 1800 * MS, start + 2700 * MS, Outcome::Answered);
    let summary = recorder.summary(true, 0.0);
    assert!(summary.refusal(0.99).abs_diff(40 * MS) < MS, "{:?}", summary.refusal(0.99));
    assert!(summary.latency(0.99).abs_diff(900 * MS) < MS, "{:?}", summary.latency(0.99));
    assert_eq!(summary.retry_after, [(None, 1), (Some(2), 2)].into());
    assert_eq!((summary.refused, summary.unanswered), (3, 0));
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

#[tokio::test]
async fn a_mix_asks_for_each_kind_in_turn_from_the_first_number_on() {
    let mix = Template::new(Ask::Mix, Wire::Native, PICTURE, u64::MAX).expect("a template").starting_at(100);
    let requests = (0..6).map(|number| mix.request(number));
    let paths: Vec<_> = requests.map(|request| request.uri().path().to_owned()).collect();
    assert_eq!(
        (mix.kinds(), paths),
        (2, ["/embed/image", "/embed/text"].repeat(3).iter().map(ToString::to_string).collect())
    );
    let third = mix.request(5).into_body().collect().await.expect("bytes").to_bytes();
    assert_eq!(third, body(Ask::Text, Wire::Native, u64::MAX, 102).await);
}

#[tokio::test]
async fn a_header_is_in_every_request_and_a_fixed_body_is_the_same_in_all() {
    let name = http::HeaderName::from_static("x-class");
    let fixed = Template::fixed("/embed/text", "text/plain", "a cat").expect("a template");
    let fixed = fixed.with_header(&name, &http::HeaderValue::from_static("1"));
    for number in [0, 7] {
        let request = fixed.request(number);
        assert_eq!(
            (&request.headers()[&name], &request.headers()["content-type"]),
            (&"1".parse().expect("a value"), &"text/plain".parse().expect("a value"))
        );
        assert_eq!(request.into_body().collect().await.expect("bytes").to_bytes(), "a cat");
    }
}

#[test]
fn a_one_colour_webp_is_small_as_a_file_and_large_as_a_picture() {
    for side in [1, 3, 700] {
        let file = bodies::webp(side, 17);
        let picture = image::load_from_memory(&file).expect("a picture").into_rgb8();
        assert_eq!(picture.dimensions(), (side, side));
        assert!(picture.pixels().all(|pixel| pixel.0 == [0, 17, 0]), "{:?}", picture.get_pixel(0, 0));
        assert!(file.len() < 64, "{}", file.len());
    }
    assert_eq!(
        image::ImageReader::new(std::io::Cursor::new(bodies::webp(7071, 1)))
            .with_guessed_format()
            .expect("a format")
            .into_dimensions()
            .expect("a size"),
        (7071, 7071)
    );
}

#[test]
fn the_texts_of_an_attack_differ_and_are_as_long_as_was_said() {
    let json: serde_json::Value = serde_json::from_slice(&bodies::texts(1024, 16_000)).expect("JSON");
    let texts: BTreeSet<_> =
        json["texts"].as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect();
    assert_eq!(texts.len(), 1024);
    assert!(texts.iter().all(|text| text.len() == 16_000));
}

#[test]
fn a_finding_is_met_when_all_its_checks_are_and_says_which_are_not() {
    let quick = Finding::new("a").within("p99", 40 * MS, 50 * MS).at_least("rate", "", 0.97, 0.95);
    let half = Finding::new("b").all("answers", 3, 4).at_most("refused", " %", 5.0, 5.0);
    assert_eq!((quick.met(), half.met()), (true, false));
    assert!(!Finding::new("nothing").met() && !Finding::not_measured("c", "no\nanswer").met());
    assert!(!Finding::new("none of none").all("answers", 0, 0).met());
    let table = finding::table(&[quick, half, Finding::not_measured("c", "x|y\nz")]);
    for row in [
        "| a | p99 40.0 ms; rate 0.97 | ≤ 50.0 ms; ≥ 0.95 | met |",
        "| b | **answers 3 of 4**; refused 5.00 % | **all**; ≤ 5.00 % | **missed** |",
        "| c | **x\\|y z** | **measured** | **missed** |",
    ] {
        assert!(table.contains(row), "{row}\n{table}");
    }
    assert_eq!(table.lines().count(), 2 + 3);
}

#[test]
fn a_percentile_is_the_least_time_that_so_many_did_not_exceed() {
    let times: Vec<_> = (1..=200).rev().map(|time| time * MS).collect();
    assert_eq!([0.5, 0.99, 1.0].map(|part| finding::percentile(&times, part)), [100 * MS, 198 * MS, 200 * MS]);
    assert_eq!(finding::percentile(&times[..1], 0.0), 200 * MS);
    assert_eq!(finding::percentile(&[], 0.99), Duration::ZERO);
}

fn column(name: &str, kind: Kind, samples: &[(Measure, &[f64])]) -> Column {
    let samples = samples.iter().map(|(measure, values)| (*measure, values.to_vec())).collect();
    Column { name: name.to_owned(), kind, samples, costs: BTreeMap::new() }
}

fn columns() -> [Column; 2] {
    let ours = [
        (Measure::Images, &[80.0, 50.0, 84.0][..]),
        (Measure::Bare, &[81.0, 51.0, 85.0]),
        (Measure::Images32, &[75.0, 50.0, 66.0]),
        (Measure::Images512, &[75.0, 45.0, 60.0]),
        (Measure::ImageP50, &[12.0, 20.0, 13.0]),
        (Measure::LargeImages, &[3.0, 2.0, 4.0]),
        (Measure::LargeLimit, &[4.0, 4.0, 4.0]),
        (Measure::LargeResident, &[500.0]),
    ];
    let infinity = [
        (Measure::Images, &[20.0, 10.0, 20.0][..]),
        (Measure::ImageP50, &[50.0, 100.0, 40.0]),
        (Measure::LargeResident, &[2000.0]),
    ];
    [
        column("ours", Kind::Ours { bare_bar: Some(0.95), limit_bar: 0.8 }, &ours),
        column("infinity", Kind::Infinity, &infinity),
    ]
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
        "| ours: ViT-L/14: images/s at 8 connections, of the cores' arithmetic | ≥ 0.80 | 0.75 | **missed** by 6 % |",
        "| ours: ViT-L/14: resident memory, of infinity's | ≤ 0.30 | 0.25 | **met**, 17 % under |",
    ] {
        assert!(rows.contains(row), "{row}\n{rows}");
    }
    assert_eq!(rows.lines().count(), 2 + 6);
}

/// Seconds of the whole process, of its preprocess threads and sessions, and by the clock of decode and resize.
fn account([all, preprocess, sessions, decode, resize]: [f64; 5]) -> Account {
    Account { all, threads: Some(Threads { preprocess, sessions, decode, resize }) }
}

#[test]
fn the_parts_of_a_picture_add_up_to_what_the_process_took() {
    // 10 pictures in a second of CPU; decode took three times as long as resize by a clock that ran on twice as fast.
    let [before, after] = [[5.0, 1.0, 2.0, 7.0, 3.0], [6.0, 1.2, 2.7, 7.3, 3.1]].map(account);
    let cost = Cost::between(&before, &after, 10);
    let parts = cost.parts.expect("both accounts know the threads");
    let all = [parts.decode, parts.resize, parts.encode, cost.all];
    assert!(all.iter().zip([15.0, 5.0, 70.0, 100.0]).all(|(a, b)| (a - b).abs() < 1e-9), "{all:?}");
    assert_eq!(Cost::between(&Account { all: 5.0, threads: None }, &after, 10).parts, None);
}

#[test]
fn a_picture_costs_the_mean_of_the_rounds_and_a_service_without_known_parts_has_a_whole() {
    let [mut ours, mut infinity] = columns();
    let none = account([0.0; 5]);
    let rounds = [[1.0, 0.2, 0.7, 0.3, 0.1], [2.0, 0.4, 1.2, 0.3, 0.1]];
    let costs = rounds.map(|round| Cost::between(&none, &account(round), 10));
    ours.costs.insert(Work::Photograph, costs.to_vec());
    ours.costs.insert(Work::LargeModel, costs[..1].to_vec());
    infinity.costs.insert(Work::Photograph, vec![Cost { all: 200.0, parts: None }]);
    let table = costs::table(&[ours, infinity]);
    let rows: Vec<_> = table.lines().skip(2).collect();
    assert_eq!(
        rows,
        [
            "| ViT-B/32, 640x480 | ours | 22.5 | 7.50 | 95.0 | 25.0 | 150 |",
            "| ViT-B/32, 640x480 | infinity | - | - | - | - | 200 |",
            "| ViT-L/14, 640x480 | ours | 15.0 | 5.00 | 70.0 | 10.0 | 100 |",
        ]
    );
}

#[test]
fn what_another_model_has_shown_of_a_service_joins_its_column() {
    let [mut ours, _] = columns();
    let mut large = Column::new("ours".to_owned(), Kind::Infinity);
    large.push(Measure::LargeP50, 700.0);
    ours.merge(large);
    assert_eq!((ours.median(Measure::LargeP50), ours.median(Measure::Images)), (Some(700.0), Some(80.0)));
}

/// A PNG's chunks whose checksums are right, and all of them.
fn checksums(png: &[u8]) -> (usize, usize) {
    let (mut right, mut all, mut at) = (0, 0, 8);
    while let Some(length) = png.get(at..at + 4).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes) {
        let end = at + 8 + length as usize;
        let Some(stored) = png.get(end..end + 4) else { break };
        let mut checksum = flate2::Crc::new();
        checksum.update(&png[at + 4..end]);
        right += usize::from(checksum.sum().to_be_bytes() == stored);
        all += 1;
        at = end + 4;
    }
    (right, all)
}

#[test]
fn a_number_breaks_a_file_always_alike_and_half_of_the_pngs_have_right_checksums() {
    let valid = crate::support::picture("one_pixel.png");
    let broken = |number| {
        let mut file = valid.clone();
        broken::mutate(&mut file, &valid, &mut fastrand::Rng::with_seed(number));
        file
    };
    let (mut changed, mut whole) = (0, 0);
    for number in 0..1000 {
        let file = broken(number);
        assert_eq!(file, broken(number), "number {number}");
        if file != valid {
            changed += 1;
            let (right, all) = checksums(&file);
            whole += usize::from(all > 0 && right == all);
        }
    }
    assert!(changed > 950, "{changed} of 1000 differ");
    assert!((400..900).contains(&whole), "{whole} of {changed} have right checksums");
}

#[test]
fn a_slope_is_that_of_most_pairs_and_its_interval_holds_it() {
    assert_eq!(theil_sen(&[1.0, 2.0]), None);
    let line: Vec<_> = (0..50).map(|at| 3.0 + 0.5 * f64::from(at)).collect();
    let slope = theil_sen(&line).expect("enough");
    assert_eq!((slope.low, slope.middle, slope.high), (0.5, 0.5, 0.5));
    // Noise of a larger size than the slope, and one spike.
    let mut random = fastrand::Rng::with_seed(1);
    let mut noisy = |slope: f64| {
        let mut samples: Vec<_> = (0..300).map(|at| slope * f64::from(at) + random.f64() * 10.0).collect();
        samples[100] = 1e6;
        theil_sen(&samples).expect("enough")
    };
    let growing = noisy(0.02);
    assert!(growing.low > 0.0 && growing.low < 0.02 && growing.high > 0.02, "{growing:?}");
    let flat = noisy(0.0);
    assert!(flat.low < 0.0 && flat.high > 0.0 && flat.middle.abs() < 0.01, "{flat:?}");
}

#[test]
fn the_interval_of_a_slope_holds_it_nineteen_times_of_twenty() {
    let mut random = fastrand::Rng::with_seed(2);
    let held = (0..400).filter(|_| {
        let samples: Vec<_> = (0..40).map(|at| 0.1 * f64::from(at) + random.f64()).collect();
        let slope = theil_sen(&samples).expect("enough");
        slope.low <= 0.1 && 0.1 <= slope.high
    });
    let held = held.count();
    assert!((368..=394).contains(&held), "{held} of 400");
}
