//! What the documents promise is what is compiled in, and every command in them works.
//!
//! Owns the tables that are held to the code and to each other: of configuration keys, of metrics, of alerts, of figures. Does not own how a page is read (`pages`) and how its
//! commands are run (`commands`).

mod commands;
mod pages;

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path, time::Duration};

use clipserve::telemetry::{BuildInfo, Metrics};

/// What a file of the repository says.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const CONFIGURATION: &str = "docs/configuration.md";
const HEADER: &str = "| key | default | meaning and allowed values |\n|---|---|---|\n";

/// The table of `docs/configuration.md`: every key of `config/default.toml` with its default and the comment above it.
fn configuration() -> String {
    let mut table = HEADER.to_owned();
    let (mut section, mut comment) = ("", Vec::new());
    for line in include_str!("../../config/default.toml").lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment.push(text);
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            comment.clear();
        } else if let Some((key, value)) = line.split_once(" = ") {
            let meaning = comment.join(" ").replace('|', "\\|");
            writeln!(table, "| `{section}.{key}` | `{value}` | {meaning} |").unwrap();
            comment.clear();
        } else {
            comment.clear();
        }
    }
    table
}

/// The page without its table, before it and behind it.
fn around_the_table(page: &str) -> (&str, &str) {
    let start = page.find(HEADER).expect("docs/configuration.md has its table");
    let rows = page[start..].split_inclusive('\n').take_while(|line| line.starts_with('|'));
    let end = start + rows.map(str::len).sum::<usize>();
    (&page[..start], &page[end..])
}

#[test]
fn the_table_of_keys_is_that_of_the_default_file() {
    let (page, made) = (read(CONFIGURATION), configuration());
    let (before, behind) = around_the_table(&page);
    let written = &page[before.len()..page.len() - behind.len()];
    let row = made.lines().zip(written.lines()).find(|(made, written)| made != written);
    assert!(
        made == written,
        "{CONFIGURATION} differs from config/default.toml; `cargo test --test it write_the_table_of_keys -- --ignored` writes it: {row:#?}"
    );
    assert_eq!(made.lines().count() - 2, keys(&include_str!("../../config/default.toml").parse().unwrap()));
}

/// How many values a table has, those of its tables included.
fn keys(table: &toml::Table) -> usize {
    table.values().map(|value| value.as_table().map_or(1, keys)).sum()
}

#[test]
#[ignore = "writes docs/configuration.md"]
fn write_the_table_of_keys() {
    let page = read(CONFIGURATION);
    let (before, behind) = around_the_table(&page);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(CONFIGURATION);
    fs::write(path, format!("{before}{}{behind}", configuration())).expect("docs is there");
}

/// The names in backticks that begin the rows of a page's tables and its headings, of those that `wanted` takes.
fn named<'a>(page: &'a str, opening: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<&'a str> {
    let names = page.lines().filter_map(|line| line.strip_prefix(opening)?.split('`').next());
    names.filter(|name| wanted(name)).collect()
}

#[test]
fn every_metric_has_its_meaning() {
    let metrics = Metrics::new();
    metrics.observe_request("/info", "GET", 200, Duration::ZERO);
    metrics.image_rejected.with_label_values(&["png", "truncated"]).inc();
    metrics.key("a").observe_request(200);
    metrics.set_build_info(&BuildInfo {
        provider: "cpu".to_owned(),
        precision: "f32".to_owned(),
        onnxruntime: "1".to_owned(),
        model: "m".to_owned(),
        fingerprint: "sha256:0".to_owned(),
    });
    let (text, _) = metrics.render();
    let there = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next());
    let there: BTreeSet<&str> = there.filter(|name| name.starts_with("clipserve_")).collect();
    let page = read("docs/operations.md");
    assert_eq!(named(&page, "| `", |name| name.starts_with("clipserve_")), there);
}

#[test]
fn every_alert_says_what_to_do() {
    let alerts = read("deploy/alerts.yml");
    let there: BTreeSet<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let page = read("docs/operations.md");
    assert!(there.len() > 5);
    assert_eq!(named(&page, "### `", |_| true), there);
}

#[test]
fn the_readme_is_short() {
    assert!(read("README.md").lines().count() <= 150, "what does not fit into 150 lines belongs into docs/");
}

/// The table that begins with this line, by rows and cells.
fn table<'a>(page: &'a str, opening: &str) -> Vec<Vec<&'a str>> {
    let lines = page.lines().skip_while(|line| !line.starts_with(opening)).take_while(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_readme_has_the_figures_of_the_benchmarks_page() {
    let (readme, page) = (read("README.md"), read("docs/benchmarks.md"));
    let (short, whole) = (table(&readme, "| | images/s"), table(&page, "| | clipserve f32"));
    let (measured, services) = (short.first().expect("the README's table"), whole.first().expect("the page's table"));
    assert!(short.len() > 3, "{short:?}");
    for row in &short[2..] {
        let column = services.iter().position(|service| *service == row[0]).expect("a service of the page");
        for (figure, what) in row.iter().zip(measured).skip(1) {
            let of_the_page = whole.iter().find(|row| row[0] == *what).expect("a row of the page");
            assert_eq!(*figure, of_the_page[column], "{}: {what}", row[0]);
        }
    }
}

#[test]
fn the_page_on_scale_counts_cores_by_the_benchmarks_page() {
    let (scale, page) = (read("docs/scale.md"), read("docs/benchmarks.md"));
    let (cores, costs) = (table(&scale, "| cores for 1,000"), table(&page, "| model, JPEG |"));
    let works = cores.first().expect("the table of docs/scale.md");
    assert!(cores.len() > 5, "{cores:?}");
    for row in &cores[2..] {
        for (figure, work) in row.iter().zip(works).skip(1) {
            // Beside a GPU the encoder is left out.
            let name = row[0].strip_suffix(", without encode");
            let measured = costs.iter().find(|cost| cost[0] == *work && cost[1] == name.unwrap_or(row[0]));
            let Some(cost) = measured else { panic!("docs/benchmarks.md has no {} for {work}", row[0]) };
            if name.is_none() {
                assert_eq!(*figure, cost[6], "{}: {work}", row[0]);
                continue;
            }
            let parts = [cost[2], cost[3], cost[5]].map(|part| part.parse::<f64>().expect("a part of a picture"));
            let written: f64 = figure.parse().expect("a number");
            assert!((written - parts.iter().sum::<f64>()).abs() < 0.15, "{}: {work}: {parts:?}", row[0]);
        }
    }
}
