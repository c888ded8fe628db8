//! What a file is called says what kind of source it is.
//!
//! Owns the suffixes, in whatever case. Does not own whether a file that is called a picture is one: decoding says.

use std::path::Path;

use crate::embedder::SUFFIXES;

/// Suffixes of pictures that this build does not decode: such a file is a row that says so, since a phone's folder is full of them.
const OTHERS: &[&str] = &[
    #[cfg(not(feature = "heic"))]
    "heic",
    #[cfg(not(feature = "heic"))]
    "heif",
    "jp2",
    #[cfg(not(feature = "jxl"))]
    "jxl",
];

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One picture.
    Picture,
    /// A tar of samples, as WebDataset makes them.
    Shard,
    /// Parquet.
    Table,
    /// JSON lines.
    Records,
    /// A text on each line.
    Texts,
}

impl Kind {
    /// Of the file that is called so; `None` when the name does not say.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let suffix = path.extension()?.to_str()?;
        let is = |known: &&str| suffix.eq_ignore_ascii_case(known);
        if is_picture(suffix) {
            Some(Self::Picture)
        } else if is(&"tar") {
            Some(Self::Shard)
        } else if is(&"parquet") {
            Some(Self::Table)
        } else if ["jsonl", "ndjson"].iter().any(is) {
            Some(Self::Records)
        } else if is(&"txt") {
            Some(Self::Texts)
        } else {
            None
        }
    }
}

/// What is said of a compressed tar.
pub(super) const COMPRESSED_TAR: &str = "compressed tars are not read: decompress it first";

/// Whether a file that is called so is a compressed tar.
pub(super) fn is_compressed_tar(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let suffixes = ["gz", "bz2", "xz", "zst", "lz4"];
    let is_long = name.rsplit_once('.').is_some_and(|(stem, last)| stem.ends_with(".tar") && suffixes.contains(&last));
    is_long || [".tgz", ".tbz2", ".txz", ".tzst"].iter().any(|short| name.ends_with(short))
}

/// Whether this build decodes files with this suffix.
pub(super) fn is_decoded(suffix: &str) -> bool {
    SUFFIXES.iter().any(|known| suffix.eq_ignore_ascii_case(known))
}

/// Whether a file with this suffix is a picture.
pub(super) fn is_picture(suffix: &str) -> bool {
    is_decoded(suffix) || OTHERS.iter().any(|known| suffix.eq_ignore_ascii_case(known))
}

/// What else a source may be called, for whoever gave another name.
pub(super) fn known() -> String {
    format!("{}, tar, parquet, jsonl, ndjson, txt", SUFFIXES.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_suffix_decides_in_whatever_case() {
        for (name, kind) in [
            ("a.JPG", Some(Kind::Picture)),
            ("b/a.b.TiF", Some(Kind::Picture)),
            ("IMG_1.HEIC", Some(Kind::Picture)),
            ("s.tar", Some(Kind::Shard)),
            ("t.Parquet", Some(Kind::Table)),
            ("r.ndjson", Some(Kind::Records)),
            ("t.txt", Some(Kind::Texts)),
            ("s.tar.gz", None),
            ("jpg", None),
            (".jpg", None),
        ] {
            assert_eq!(Kind::of(Path::new(name)), kind, "{name}");
        }
        assert!(known().contains("webp, tar"));
        for (name, expected) in
            [("s.tar.gz", true), ("S.TAR.ZST", true), ("s.tgz", true), ("s.tar", false), ("s.gz", false)]
        {
            assert_eq!(is_compressed_tar(Path::new(name)), expected, "{name}");
        }
    }
}
