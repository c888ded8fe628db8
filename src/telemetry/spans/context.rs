//! The trace that a request comes with: W3C's `traceparent` and `tracestate`.
//!
//! Owns the reading. The library's own propagator is not used: it takes shorter ids and signs in front of them, and of several `tracestate`
//! only the first. Does not own what follows from it (`super`).
//!
//! Invariants: a `traceparent` is taken as the recommendation has it or not at all; of a `tracestate` no more than [`MAX_STATE`] bytes are
//! looked at, and one that is longer or malformed costs itself only.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// What has to be passed on of a `tracestate`, by the recommendation, in bytes.
const MAX_STATE: usize = 512;

/// A `traceparent` of the version that is known: version, trace, span, flags, with dashes between them.
const LENGTH: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// The span that a request comes from, by its `traceparent` and the values of its `tracestate`.
pub(super) fn parent<'a>(traceparent: &str, tracestate: impl Iterator<Item = &'a str>) -> Option<SpanContext> {
    let (known, further) = traceparent.split_at_checked(LENGTH)?;
    let is_shape = known.bytes().enumerate().all(|(at, byte)| match at {
        2 | 35 | 52 => byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    });
    // A later version may have more behind another dash; `ff` is none.
    let is_version = match known.get(..2)? {
        "00" => further.is_empty(),
        "ff" => false,
        _ => further.is_empty() || further.starts_with('-'),
    };
    if !is_shape || !is_version {
        return None;
    }
    let trace = TraceId::from_hex(known.get(3..35)?).ok()?;
    let span = SpanId::from_hex(known.get(36..52)?).ok()?;
    let flags = u8::from_str_radix(known.get(53..)?, 16).ok()?;
    let sampled = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    // Of zeros none is one.
    Some(SpanContext::new(trace, span, sampled, true, state(tracestate))).filter(SpanContext::is_valid)
}

/// Several values are one list, by HTTP.
fn state<'a>(values: impl Iterator<Item = &'a str>) -> TraceState {
    let mut list = String::new();
    for value in values {
        if list.len() + value.len() >= MAX_STATE {
            return TraceState::default();
        }
        list.push_str(value);
        list.push(',');
    }
    list.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn of(traceparent: &str) -> Option<SpanContext> {
        parent(traceparent, [].into_iter())
    }

    #[test]
    fn a_traceparent_is_the_span_and_whether_it_is_sampled() {
        for (version, flags, further, sampled) in [
            ("00", "01", "", true),
            ("00", "00", "", false),
            ("00", "ff", "", true),
            ("00", "02", "", false),
            ("cc", "01", "", true),
            ("cc", "01", "-what-comes-later", true),
        ] {
            let text = format!("{version}-{TRACE}-{SPAN}-{flags}{further}");
            let context = of(&text).expect(&text);
            assert_eq!((context.trace_id().to_string(), context.span_id().to_string()), (TRACE.into(), SPAN.into()));
            assert_eq!((context.is_sampled(), context.is_remote()), (sampled, true), "{text}");
        }
    }

    #[test]
    fn whatever_else_there_is_is_none() {
        let (zeros, upper) = ("0".repeat(32), TRACE.to_uppercase());
        for text in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("cc-{TRACE}-{SPAN}-01more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0g-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{upper}-{SPAN}-01"),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00_{TRACE}_{SPAN}_01"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-é"),
            "é".repeat(40),
        ] {
            assert_eq!(of(&text), None, "{text:?}");
        }
    }

    #[test]
    fn a_tracestate_is_one_list_of_bounded_length_or_nothing() {
        let (fits, long) = (format!("a={}", "x".repeat(250)), format!("b={}", "y".repeat(250)));
        let both = format!("{fits},{long}");
        for (values, expected) in [
            (&[][..], ""),
            (&["a=1,b=2"], "a=1,b=2"),
            (&["a=1", " b=2"], "a=1,b=2"),
            (&[&fits, &long], &both),
            (&[&both, "c=12345"], ""),
            (&["no list"], ""),
            (&["A=1"], ""),
        ] {
            let context = parent(&format!("00-{TRACE}-{SPAN}-01"), values.iter().copied()).expect("a parent");
            assert_eq!(context.trace_state().header(), expected, "{values:?}");
        }
    }
}
