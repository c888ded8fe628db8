//! What one line of the log looks like: one event, one line, of bounded length.
//!
//! Owns the escapes and the cuts, around the formats of `tracing-subscriber`, which own everything else. Does not own where a
//! line goes (`queue`).
//!
//! Invariants: whatever an event or a span holds, a line has one line end, at its end; a value cannot move a terminal's cursor,
//! change its colours or turn the direction of the text, while the colours of the format itself stay; a line longer than
//! [`MAX_LINE`] says how many bytes are left out; in JSON it stays one valid object, because its strings are cut.

use std::fmt::{self, Debug, Write};

use serde_json::{Map, Value, json};
use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{
    field::{MakeVisitor, Visit, VisitFmt, VisitOutput},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{DefaultVisitor, Format, Full, Json, Writer, format},
    },
    registry::LookupSpan,
};

/// Bytes of a line in front of the mark that says how many more there were.
const MAX_LINE: usize = 8 << 10;

/// Whether a character could end a line, steer a terminal or turn the direction of what follows.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// `text` as one line for people, with its line end.
pub(super) fn plain(text: &str) -> String {
    let mut line = String::new();
    let mut cut = Cut::new(Writer::new(&mut line));
    // A string takes everything.
    let _ = Escaping(&mut cut).write_str(text);
    let _ = cut.finish();
    line
}

/// Writes hostile characters as Rust's escapes: `\n`, `\u{1b}`.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, hostile)) = rest.char_indices().find(|(_, c)| is_hostile(*c)) {
            let (clean, behind) = (&rest[..at], &rest[at + hostile.len_utf8()..]);
            write!(self.0, "{clean}{}", hostile.escape_default())?;
            rest = behind;
        }
        self.0.write_str(rest)
    }
}

/// Passes on what a line has room for, and counts the rest.
struct Cut<'a> {
    line: Writer<'a>,
    room: usize,
    left_out: usize,
}

impl<'a> Cut<'a> {
    fn new(line: Writer<'a>) -> Self {
        Self { line, room: MAX_LINE, left_out: 0 }
    }

    /// The mark, where one is due, and the line end.
    fn finish(mut self) -> fmt::Result {
        if self.left_out > 0 {
            // The cut may be within a colour.
            let reset = if self.line.has_ansi_escapes() { "\u{1b}[0m" } else { "" };
            write!(self.line, "{reset}{}", LeftOut(self.left_out))?;
        }
        self.line.write_char('\n')
    }
}

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let kept = text.floor_char_boundary(self.room);
        let left_out = text.len() - kept;
        self.room = if left_out == 0 { self.room - kept } else { 0 };
        self.left_out += left_out;
        self.line.write_str(text.get(..kept).unwrap_or_default())
    }
}

/// The mark of a cut.
struct LeftOut(usize);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "… ({} bytes left out)", self.0)
    }
}

/// The text format.
pub(super) struct TextLine(Format<Full>);

impl TextLine {
    pub(super) fn new(ansi: bool) -> Self {
        Self(format().with_target(false).with_ansi(ansi))
    }
}

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut cut = Cut::new(line);
        self.0.format_event(ctx, Writer::new(&mut WithoutEnd(&mut cut)), event)?;
        cut.finish()
    }
}

/// Leaves out the line end, which is the format's last word: fields have none, they are escaped.
struct WithoutEnd<W>(W);

impl<W: Write> Write for WithoutEnd<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(text.strip_suffix('\n').unwrap_or(text))
    }
}

/// The text format's fields, of events and of spans: those of `tracing-subscriber`, escaped.
pub(super) struct TextFields;

impl<'a> MakeVisitor<Writer<'a>> for TextFields {
    type Visitor = TextVisitor<'a>;

    fn make_visitor(&self, target: Writer<'a>) -> TextVisitor<'a> {
        TextVisitor(DefaultVisitor::new(target, true))
    }
}

/// See [`TextFields`].
pub(super) struct TextVisitor<'a>(DefaultVisitor<'a>);

impl Visit for TextVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.record_debug(field, &Escaped(value));
    }
}

impl VisitOutput<fmt::Result> for TextVisitor<'_> {
    fn finish(self) -> fmt::Result {
        self.0.finish()
    }
}

impl VisitFmt for TextVisitor<'_> {
    fn writer(&mut self) -> &mut dyn Write {
        self.0.writer()
    }
}

/// A value between the format's own colours.
struct Escaped<'a>(&'a dyn Debug);

impl Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A value that cannot say what it is costs its own text, not the line.
        let _ = write!(Escaping(f), "{:?}", self.0);
        Ok(())
    }
}

/// The JSON format.
pub(super) struct JsonLine(Format<Json>);

impl JsonLine {
    pub(super) fn new() -> Self {
        let format = format().with_target(false).json();
        Self(format.flatten_event(true).with_current_span(true).with_span_list(false))
    }
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut object = String::new();
        self.0.format_event(ctx, Writer::new(&mut WithoutEnd(&mut object)), event)?;
        let object = escaped_json(&object);
        line.write_str(if object.len() > MAX_LINE { shortened(&object) } else { object }.as_str())?;
        line.write_char('\n')
    }
}

/// The same object without hostile characters. JSON's own syntax has none, so they are all in strings.
fn escaped_json(object: &str) -> String {
    let mut escaped = String::with_capacity(object.len());
    for c in object.chars() {
        if is_hostile(c) {
            // None is above U+FFFF, so one escape is enough.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// An object with its long strings cut, all at the same length, so that it fits into a line.
fn shortened(object: &str) -> String {
    let value = serde_json::from_str(object).unwrap_or(Value::Null);
    let attempts = (5..MAX_LINE.ilog2()).rev().map(|power| {
        let mut value = value.clone();
        cut_strings(&mut value, 1 << power);
        escaped_json(&value.to_string())
    });
    attempts.into_iter().find(|attempt| attempt.len() <= MAX_LINE).unwrap_or_else(|| {
        let mut rest = Map::from_iter(["timestamp", "level"].map(|key| (key.to_owned(), value[key].clone())));
        rest.insert("message".to_owned(), json!(LeftOut(object.len()).to_string()));
        Value::Object(rest).to_string()
    })
}

fn cut_strings(value: &mut Value, limit: usize) {
    match value {
        Value::String(text) if text.len() > limit => {
            let kept = text.floor_char_boundary(limit);
            let left_out = LeftOut(text.len() - kept);
            *text = format!("{}{left_out}", text.get(..kept).unwrap_or_default());
        }
        Value::Array(values) => values.iter_mut().for_each(|value| cut_strings(value, limit)),
        Value::Object(fields) => fields.values_mut().for_each(|value| cut_strings(value, limit)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{config::LogFormat, telemetry::logged};

    /// Every character that must not come through, and some that must.
    fn hostile() -> String {
        let controls = (0..0x20).chain(0x7f..0xa0).filter_map(char::from_u32);
        controls.chain("\u{2028}\u{2029}\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}".chars()).collect()
    }

    /// One event in a span, with `text` in every place that a value can be in.
    fn everywhere(text: &str) {
        let span = tracing::info_span!("request", id = text, shown = %text);
        let _entered = span.enter();
        let error = io::Error::other(text.to_owned());
        let error = &error as &dyn std::error::Error;
        tracing::info!(quoted = text, shown = %text, debug = ?text, error, "message {text}");
    }

    fn json(line: &str) -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    #[test]
    fn whatever_a_value_holds_an_event_is_one_line() {
        let text = format!("a{}2026-01-01T00:00:00Z ERROR forged é", hostile());
        for (format, ansi) in [(LogFormat::Text, false), (LogFormat::Text, true), (LogFormat::Json, false)] {
            let line = logged(format, ansi, || everywhere(&text));
            let line = line.strip_suffix('\n').expect("a line end");
            let ours: String = line.replace("\u{1b}[", "");
            assert!(!ours.contains(is_hostile), "{ours:?}");
            assert!(ours.contains("forged é"), "{ours}");
            assert!(ansi || !line.contains('\u{1b}'), "{line:?}");
        }
        let line = plain(&text);
        assert!(!line.trim_end_matches('\n').contains(is_hostile) && line.ends_with("forged é\n"), "{line:?}");
    }

    #[test]
    fn escapes_are_rusts_own_and_json_gives_the_value_back() {
        let text = "a\nb\u{1b}[31m\u{85}\u{202e}c";
        let line = logged(LogFormat::Text, false, || tracing::info!(field = %text, "{text}"));
        assert!(
            line.ends_with("INFO a\\nb\\u{1b}[31m\\u{85}\\u{202e}c field=a\\nb\\u{1b}[31m\\u{85}\\u{202e}c\n"),
            "{line}"
        );
        let line = logged(LogFormat::Json, false, || everywhere(text));
        let object = json(&line);
        assert_eq!((&object["quoted"], &object["span"]["id"]), (&json!(text), &json!(text)), "{line}");
        assert!(line.contains("\\u0085\\u202ec"), "{line}");
    }

    #[test]
    fn the_formats_own_colours_stay_and_those_of_values_do_not() {
        let line = logged(LogFormat::Text, true, || everywhere("\u{1b}[31mred\u{1b}[0m"));
        assert!(
            line.contains("\u{1b}[32m INFO\u{1b}[0m") && line.contains("\u{1b}[3mshown\u{1b}[0m\u{1b}[2m=\u{1b}[0m")
        );
        assert!(!line.contains("\u{1b}[31m") && line.contains("\\u{1b}[31mred"), "{line:?}");
        assert!(!logged(LogFormat::Text, false, || everywhere("plain")).contains('\u{1b}'));
    }

    #[test]
    fn a_long_line_is_cut_and_says_how_many_bytes_are_left_out() {
        let line = logged(LogFormat::Text, false, || tracing::info!("{}", "é".repeat(1 << 20)));
        let (kept, mark) = line.split_once("… (").expect("a mark");
        let left_out: usize = mark.strip_suffix(" bytes left out)\n").expect("a mark").parse().unwrap();
        assert!((MAX_LINE - 1..=MAX_LINE).contains(&kept.len()), "{}", kept.len());
        let start = kept.find('é').unwrap();
        assert_eq!(start + (2 << 20), kept.len() + left_out);
        let coloured = logged(LogFormat::Text, true, || tracing::info!(long = "x".repeat(MAX_LINE), "m"));
        assert!(coloured.ends_with(" bytes left out)\n") && coloured.contains("x\u{1b}[0m… ("), "{coloured:?}");
        // As long as a line may be, it is whole.
        for (length, whole) in [(MAX_LINE, true), (MAX_LINE + 1, false)] {
            assert_eq!(plain(&"x".repeat(length)) == "x".repeat(length) + "\n", whole, "{length}");
        }
    }

    #[test]
    fn a_long_object_is_cut_in_its_strings_and_stays_an_object() {
        let short = logged(LogFormat::Json, false, || everywhere("short"));
        for long in ["x".repeat(1 << 20), "\u{1}é\"".repeat(3000), hostile().repeat(100)] {
            let line = logged(LogFormat::Json, false, || everywhere(&long));
            assert!(line.len() <= MAX_LINE + 1 && line.ends_with("}\n"), "{}", line.len());
            let (object, short) = (json(&line), json(&short));
            let keys =
                |value: &Value| value.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>();
            assert_eq!((keys(&object), keys(&object["span"])), (keys(&short), keys(&short["span"])));
            assert_eq!((&object["level"], &object["span"]["name"]), (&json!("INFO"), &json!("request")));
            let quoted = object["quoted"].as_str().unwrap();
            let (kept, mark) = quoted.split_once("… (").expect("a mark");
            assert!(long.starts_with(kept) && mark == format!("{} bytes left out)", long.len() - kept.len()), "{mark}");
        }
    }

    #[test]
    fn an_object_of_too_many_values_keeps_what_finds_it() {
        let many: Map<String, Value> = (0..2000).map(|i| (format!("key{i}"), json!(i))).collect();
        let mut object = many.clone();
        object.extend([("timestamp".to_owned(), json!("t")), ("level".to_owned(), json!("INFO"))]);
        let text = Value::Object(object).to_string();
        let left_out = format!("… ({} bytes left out)", text.len());
        assert_eq!(json(&shortened(&text)), json!({ "timestamp": "t", "level": "INFO", "message": left_out }));
    }

    #[test]
    fn a_value_that_cannot_be_shown_costs_itself_only() {
        struct Broken;
        impl fmt::Display for Broken {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        let line = logged(LogFormat::Text, false, || tracing::info!(broken = %Broken, whole = 1, "m"));
        assert!(line.ends_with("INFO m broken= whole=1\n"), "{line}");
    }
}
