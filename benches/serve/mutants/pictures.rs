//! Broken pictures, as many of each format: which valid ones they are made of.
//!
//! Owns the list of formats and their files, all of this repository. How they are broken is `bytes`'.

use std::{fs, path::Path};

use fastrand::Rng;

use super::bytes;
use crate::{Result, services::Places};

/// Valid pictures are this long at most: a larger one is mostly pixels, and a change in it changes some of these.
const MOST: u64 = 200_000;

/// Formats by the ends of their files' names.
const FORMATS: [&[&str]; 7] = [&["jpg"], &["png"], &["gif"], &["webp"], &["bmp"], &["tif", "tiff"], &["avif"]];

/// Where they are, in the checkout.
const FOLDERS: [&str; 4] =
    ["tests/fixtures/images", "tests/fixtures/pictures/tiff", "tests/fixtures/pictures/avif", "fuzz/corpus"];

/// Valid pictures, by format.
pub(super) struct Pictures(Vec<Vec<Vec<u8>>>);

impl Pictures {
    pub(super) fn read(places: &Places) -> Result<Self> {
        let mut formats = vec![Vec::new(); FORMATS.len()];
        for folder in FOLDERS {
            add(&places.root.join(folder), &mut formats)?;
        }
        for (format, ends) in formats.iter().zip(FORMATS) {
            if format.is_empty() {
                return Err(format!("there is no {} among the fixtures", ends[0]).into());
            }
        }
        Ok(Self(formats))
    }

    /// The broken picture of that number.
    pub(super) fn mutant(&self, number: u64) -> Vec<u8> {
        let mut rng = Rng::with_seed(number);
        let format = &self.0[(number % self.0.len() as u64) as usize];
        let mut any = || &format[rng.usize(..format.len())];
        let (mut picture, other) = (any().clone(), any());
        bytes::mutate(&mut picture, other, &mut rng);
        picture
    }
}

fn add(folder: &Path, formats: &mut [Vec<Vec<u8>>]) -> Result<()> {
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?;
    // Whatever order the folder is in.
    paths.sort();
    for path in paths {
        if path.is_dir() {
            add(&path, formats)?;
            continue;
        }
        let end = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let format = FORMATS.iter().position(|ends| ends.contains(&end.as_str()));
        if let Some(format) = format
            && fs::metadata(&path)?.len() <= MOST
        {
            formats[format].push(fs::read(&path)?);
        }
    }
    Ok(())
}
