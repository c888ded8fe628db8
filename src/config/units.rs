//! Numbers, sizes and durations as people write them in a file, in the environment or on the command line.
//!
//! Owns the spelling alone: which values a key takes is `validate`'s business. Strict on purpose (no blanks, no fractions, no
//! `MB` that means either of two things), since a value that is read differently than it was meant is worse than one refused.
//!
//! Invariants: nothing here panics on any text; `parse_bytes(format_bytes(n)) == n` for every `n`, and the same for durations of
//! whole microseconds.

use std::time::Duration;

/// Binary units, smallest first, with their size in bytes.
const BYTES: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Units of time, smallest first, with their length in microseconds.
const TIMES: &[(&str, u64)] = &[("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];

/// A decimal integer without a sign; underscores may stand between digits, as in TOML.
pub(super) fn parse_integer(text: &str) -> Option<u64> {
    let well_formed =
        text.split('_').all(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    if well_formed { text.replace('_', "").parse().ok() } else { None }
}

/// A size: `32MiB`, `16KiB`, `512B`, or plain bytes.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    parse_integer(text).or_else(|| parse_scaled(text, BYTES))
}

/// A duration: `500us`, `10ms`, `75s`, `2m`, `1h`. A bare number is refused: whether it means seconds or milliseconds is a guess.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    parse_scaled(text, TIMES).map(Duration::from_micros)
}

/// The size in the largest unit that divides it.
pub(super) fn format_bytes(bytes: u64) -> String {
    format_scaled(bytes, BYTES)
}

/// The duration in the largest unit that divides it; what is below a microsecond is cut off.
pub(super) fn format_duration(duration: Duration) -> String {
    if duration.is_zero() {
        return "0ms".to_owned();
    }
    format_scaled(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), TIMES)
}

fn parse_scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let (number, unit) = text.split_at(split);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    parse_integer(number)?.checked_mul(*scale)
}

fn format_scaled(value: u64, units: &[(&str, u64)]) -> String {
    let fitting = units.iter().rev().find(|(_, scale)| value >= *scale && value.is_multiple_of(*scale));
    let (unit, scale) = fitting.or(units.first()).copied().unwrap_or(("", 1));
    format!("{}{unit}", value / scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units_and_plain_bytes() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("50_000_000", 50_000_000),
            ("0B", 0),
            ("7B", 7),
            ("16KiB", 16 << 10),
            ("32MiB", 32 << 20),
            ("4GiB", 4 << 30),
            ("1TiB", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_could_mean_two_things_or_overflow_are_refused() {
        for text in [
            "",
            "B",
            "KiB",
            "-1",
            "+1",
            "1.5MiB",
            "32MB",
            "32M",
            "32mib",
            "32 MiB",
            " 32MiB",
            "32MiB ",
            "1__0",
            "_1",
            "1_",
            "1_KiB",
            "0x10",
            "1e3",
            "auto",
            "18446744073709551616",
            "16777216TiB",
            "٣MiB",
        ] {
            assert_eq!(parse_bytes(text), None, "{text:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, micros) in [
            ("0ms", 0),
            ("500us", 500),
            ("500ms", 500_000),
            ("75s", 75_000_000),
            ("2m", 120_000_000),
            ("1h", 3_600_000_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "0", "10", "s", "-1s", "1.5s", "1 s", "1S", "1min", "1m30s", "1d", "99999999999999h"] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn values_are_written_in_the_largest_unit_that_divides_them() {
        assert_eq!(format_bytes(0), "0B");
        assert_eq!(format_bytes(1000), "1000B");
        assert_eq!(format_bytes(1536 << 10), "1536KiB");
        assert_eq!(format_bytes(32 << 20), "32MiB");
        assert_eq!(format_duration(Duration::ZERO), "0ms");
        assert_eq!(format_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(format_duration(Duration::from_secs(75)), "75s");
        assert_eq!(format_duration(Duration::from_secs(120)), "2m");
    }

    proptest! {
        #[test]
        fn every_size_survives_being_written_and_read(bytes: u64, shift in 0_u32..64) {
            for bytes in [bytes, bytes >> shift, (bytes >> shift) << shift] {
                prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
            }
        }

        #[test]
        fn every_duration_survives_being_written_and_read(micros: u64, scale in prop::sample::select(TIMES)) {
            for micros in [micros, micros / scale.1 * scale.1] {
                let duration = Duration::from_micros(micros);
                prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
            }
        }

        #[test]
        fn a_number_with_a_unit_is_their_product(number in 0_u64..1 << 20, unit in prop::sample::select(BYTES)) {
            prop_assert_eq!(parse_bytes(&format!("{number}{}", unit.0)), Some(number * unit.1));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text: String, number: u64, tail in "[_0-9a-zA-Z]{0,4}") {
            for text in [text, format!("{number}{tail}")] {
                let _ = (parse_integer(&text), parse_bytes(&text), parse_duration(&text));
            }
        }
    }
}
