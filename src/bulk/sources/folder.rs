//! A folder of pictures, texts, or both.
//!
//! Owns the listing. Pictures are known by their suffix, in whatever case; the text of a picture is the `.txt` file whose path differs
//! in its suffix alone. What is hidden (its name begins with a dot) is left out, with all below it; links to folders are not followed,
//! as they may lead in a circle; links to files are. A folder below it that cannot be listed, a link that leads nowhere and a name that is
//! not UTF-8 are rows with their reason. What the run itself writes is left out, wherever it is.
//!
//! Invariant: the same folder gives the same samples, in the order of the code points of their paths below it. The listing is the
//! one thing that grows with the number of items: some hundred bytes each.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use walkdir::{DirEntry, WalkDir};

use super::{
    file::{Limits, read_picture, read_text},
    names,
    own::Own,
    patterns::unlisted,
};
use crate::bulk::{
    options::Modalities,
    sample::{Sample, Sink, Stop},
    suffix,
};

/// The samples below a folder.
#[derive(Debug)]
pub(in crate::bulk) struct Folder {
    root: PathBuf,
    /// Below `root`, sorted: pictures, texts that have none, and what cannot be listed.
    items: Vec<PathBuf>,
    /// Why these of them cannot be.
    unlisted: HashMap<PathBuf, String>,
    /// Below `root`, sorted by what is left of them without their suffix.
    texts: Vec<PathBuf>,
}

impl Folder {
    /// Lists `root`, but for what below it is the run's own.
    ///
    /// # Errors
    /// One line: it cannot be listed, or there is nothing in it to embed.
    pub(super) fn open(root: &Path, modality: Modalities, own: &Own) -> Result<Self, String> {
        let (mut items, mut texts, mut lost) = (Vec::new(), Vec::new(), HashMap::new());
        let below = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
        let visible = |entry: &DirEntry| entry.depth() == 0 || !(is_hidden(entry.file_name()) || own.has_entry(entry));
        for entry in WalkDir::new(root).into_iter().filter_entry(visible) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                    let Some(path) = error.path().filter(|_| error.depth() > 0) else {
                        return Err(format!("{}: {reason}", root.display()));
                    };
                    items.push(below(path));
                    lost.insert(below(path), unlisted(path, &reason));
                    continue;
                }
            };
            let path = entry.path();
            let Some(suffix) = path.extension().and_then(OsStr::to_str) else { continue };
            let into = if suffix::is_picture(suffix) && modality.has_images() {
                &mut items
            } else if suffix.eq_ignore_ascii_case("txt") {
                &mut texts
            } else {
                continue;
            };
            let file_type = entry.file_type();
            // A link that leads nowhere is read, and that says why not.
            let leads_to_file = || fs::metadata(path).map_or(true, |file| file.is_file());
            if file_type.is_file() || (file_type.is_symlink() && leads_to_file()) {
                into.push(below(path));
            }
        }
        items.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        texts.sort_by_cached_key(|text| order_of_texts(text));
        texts.dedup_by_key(|text| text.with_extension(""));
        let mut folder = Self { root: root.to_owned(), items, unlisted: lost, texts };
        if modality.has_texts() {
            folder.add_lone_texts();
        }
        if folder.items.is_empty() {
            let root = root.display();
            let what = if modality.has_images() { "picture" } else { ".txt file" };
            return Err(if folder.texts.is_empty() {
                format!(
                    "{root}: there is no {what} in it; tar and Parquet files are given by themselves, such as {root}/*.tar"
                )
            } else {
                format!("{root}: there is no picture in it, but texts, which --modality text embeds")
            });
        }
        Ok(folder)
    }

    /// The texts that no picture has become items of their own.
    fn add_lone_texts(&mut self) {
        let stems: HashSet<PathBuf> = self.items.iter().map(|picture| picture.with_extension("")).collect();
        let lone = self.texts.iter().filter(|text| !stems.contains(&text.with_extension(""))).cloned();
        let lone: Vec<_> = lone.collect();
        self.items.extend(lone);
        self.items.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    }

    /// How many samples there are.
    pub(super) fn len(&self) -> u64 {
        self.items.len() as u64
    }

    /// Sends all of them.
    ///
    /// # Errors
    /// When the sink says so.
    pub(super) fn send(&self, sink: &mut dyn Sink, limits: Limits) -> Result<(), Stop> {
        for item in &self.items {
            let path = self.root.join(item);
            let id = names::id(&path);
            let Some(ticket) = sink.ticket(&id)? else { continue };
            if let Some(error) = self.unlisted.get(item).cloned().or_else(|| names::fault(&path)) {
                sink.send(ticket, Sample::unreadable(id.clone(), Some(id), error))?;
                continue;
            }
            let mut sample = Sample { id, ..Sample::default() };
            if item.extension().and_then(OsStr::to_str).is_some_and(suffix::is_picture) {
                sample.path = Some(sample.id.clone());
                sample.picture = sample.take_picture(read_picture(&path, limits));
            }
            if let Some(text) = self.text_of(item) {
                sample.caption = sample.take_text(read_text(&self.root.join(text), limits));
            }
            sink.send(ticket, sample)?;
        }
        Ok(())
    }

    fn text_of(&self, item: &Path) -> Option<&PathBuf> {
        let stem = item.with_extension("");
        let at = self.texts.binary_search_by_key(&stem, |text| text.with_extension("")).ok()?;
        self.texts.get(at)
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// By stem, `.txt` in front of `.TXT`.
fn order_of_texts(text: &Path) -> (PathBuf, Reverse<OsString>) {
    (text.with_extension(""), Reverse(text.as_os_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::sample::Kept;

    const LIMITS: Limits = Limits { picture: 99, text: 9 };

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        root
    }

    fn elsewhere() -> Own {
        Own::new(Path::new("/absent"))
    }

    fn names(root: &Path, modality: Modalities) -> Vec<String> {
        let mut kept = Kept::default();
        Folder::open(root, modality, &elsewhere()).unwrap().send(&mut kept, LIMITS).unwrap();
        let prefix = format!("{}/", root.display());
        kept.origins.iter().map(|origin| origin.strip_prefix(&prefix).unwrap().to_owned()).collect()
    }

    const ALL: [&str; 14] = [
        "b.jpg",
        "a.png",
        "sub/c.jpeg",
        "D.JPG",
        "e.gif",
        "f.Jpg",
        "g.tif",
        "h.webp",
        "sub.png",
        ".x/3.jpg",
        ".4.jpg",
        "notes.md",
        "a.txt",
        "lone.txt",
    ];

    #[test]
    fn every_picture_is_read_in_the_order_of_code_points_and_hidden_ones_are_not() {
        let root = tree(&ALL);
        let pictures = ["D.JPG", "a.png", "b.jpg", "e.gif", "f.Jpg", "g.tif", "h.webp", "sub.png", "sub/c.jpeg"];
        assert_eq!(names(root.path(), Modalities::Image), pictures);
        assert_eq!(names(root.path(), Modalities::Text), ["a.txt", "lone.txt"]);
        let both = names(root.path(), Modalities::Both);
        assert_eq!((both.len(), both.contains(&"lone.txt".to_owned())), (pictures.len() + 1, true));
    }

    #[test]
    fn a_picture_has_the_text_beside_it_and_loses_nothing_by_one_that_is_too_long() {
        let root = tree(&["a.b.jpg", "c.jpg"]);
        fs::write(root.path().join("a.b.txt"), "cat\n").unwrap();
        fs::write(root.path().join("c.txt"), "0123456789").unwrap();
        for modality in [Modalities::Image, Modalities::Both] {
            let mut kept = Kept::default();
            Folder::open(root.path(), modality, &elsewhere()).unwrap().send(&mut kept, LIMITS).unwrap();
            let [first, second] = &kept.samples[..] else { panic!("{:?}", kept.samples) };
            assert_eq!((first.caption.as_deref(), first.reason()), (Some("cat"), None));
            assert_eq!(first.picture.as_deref(), Some(&b"a.b.jpg"[..]));
            assert!(second.no_text.as_ref().unwrap().contains("10 bytes, the limit is 9"), "{second:?}");
            assert_eq!((second.caption.as_ref(), second.picture.as_deref()), (None, Some(&b"c.jpg"[..])));
            assert_eq!((&second.error, &second.no_picture), (&None, &None));
        }
    }

    #[test]
    fn what_is_not_wanted_is_not_read() {
        let root = tree(&["a.jpg", "b.jpg"]);
        let folder = Folder::open(root.path(), Modalities::Image, &elsewhere()).unwrap();
        fs::remove_file(root.path().join("a.jpg")).unwrap();
        let mut kept = Kept { unwanted: [0].into(), ..Kept::default() };
        folder.send(&mut kept, LIMITS).unwrap();
        assert_eq!(kept.samples.len(), 1);
        assert!(kept.samples[0].reason().is_none());
        // A picture that has gone since it was listed is a row of its own.
        folder.send(&mut kept, LIMITS).unwrap();
        assert!(kept.samples[1].reason().unwrap().contains("a.jpg"), "{:?}", kept.samples[1]);
    }

    #[cfg(unix)]
    #[test]
    fn links_to_files_are_followed_and_links_to_folders_are_not() {
        let root = tree(&["real/a.jpg"]);
        std::os::unix::fs::symlink(root.path().join("real/a.jpg"), root.path().join("link.jpg")).unwrap();
        std::os::unix::fs::symlink(root.path(), root.path().join("circle")).unwrap();
        assert_eq!(names(root.path(), Modalities::Image), ["link.jpg", "real/a.jpg"]);
    }

    #[test]
    fn a_folder_without_pictures_is_refused_and_says_what_to_give() {
        let root = tree(&["a.tar"]);
        let error = Folder::open(root.path(), Modalities::Image, &elsewhere()).unwrap_err();
        assert!(error.contains("no picture") && error.contains("/*.tar"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_read_is_a_row_that_is_told_apart_and_the_rest_goes_on() {
        use std::os::unix::ffi::OsStrExt as _;

        let root = tree(&["a.png", "z.png"]);
        for name in [&b"b\xfe.png"[..], b"b\xff.png"] {
            fs::write(root.path().join(OsStr::from_bytes(name)), "").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", root.path().join("c.png")).unwrap();
        // A folder whose path is longer than the system takes: nobody, root included, can list it by its path.
        let long = "d".repeat(200);
        let chain = |name: &str| {
            let path = (0..12).fold(root.path().join(name), |path, _| path.join(&long));
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (deep, more) = (chain("d"), root.path().join("e"));
        chain("e/f");
        fs::rename(more, deep.join("e")).unwrap();
        let mut kept = Kept::default();
        Folder::open(root.path(), Modalities::Image, &elsewhere()).unwrap().send(&mut kept, LIMITS).unwrap();
        let rows: Vec<_> =
            kept.samples.iter().map(|row| (&row.id[root.path().as_os_str().len() + 1..], row.reason())).collect();
        let names: Vec<_> = rows.iter().map(|(id, _)| id.split('/').next().unwrap()).collect();
        assert_eq!(names, ["a.png", "b\\xfe.png", "b\\xff.png", "c.png", "d", "z.png"], "{rows:?}");
        assert_eq!((rows[0].1, rows[5].1), (None, None));
        for (row, expected) in
            [(1, names::NOT_UTF8), (2, names::NOT_UTF8), (3, "c.png: No such file"), (4, "cannot be listed")]
        {
            assert!(rows[row].1.unwrap().contains(expected), "{rows:?}");
        }
    }
}
