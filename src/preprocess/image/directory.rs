//! The first directory of a TIFF structure: of a TIFF file, and of an EXIF block, which is one.
//!
//! Owns finding the directory and reading its fields as Pillow's `ImageFileDirectory_v2` does. Does not own what they mean.
//!
//! Invariants: as in Pillow, of several fields of one tag the first that can be read counts; a field whose type is unknown, that is empty,
//! or whose values lie outside the file is passed over; the values of all fields together are no larger than the file; whatever
//! follows the end of the file is not there. libtiff has other rules, which [`Directory::fields_past_gaps`] keeps. A walk takes time in
//! the number of fields, which are all in the file, and no memory but a bit for each tag.

/// The byte order, and how wide the structure's own numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) big_endian: bool,
    /// BigTIFF: offsets and counts of 64 bits.
    pub(super) is_big: bool,
}

/// What begins a TIFF structure, with its layout. Two have the bytes of the version swapped; Pillow believes the first two bytes.
const MAGICS: [(&[u8; 4], Layout); 6] = [
    (b"MM\0*", Layout { big_endian: true, is_big: false }),
    (b"II*\0", Layout { big_endian: false, is_big: false }),
    (b"MM*\0", Layout { big_endian: true, is_big: false }),
    (b"II\0*", Layout { big_endian: false, is_big: false }),
    (b"MM\0+", Layout { big_endian: true, is_big: true }),
    (b"II+\0", Layout { big_endian: false, is_big: true }),
];

impl Layout {
    /// That of a structure which begins so; `None` for what is none.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        MAGICS.iter().find(|(magic, _)| bytes.starts_with(*magic)).map(|&(_, layout)| layout)
    }

    /// That of an EXIF block, of which Pillow reads 8 bytes as the header: too few for a BigTIFF. It takes the third for the version, so
    /// that one with the most significant byte first is read as any other.
    pub(super) fn of_exif(block: &[u8]) -> Option<Self> {
        let layout = Self::of(block).filter(|layout| block.len() >= 8 && (layout.big_endian || !layout.is_big))?;
        Some(Self { is_big: false, ..layout })
    }

    /// An unsigned number of at most 8 bytes.
    fn number(self, bytes: &[u8]) -> u64 {
        let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        if self.big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) }
    }

    /// Bytes of an offset.
    fn offset_bytes(self) -> usize {
        if self.is_big { 8 } else { 4 }
    }
}

/// The type of a field's values, by its number in TIFF 6.0 and BigTIFF: those that Pillow reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Byte = 1,
    Ascii = 2,
    Short = 3,
    Long = 4,
    Rational = 5,
    SignedByte = 6,
    Undefined = 7,
    SignedShort = 8,
    SignedLong = 9,
    SignedRational = 10,
    Float = 11,
    Double = 12,
    Ifd = 13,
    Long8 = 16,
}

impl Kind {
    fn from_number(number: u64) -> Option<Self> {
        use Kind::*;
        let all = [
            Byte,
            Ascii,
            Short,
            Long,
            Rational,
            SignedByte,
            Undefined,
            SignedShort,
            SignedLong,
            SignedRational,
            Float,
            Double,
            Ifd,
            Long8,
        ];
        all.into_iter().find(|&kind| kind as u64 == number)
    }

    /// Bytes of one value.
    fn bytes(self) -> usize {
        match self {
            Self::Byte | Self::Ascii | Self::SignedByte | Self::Undefined => 1,
            Self::Short | Self::SignedShort => 2,
            Self::Long | Self::SignedLong | Self::Float | Self::Ifd => 4,
            Self::Rational | Self::SignedRational | Self::Double | Self::Long8 => 8,
        }
    }
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) tag: u16,
    pub(super) kind: Kind,
    layout: Layout,
    data: &'a [u8],
}

impl<'a> Field<'a> {
    /// How many values it has: at least one, where gaps end the directory.
    pub(super) fn count(&self) -> usize {
        self.data.len() / self.kind.bytes()
    }

    /// Its values as they are stored.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.data
    }

    /// Its value of that index as a whole number that is not negative; `None` beyond the last, and for other values.
    pub(super) fn integer(&self, index: usize) -> Option<u64> {
        match self.kind {
            Kind::Byte | Kind::Undefined | Kind::Short | Kind::Long | Kind::Ifd | Kind::Long8 => {
                Some(self.layout.number(self.value(index)?))
            }
            Kind::SignedByte | Kind::SignedShort | Kind::SignedLong => {
                let number = self.number(index)?;
                (number >= 0.0).then_some(number as u64)
            }
            Kind::Ascii | Kind::Rational | Kind::SignedRational | Kind::Float | Kind::Double => None,
        }
    }

    /// Its value of that index where Pillow has a number for it, which it has not for bytes and text. Beyond 2^53 rounded.
    pub(super) fn number(&self, index: usize) -> Option<f64> {
        let value = self.value(index)?;
        let unsigned = |value: &[u8]| self.layout.number(value);
        let signed = |value: &[u8]| {
            let unused = 64 - 8 * value.len() as u32;
            ((unsigned(value) << unused) as i64 >> unused) as f64
        };
        match self.kind {
            Kind::Byte | Kind::Ascii | Kind::Undefined => None,
            Kind::Short | Kind::Long | Kind::Ifd | Kind::Long8 => Some(unsigned(value) as f64),
            Kind::SignedByte | Kind::SignedShort | Kind::SignedLong => Some(signed(value)),
            Kind::Float => Some(f32::from_bits(unsigned(value) as u32).into()),
            Kind::Double => Some(f64::from_bits(unsigned(value))),
            Kind::Rational => Some(unsigned(&value[..4]) as f64 / unsigned(&value[4..]) as f64),
            Kind::SignedRational => Some(signed(&value[..4]) / signed(&value[4..])),
        }
    }

    fn value(&self, index: usize) -> Option<&'a [u8]> {
        self.data.chunks_exact(self.kind.bytes()).nth(index)
    }
}

/// The first directory of a structure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory<'a> {
    file: &'a [u8],
    layout: Layout,
    /// Where its first field is.
    start: usize,
    /// How many fields it says that it has.
    count: u64,
}

impl<'a> Directory<'a> {
    /// The first directory of `file`; `None` where that is no TIFF structure, or its directory is not in it.
    pub(super) fn first(file: &'a [u8]) -> Option<Self> {
        Self::with_layout(file, Layout::of(file)?)
    }

    /// The first directory of `file`, whatever layout its header says.
    pub(super) fn with_layout(file: &'a [u8], layout: Layout) -> Option<Self> {
        let offset_at = if layout.is_big { 8 } else { 4 };
        let number = |at: usize, length: usize| Some(layout.number(file.get(at..at.checked_add(length)?)?));
        let directory = usize::try_from(number(offset_at, layout.offset_bytes())?).ok()?;
        let count_bytes = if layout.is_big { 8 } else { 2 };
        let count = number(directory, count_bytes)?;
        Some(Self { file, layout, start: directory + count_bytes, count })
    }

    /// Its layout.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// How many fields it says that it has: not all need be there.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Its fields in the order of the file, each tag once.
    pub(super) fn fields(&self) -> Fields<'a> {
        Fields { directory: *self, index: 0, taken: 0, seen: [0; 1024], ends_at_gap: true }
    }

    /// The same as libtiff reads them: a field whose type is unknown, or whose values are not in the file, is there, without values.
    pub(super) fn fields_past_gaps(&self) -> Fields<'a> {
        Fields { ends_at_gap: false, ..self.fields() }
    }

    /// Whether all its fields are in the file.
    pub(super) fn is_whole(&self) -> bool {
        let field_bytes = 4 + 2 * self.layout.offset_bytes() as u64;
        let end = self.count.checked_mul(field_bytes).and_then(|bytes| bytes.checked_add(self.start as u64));
        end.is_some_and(|end| end <= self.file.len() as u64)
    }

    /// What libtiff takes the pixels for where no field says how long they are: the bytes of the file, less those of header, fields and
    /// values; all of them where these are more. `None` where a field is of a type that it does not know.
    pub(super) fn bytes_of_pixels(&self) -> Option<u64> {
        let offset_bytes = self.layout.offset_bytes();
        let field_bytes = 4 + 2 * offset_bytes;
        let own = if self.layout.is_big { 16 + 8 + 8 } else { 8 + 2 + 4 };
        let mut taken = self.count.checked_mul(field_bytes as u64)?.checked_add(own)?;
        for entry in self.file.get(self.start..)?.chunks_exact(field_bytes).take(usize::try_from(self.count).ok()?) {
            let width = match self.layout.number(&entry[2..4]) {
                0 => 1,
                // Of these two Pillow knows nothing.
                17 | 18 => 8,
                kind => Kind::from_number(kind)?.bytes() as u64,
            };
            let size = width.checked_mul(self.layout.number(&entry[4..4 + offset_bytes]))?;
            taken = taken.checked_add(if size > offset_bytes as u64 { size } else { 0 })?;
        }
        let all = self.file.len() as u64;
        Some(all.checked_sub(taken).unwrap_or(all))
    }

    /// The field of that tag.
    pub(super) fn find(&self, tag: u16) -> Option<Field<'a>> {
        self.fields().find(|field| field.tag == tag)
    }
}

/// The fields of a directory.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    directory: Directory<'a>,
    index: u64,
    /// Bytes of the values that lie outside their fields, so far.
    taken: u64,
    /// A bit for each tag.
    seen: [u64; 1024],
    /// Whether values that are not in the file end the directory.
    ends_at_gap: bool,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let Directory { file, layout, start, count } = self.directory;
        let offset_bytes = layout.offset_bytes();
        let field_bytes = 4 + 2 * offset_bytes;
        while self.index < count {
            let at = usize::try_from(self.index).ok()?.checked_mul(field_bytes)?.checked_add(start)?;
            let entry = file.get(at..at.checked_add(field_bytes)?)?;
            self.index += 1;
            let (tag, kind) = (layout.number(&entry[..2]) as u16, layout.number(&entry[2..4]));
            let (word, bit) = (usize::from(tag / 64), 1 << (tag % 64));
            if self.seen[word] & bit != 0 {
                continue;
            }
            let Some(kind) = Kind::from_number(kind) else {
                if self.ends_at_gap {
                    continue;
                }
                self.seen[word] |= bit;
                return Some(Field { tag, kind: Kind::Undefined, layout, data: &[] });
            };
            let values = layout.number(&entry[4..4 + offset_bytes]);
            let size = values.saturating_mul(kind.bytes() as u64);
            let data = if size > offset_bytes as u64 {
                let offset = layout.number(&entry[4 + offset_bytes..]);
                if offset > i64::MAX as u64 {
                    continue;
                }
                let taken = self.taken.saturating_add(size);
                self.taken = taken;
                if self.ends_at_gap && taken > file.len() as u64 {
                    continue;
                }
                let range = offset.checked_add(size).map(|end| offset as usize..end as usize);
                match range.and_then(|range| file.get(range)) {
                    Some(data) => data,
                    // Pillow reads no further once values are missing.
                    None if self.ends_at_gap => return None,
                    None => &[],
                }
            } else {
                &entry[4 + offset_bytes..][..size as usize]
            };
            if data.is_empty() && self.ends_at_gap {
                continue;
            }
            self.seen[word] |= bit;
            return Some(Field { tag, kind, layout, data });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure of these fields: tag, type, count, and what stands in the field.
    fn file(big_endian: bool, fields: &[(u16, u16, u32, [u8; 4])], rest: &[u8]) -> Vec<u8> {
        let b16 = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let b32 = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut bytes = [if big_endian { b"MM\0*".as_slice() } else { b"II*\0" }, &b32(8)].concat();
        bytes.extend(b16(fields.len() as u16));
        for &(tag, kind, count, value) in fields {
            bytes.extend([&b16(tag)[..], &b16(kind), &b32(count), &value].concat());
        }
        bytes.extend(b32(0));
        bytes.extend(rest);
        bytes
    }

    fn number(bytes: &[u8], tag: u16) -> Option<f64> {
        Directory::first(bytes)?.find(tag)?.number(0)
    }

    #[test]
    fn a_number_of_every_type_is_read_in_both_byte_orders() {
        for (kind, little, expected) in [
            (3, [6, 0, 9, 9], Some(6.0)),
            (4, [6, 0, 0, 0], Some(6.0)),
            (6, [0xfa, 9, 9, 9], Some(-6.0)),
            (8, [0xfa, 0xff, 9, 9], Some(-6.0)),
            (9, [6, 0, 0, 0], Some(6.0)),
            (11, 6f32.to_le_bytes(), Some(6.0)),
            (13, [6, 0, 0, 0], Some(6.0)),
            (1, [6; 4], None),
            (2, *b"6\0\0\0", None),
            (7, [6; 4], None),
            (17, [6; 4], None),
        ] {
            assert_eq!(number(&file(false, &[(274, kind, 1, little)], &[]), 274), expected, "{kind}");
            let width = Kind::from_number(kind.into()).map_or(1, Kind::bytes).min(4);
            let mut big = little;
            big[..width].reverse();
            assert_eq!(number(&file(true, &[(274, kind, 1, big)], &[]), 274), expected, "{kind}");
        }
        let at = 8 + 2 + 12 + 4;
        for (kind, value) in [(5, [12, 0, 0, 0, 2, 0, 0, 0]), (10, [0xf4, 255, 255, 255, 0xfe, 255, 255, 255])] {
            assert_eq!(number(&file(false, &[(274, kind, 1, [at, 0, 0, 0])], &value), 274), Some(6.0));
        }
        let value = 6f64.to_be_bytes();
        assert_eq!(number(&file(true, &[(274, 12, 1, [0, 0, 0, at])], &value), 274), Some(6.0));
    }

    #[test]
    fn the_first_field_of_a_tag_that_can_be_read_counts() {
        let fields = [(274, 99, 1, [1; 4]), (274, 3, 0, [2; 4]), (274, 3, 1, [3, 0, 0, 0]), (274, 3, 1, [4, 0, 0, 0])];
        let bytes = file(false, &fields, &[]);
        assert_eq!(number(&bytes, 274), Some(3.0));
        assert_eq!(Directory::first(&bytes).unwrap().fields().count(), 1);
    }

    #[test]
    fn values_that_are_not_in_the_file_end_the_directory_and_those_larger_than_it_are_passed_over() {
        let orientation = (274, 3, 1, [6, 0, 0, 0]);
        let outside = file(false, &[(270, 2, 5, [0xff; 4]), orientation], &[]);
        assert_eq!(number(&outside, 274), None);
        let larger = file(false, &[(270, 2, 500, [8, 0, 0, 0]), orientation], &[]);
        assert_eq!(number(&larger, 274), Some(6.0));
    }

    #[test]
    fn swapped_versions_and_offsets_of_64_bits_are_read() {
        let swapped = [b"MM*\0".as_slice(), &file(true, &[(274, 3, 1, [0, 6, 0, 0])], &[])[4..]].concat();
        assert_eq!(number(&swapped, 274), Some(6.0));
        let mut big = b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
        big.extend([274u16.to_le_bytes(), 16u16.to_le_bytes()].concat());
        big.extend([1u64.to_le_bytes(), 6u64.to_le_bytes()].concat());
        assert_eq!(number(&big, 274), Some(6.0));
        assert_eq!(Directory::first(&big).unwrap().find(274).unwrap().integer(0), Some(6));
        for end in 0..big.len() {
            assert_eq!(number(&big[..end], 274), None);
        }
    }
}
