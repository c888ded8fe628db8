//! The encodings of one byte a character that text is most often misread with.
//!
//! Owns their tables: Python's, and of the `sloppy` ones the holes, which stand for themselves, as in WHATWG's. Does not own in which order
//! they are tried, nor why.
//!
//! Invariant: the lower half of each is ASCII.

use std::sync::LazyLock;

/// Byte 0x1a, which in an encoding that has lost characters stands for [`LOST`].
pub(super) const SUBSTITUTE: u8 = 0x1a;
/// What a decoder writes for bytes that are none.
pub(super) const LOST: char = '\u{fffd}';

/// One encoding.
pub(super) struct Encoding {
    /// The characters of bytes 0x80 to 0xff.
    upper: [char; 128],
    /// The same in their order, with their bytes.
    by_char: Vec<(char, u8)>,
    /// Whether byte [`SUBSTITUTE`] is [`LOST`].
    pub(super) is_sloppy: bool,
    /// Whether a no-break space in it may have become a space: not where its byte is another character's.
    pub(super) has_no_break_space_at_a0: bool,
}

impl Encoding {
    fn new(upper: &str, is_sloppy: bool) -> Self {
        let mut chars = upper.chars();
        let upper: [char; 128] = std::array::from_fn(|_| chars.next().expect("128 characters"));
        let mut by_char: Vec<(char, u8)> = upper.iter().zip(0x80..=0xff).map(|(&char, byte)| (char, byte)).collect();
        by_char.sort_unstable();
        Self { upper, by_char, is_sloppy, has_no_break_space_at_a0: true }
    }

    /// The bytes of `text`, if all of its characters have one.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|char| self.byte(char)).collect()
    }

    fn byte(&self, char: char) -> Option<u8> {
        match char {
            LOST => self.is_sloppy.then_some(SUBSTITUTE),
            '\u{1a}' if self.is_sloppy => None,
            '\0'..='\x7f' => Some(char as u8),
            _ => Some(self.by_char[self.by_char.binary_search_by_key(&char, |&(char, _)| char).ok()?].1),
        }
    }

    /// The character of `byte`.
    pub(super) fn char(&self, byte: u8) -> char {
        match byte {
            SUBSTITUTE if self.is_sloppy => LOST,
            0..=0x7f => char::from(byte),
            _ => self.upper[usize::from(byte) - 0x80],
        }
    }
}

/// ISO 8859-1, which has the characters of the same numbers.
pub(super) static LATIN_1: LazyLock<Encoding> = LazyLock::new(|| {
    let upper: String = ('\u{80}'..='\u{ff}').collect();
    Encoding::new(&upper, false)
});

/// Western.
pub(super) static WINDOWS_1252: LazyLock<Encoding> = LazyLock::new(|| Encoding::new(CP1252, true));

/// Those that a text is tried with after [`LATIN_1`] and [`WINDOWS_1252`], in this order.
pub(super) static OTHERS: LazyLock<[Encoding; 8]> = LazyLock::new(|| {
    let sloppy = |upper| Encoding::new(upper, true);
    let whole = |upper| Encoding::new(upper, false);
    [
        sloppy(CP1251),
        sloppy(CP1250),
        sloppy(CP1253),
        sloppy(CP1254),
        sloppy(CP1257),
        whole(ISO_8859_2),
        // There an en dash before a space would be taken for one.
        Encoding { has_no_break_space_at_a0: false, ..whole(MAC_ROMAN) },
        whole(CP437),
    ]
});

const CP1252: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ\u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎ\
    ÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ";
const CP1251: &str = "\
    ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\u{98}™љ›њќћџ\u{a0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{ad}®Ї°±Ііґµ¶·ё№є»јЅѕїАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабв\
    гдежзийклмнопрстуфхцчшщъыьэюя";
const CP1250: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰Š‹ŚŤŽŹ\u{90}‘’“”•–—\u{98}™š›śťžź\u{a0}ˇ˘Ł¤Ą¦§¨©Ş«¬\u{ad}®Ż°±˛ł´µ¶·¸ąş»Ľ˝ľżŔÁÂĂÄĹĆÇČÉĘËĚÍÎ\
    ĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";
const CP1253: &str = "\
    €\u{81}‚ƒ„…†‡\u{88}‰\u{8a}‹\u{8c}\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}\u{9d}\u{9e}\u{9f}\u{a0}΅Ά£¤¥¦\
    §¨©ª«¬\u{ad}®―°±²³΄µ¶·ΈΉΊ»Ό½ΎΏΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡÒΣΤΥΦΧΨΩΪΫάέήίΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώÿ";
const CP1254: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}\u{9e}Ÿ\u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄ\
    ÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞßàáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ";
const CP1257: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰\u{8a}‹\u{8c}¨ˇ¸\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}¯˛\u{9f}\u{a0}¡¢£¤¥¦§Ø©Ŗ«¬\u{ad}®Æ°±²³´µ\
    ¶·ø¹ŗ»¼½¾æĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽßąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž˙";
const ISO_8859_2: &str = "\
    \u{80}\u{81}\u{82}\u{83}\u{84}\u{85}\u{86}\u{87}\u{88}\u{89}\u{8a}\u{8b}\u{8c}\u{8d}\u{8e}\u{8f}\u{90}\u{91}\u{92}\
    \u{93}\u{94}\u{95}\u{96}\u{97}\u{98}\u{99}\u{9a}\u{9b}\u{9c}\u{9d}\u{9e}\u{9f}\u{a0}Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u{ad}ŽŻ°ą˛ł´ľśˇ¸š\
    şťź˝žżŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";
const MAC_ROMAN: &str = "\
    ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ‡·‚„‰ÂÊÁËÈÍÎÏ\
    ÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ";
const CP437: &str = "\
    ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±\
    ≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
