//! Whether a text looks as if it had been decoded with the wrong encoding: ftfy's heuristic.
//!
//! Owns ftfy 6.3.1's kinds of characters and which of them do not stand side by side in any language. Does not own what is done
//! about it.

use std::sync::LazyLock;

use regex::Regex;

// The kinds, as members of a bracket expression. Characters that no kind has count for nothing.
const COMMON: &str = "\u{a0}\u{ad}·´–—―…’";
const C1: &str = "\u{80}-\u{9f}";
const BAD: &str = "¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}ªº";
const LAW: &str = "¶§";
const CURRENCY: &str = "¢£¥₧€";
const START: &str = "¡«¿©΄΅‘‚“„•‹\u{f8ff}";
const END: &str = "®»˝”›™";
const NUMERIC: &str = "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№";
const KAOMOJI: &str = "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°";
const UPPER: &str = "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ";
const LOWER: &str = "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ";
const UPPER_COMMON: &str = "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я";
const LOWER_COMMON: &str = "α-ωάέήίΰа-џ";
const BOX: &str = "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓";

/// What Python's `\s` finds.
const SPACE: &str = r"[\s\x1c-\x1f]";
/// What Python's `\w` finds.
const WORD: &str = r"[\p{L}\p{N}_]";

static UNLIKELY: LazyLock<Regex> = LazyLock::new(|| {
    let any = |kinds: &[&str]| format!("[{}]", kinds.concat());
    let sequences = [
        any(&[C1]),
        any(&[BAD, LOWER, UPPER, BOX, START, END, CURRENCY, NUMERIC, LAW]) + &any(&[BAD]),
        "[a-zA-Z]".to_owned() + &any(&[LOWER_COMMON, UPPER_COMMON]) + &any(&[BAD]),
        any(&[BAD]) + &any(&[LOWER, UPPER, BOX, START, END, CURRENCY, NUMERIC, LAW]),
        any(&[LOWER, LOWER_COMMON, BOX, END, CURRENCY, NUMERIC]) + &any(&[UPPER]),
        any(&[BOX, END, CURRENCY, NUMERIC]) + &any(&[LOWER]),
        any(&[LOWER, BOX, END]) + &any(&[CURRENCY]),
        SPACE.to_owned() + &any(&[UPPER]) + &any(&[CURRENCY]),
        any(&[UPPER, BOX]) + &any(&[NUMERIC, LAW]),
        any(&[LOWER, UPPER, BOX, CURRENCY, END]) + &any(&[START]) + &any(&[NUMERIC]),
        any(&[LOWER, UPPER, CURRENCY, NUMERIC, BOX, LAW]) + &any(&[END]) + &any(&[START]),
        any(&[CURRENCY, NUMERIC, BOX]) + &any(&[START]),
        "[a-z]".to_owned() + &any(&[UPPER]) + &any(&[START, CURRENCY]),
        any(&[BOX]) + &any(&[KAOMOJI]),
        any(&[LOWER, UPPER, CURRENCY, NUMERIC, START, END, LAW]) + &any(&[BOX]),
        any(&[BOX]) + &any(&[END]),
        any(&[LOWER, UPPER]) + &any(&[START, END]) + WORD,
        // The ligature where a word goes on in small letters, or in capitals, is a word's.
        "[Œœ][^A-Za-z]".to_owned(),
        any(&[UPPER]) + "°",
        // UTF-8 read as Windows-1252.
        "[ÂÃÎÐ]".to_owned() + &any(&["€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»–—´", START, END]),
        "×[²³]".to_owned(),
        // Arabic.
        format!("(?:[ØÙ]{}){{2}}", any(&[COMMON, CURRENCY, BAD, NUMERIC, START, "ŸŠ®°µ»"])),
        // Thai and others that begin with byte 0xe0.
        "à[²µ¹¼½¾]".to_owned(),
        // As MacRoman.
        "√[±∂†≠®™´≤≥¥µø]".to_owned(),
        "≈[°¢]".to_owned(),
        "‚Ä[ìîïòôúùû†°¢π]".to_owned(),
        "‚[âó][àä°ê]".to_owned(),
        // As Windows-1251.
        "вЂ".to_owned(),
        format!("[ВГРС]{}[ВГРС]", any(&[C1, BAD, START, END, CURRENCY, "°µ"])),
        "ГўВЂВ.[A-Za-z ]".to_owned(),
        // An à, and a no-break space, whose second byte has become a space.
        "Ã[\u{a0}¡]".to_owned(),
        format!("[a-z]{SPACE}?[ÃÂ] "),
        r"\A[ÃÂ] ".to_owned(),
        format!("[a-z.,?!{END}]Â[ {START}{END}]"),
        // As Windows-1253 and Windows-1257.
        "β€[™\u{a0}Ά\u{ad}®°]".to_owned(),
        format!("[ΒΓΞΟ]{}[ΒΓΞΟ]", any(&[C1, BAD, START, END, CURRENCY, "°"])),
        "ā€".to_owned(),
    ];
    Regex::new(&sequences.join("|")).expect("a pattern of constants")
});

/// ftfy's `is_bad(text)`: whether some of its characters do not belong side by side.
pub(super) fn is_bad(text: &str) -> bool {
    UNLIKELY.is_match(text)
}
