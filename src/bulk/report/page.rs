//! The page itself.
//!
//! Owns its words and its form. Pure: takes what was gathered, gives HTML. Nothing in it is fetched, and no script runs.

use std::{fmt::Write as _, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use htmlize::escape_all_quotes as escaped;
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Map, Value};

use super::{
    card::{Card, clipped},
    classes::Classes,
    curve::Curve,
};
use crate::bulk::{glimpse::Picture, journal::Done, progress::Summary};

/// How every page begins, and nothing else: what is there under a report's name is written over if it begins so.
pub(super) const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"generator\" \
                               content=\"clipserve embed --report\">\n";

/// All that is shown.
pub(super) struct Page<'a> {
    /// What the output depends on.
    pub(super) record: &'a Map<String, Value>,
    /// The whole.
    pub(super) done: Done,
    /// This run.
    pub(super) summary: &'a Summary,
    pub(super) ended_early: Option<String>,
    pub(super) errors_now: u64,
    pub(super) classes: Classes,
    pub(super) curve: &'a Curve,
    pub(super) slowest: &'a [Card],
    pub(super) failed: &'a [Card],
}

impl Page<'_> {
    /// The page.
    pub(super) fn html(self) -> String {
        let model = self.record.get("model").and_then(Value::as_str).unwrap_or_default();
        let model = escaped(&*clipped(model)).into_owned();
        let mut html = format!(
            "{HEAD}<meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n<meta name=\"viewport\" \
             content=\"width=device-width\">\n<title>Embeddings by {model}</title>\n<style>\n{}</style>\n</head>\n<body>\n<h1>Embeddings by \
             <code>{model}</code></h1>\n",
            include_str!("page.css")
        );
        self.numbers(&mut html);
        self.speed(&mut html);
        self.record(&mut html);
        errors(&mut html, self.classes);
        cards(
            &mut html,
            self.failed,
            "What failed",
            "Of every kind of failure of this run the first three, 24 in all. What cannot be decoded has no picture here, but what its first \
             bytes say it is.",
        );
        cards(
            &mut html,
            self.slowest,
            "Slowest pictures",
            "Those 24 of this run that took longest to decode, resize and crop.",
        );
        html + "</body>\n</html>\n"
    }

    fn numbers(&self, html: &mut String) {
        let Self { done, summary, .. } = self;
        let count = |number: u64| HumanCount(number).to_string();
        let early = self.ended_early.as_deref().map(|reason| {
            let reason = escaped(reason);
            format!("<p class=\"wrong\">The run ended early: <bdi>{reason}</bdi>. These are its complete parts.</p>")
        });
        let before = summary.items - summary.embedded_now;
        let (took, is_early) = (clock(summary.took()), self.ended_early.is_some());
        let this_run = match (summary.embedded_now, before) {
            (0, _) if is_early => "This run made nothing.".to_owned(),
            (0, _) => "This run found all complete and made nothing.".to_owned(),
            (_, 0) if !is_early => format!("All by one run, in {took}."),
            (now, before) => format!(
                "This run made {} rows, {} without an embedding, in {took}; {} were there before.",
                count(now),
                count(self.errors_now),
                count(before)
            ),
        };
        let mut tiles = vec![
            (count(done.rows), "items"),
            (count(done.rows - done.errors), "with an embedding"),
            (count(done.errors), "without"),
            (count(done.parts), "parts"),
        ];
        if summary.embedded_now > 0 {
            tiles.push((format!("{:.1}", summary.rate()), "items/s in this run"));
        }
        let tile = |(number, what): &(String, &str)| format!("<div><b>{number}</b> {what}</div>");
        let tiles: String = tiles.iter().map(tile).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            html,
            "{}<section class=\"tiles\">{tiles}</section>\n<p class=\"note\">{this_run}</p>",
            early.unwrap_or_default()
        );
    }

    fn speed(&self, html: &mut String) {
        if self.summary.embedded_now == 0 {
            return;
        }
        let shares = self.summary.shares();
        let bar: String = shares
            .iter()
            .map(|(name, share)| format!("<i class=\"{name}\" style=\"flex-grow:{share:.3}\"></i>"))
            .collect();
        let names: String = shares
            .iter()
            .map(|(name, share)| format!("<span><i class=\"{name}\"></i>{name} {share:.0} %</span>"))
            .collect();
        let _ = writeln!(
            html,
            "<section><h2>Items per second</h2>\n{}<p class=\"note\">Of this run; the dashed line is its mean. Rows are counted when \
             they are in their order, so that one slow item makes a gap and a peak.</p>\n<h2>Where items' time went</h2>\n<div \
             class=\"shares\">{bar}</div><p class=\"names\">{names}</p></section>",
            self.curve.svg(self.summary.took())
        );
    }

    fn record(&self, html: &mut String) {
        html.push_str("<section><h2>The run</h2>\n<table class=\"record\">\n");
        for (key, value) in self.record.iter().filter(|(_, value)| !value.is_null()) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let (key, value) = (escaped(&**key), clipped(&value));
            let _ = writeln!(html, "<tr><th>{key}</th><td><bdi>{}</bdi></td></tr>", escaped(&*value));
        }
        html.push_str("</table></section>\n");
    }
}

fn errors(html: &mut String, classes: Classes) {
    let (kinds, others) = classes.largest();
    if kinds.is_empty() {
        return;
    }
    html.push_str(
        "<section><h2>Errors by kind</h2>\n<table>\n<tr><th>items</th><th>reason</th><th>such as</th></tr>\n",
    );
    for (kind, class) in kinds {
        let ids: String = class.ids.iter().map(|id| format!("<bdi class=\"id\">{}</bdi>", escaped(&**id))).collect();
        let (count, kind) = (HumanCount(class.count), clipped(&kind));
        let _ = writeln!(
            html,
            "<tr><td class=\"count\">{count}</td><td><bdi>{}</bdi></td><td>{ids}</td></tr>",
            escaped(&*kind)
        );
    }
    if others > 0 {
        let _ = writeln!(html, "<tr><td class=\"count\">{}</td><td>others</td><td></td></tr>", HumanCount(others));
    }
    html.push_str("</table><p class=\"note\">Of all runs; <code>errors.jsonl</code> has every one.</p></section>\n");
}

fn cards(html: &mut String, cards: &[Card], title: &str, note: &str) {
    if cards.is_empty() {
        return;
    }
    let _ = writeln!(html, "<section><h2>{title}</h2>\n<p class=\"note\">{note}</p>\n<div class=\"sheet\">");
    for card in cards {
        let mut facts = Vec::new();
        if card.error.is_none() {
            facts.push(format!("<b>{:.0} ms</b>", card.took.as_secs_f64() * 1e3));
        }
        let shown = match &card.glimpse.picture {
            None => "<div class=\"none\">no file</div>".to_owned(),
            Some(picture) => {
                facts.extend(picture.size.map(|(width, height)| format!("{width}×{height}")));
                facts.push(HumanBytes(picture.bytes as u64).to_string());
                shown(picture, &mut facts)
            }
        };
        let error = card.error.as_deref().map(|error| format!("<bdi class=\"wrong\">{}</bdi>", escaped(error)));
        let _ = writeln!(
            html,
            "<figure>{shown}<figcaption><span>{}</span>{}<bdi class=\"id\">{}</bdi></figcaption></figure>",
            facts.join(" · "),
            error.unwrap_or_default(),
            escaped(&*card.id)
        );
    }
    html.push_str("</div></section>\n");
}

/// A picture, or what its first bytes say.
fn shown(picture: &Picture, facts: &mut Vec<String>) -> String {
    let format = match &picture.format {
        Ok(name) => (*name).to_owned(),
        Err(bytes) if bytes.is_empty() => "empty".to_owned(),
        Err(bytes) => {
            let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("no known format: {} …", bytes.join(" "))
        }
    };
    match &picture.thumbnail {
        Some(jpeg) => {
            facts.insert(facts.len() - 1, format);
            let data = BASE64_STANDARD.encode(jpeg);
            format!("<img src=\"data:image/jpeg;base64,{data}\" alt=\"\">")
        }
        None => format!("<div class=\"none\">{format}</div>"),
    }
}

/// `3.2 s`, `4 min 5 s`, `2 h 3 min`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}
