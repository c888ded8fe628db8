//! What both services are asked: the pictures and texts of the command line, or those in the box.
//!
//! Owns finding files, and choosing some of them where there are too many. Does not own whether a file is a picture: both sides say.
//!
//! Invariant: the same folders and files give the same samples in the same order.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::error::CompareError;
use crate::embedder::SUFFIXES;

/// What is asked where no file of texts is given: the lengths and the kinds of what people search pictures by.
const TEXTS: [&str; 40] = [
    "cat",
    "a photo of a dog",
    "two cats sleep on a sofa",
    "a red apple on a wooden table",
    "a sailing boat at sunset",
    "snow-covered mountains under a blue sky",
    "an aerial view of a city at night",
    "a child builds a snowman",
    "black and white portrait of an old man",
    "a plate of pasta with basil",
    "pizza",
    "a bowl of ramen with a soft egg",
    "a cup of coffee beside an open book",
    "red running shoes, side view on a white background",
    "leather handbag",
    "blue denim jacket with metal buttons",
    "a yellow taxi in heavy traffic",
    "a steam train crosses a stone bridge",
    "rocket launch",
    "an astronaut on the moon",
    "a football match in a full stadium",
    "a woman rides a bicycle in the rain",
    "umbrella",
    "a crowd at a concert, lit in purple",
    "mushrooms in a forest",
    "a field of sunflowers",
    "a single tree on a hill in autumn",
    "waves break on a rocky shore",
    "tropical fish above a coral reef",
    "an elephant and her calf at a water hole",
    "close-up of a circuit board",
    "a bar chart of monthly sales",
    "screenshot of a chat on a phone",
    "handwritten letter, yellowed paper",
    "invoice",
    "floor plan of a small flat",
    "an oil painting of a harbour",
    "a cartoon of a smiling heart",
    "graffiti on a brick wall",
    "an empty waiting room with grey chairs",
];

/// The texts to ask: the lines of `file`, at most `most`, else those that are built in.
///
/// # Errors
/// When the file cannot be read or has no text.
pub(super) fn texts(file: Option<&Path>, most: usize) -> Result<Vec<String>, CompareError> {
    let Some(file) = file else {
        return Ok(spread_out(TEXTS.map(str::to_owned).into(), most));
    };
    let wrong = |reason: String| CompareError::Samples(format!("--texts {}: {reason}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() {
        return Err(wrong("there is no text in it".to_owned()));
    }
    Ok(spread_out(lines, most))
}

/// The pictures to ask: files as they are named, folders with all that is below them, at most `most`.
///
/// # Errors
/// When something cannot be listed, or there is no picture.
pub(super) fn pictures(places: &[PathBuf], most: usize) -> Result<Vec<PathBuf>, CompareError> {
    let mut found = Vec::new();
    for place in places {
        let wrong = |error: io::Error| CompareError::Samples(format!("{}: {error}", place.display()));
        if fs::metadata(place).map_err(wrong)?.is_dir() {
            let before = found.len();
            collect(place, &mut found).map_err(wrong)?;
            found.get_mut(before..).unwrap_or_default().sort();
        } else {
            found.push(place.clone());
        }
    }
    if found.is_empty() {
        let names: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        return Err(CompareError::Samples(format!("there is no picture in {}", names.join(", "))));
    }
    Ok(spread_out(found, most))
}

/// The pictures below `folder`. Links to folders are not followed: they may lead in a circle.
fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, into)?;
            continue;
        }
        let extension = path.extension().and_then(|it| it.to_str()).map(str::to_ascii_lowercase);
        // A file that is named itself may be called anything.
        if extension.is_some_and(|it| SUFFIXES.contains(&it.as_str())) && fs::metadata(&path)?.is_file() {
            into.push(path);
        }
    }
    Ok(())
}

/// At most `most` of all, at even distances.
fn spread_out<T>(all: Vec<T>, most: usize) -> Vec<T> {
    let count = all.len();
    if count <= most {
        return all;
    }
    // The place of the next one to take; both factors are far below half of the bits.
    let mut taken = 0;
    let take = |(place, item)| {
        let take = taken < most && place == taken * count / most;
        taken += usize::from(take);
        take.then_some(item)
    };
    all.into_iter().enumerate().filter_map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_are_thinned_out_evenly() {
        assert_eq!(spread_out((0..10).collect(), 4), [0, 2, 5, 7]);
        assert_eq!(spread_out((0..3).collect(), 3), [0, 1, 2]);
        assert_eq!(spread_out((0..3).collect(), 1), [0]);
    }

    #[test]
    fn folders_are_searched_to_the_bottom_and_files_are_taken_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("in/b")).unwrap();
        for file in ["in/c.png", "in/b/A.JPEG", "in/notes.txt", "raw", "in/a.webp"] {
            fs::write(path(file), "x").unwrap();
        }
        let found = pictures(&[path("raw"), path("in")], 9).unwrap();
        assert_eq!(found, [path("raw"), path("in/a.webp"), path("in/b/A.JPEG"), path("in/c.png")]);
        assert_eq!(pictures(&[path("in")], 1).unwrap(), [path("in/a.webp")]);
        fs::create_dir(path("empty")).unwrap();
        for place in ["empty", "absent"] {
            let error = pictures(&[path(place)], 9).unwrap_err().to_string();
            assert!(error.contains(place), "{error}");
        }
    }

    #[test]
    fn texts_are_the_lines_of_the_file_or_those_that_are_built_in() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("t.txt");
        fs::write(&file, "one\r\n\n  two \n").unwrap();
        assert_eq!(texts(Some(&file), 9).unwrap(), ["one", "two"]);
        fs::write(&file, " \n").unwrap();
        assert!(texts(Some(&file), 9).unwrap_err().to_string().ends_with("there is no text in it"));
        let built_in = texts(None, 1000).unwrap();
        let mut different = built_in.clone();
        different.sort();
        different.dedup();
        assert_eq!((built_in.len(), different.len()), (TEXTS.len(), TEXTS.len()));
    }
}
