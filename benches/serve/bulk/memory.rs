//! Whether memory grows with items: the model in the box over a list of small pictures, so that many come by in little time.
//!
//! A list, not a folder, whose names are in memory from the start. Resident memory is read whenever a part is complete.

use std::{fs, path::PathBuf, thread, time::Duration};

use super::{Embed, Options};
use crate::{Result, arithmetic::Arithmetic, attack::theil_sen, services::Places};

/// Rows of a part, and between two looks.
const PART: u64 = 10_000;
/// At the last item, of that at the tenth of them.
const BAR: f64 = 1.05;
/// Small pictures; the list goes through them again and again.
const PICTURES: u64 = 100;

pub(super) fn run(places: &Places, options: &Options) -> Result<()> {
    let list = list(places, options.items)?;
    let model = places.box_model();
    let embed = Embed { places, model: &model, arithmetic: Arithmetic::F32, set: &options.set };
    let parts = embed.out()?.join("parts.jsonl");
    let (list, rows) = (list.to_str().ok_or("a path in UTF-8")?, PART.to_string());
    let mut run = embed.start(&["--from-file", list, "--part-rows", &rows])?;
    let mut seen: Vec<(f64, f64)> = Vec::new();
    while run.runs()? {
        let complete = fs::read_to_string(&parts).map_or(0, |parts| parts.matches("{\"part\":").count());
        if complete > seen.len() {
            // Gone between two looks: the last part is complete and so is the run.
            match run.resident() {
                Ok(resident) => seen.push(resident),
                Err(_) => break,
            }
        }
        pause();
    }
    println!("| items | resident, MB | of it not mapped from files, MB |\n|---:|---:|---:|");
    for (number, (resident, own)) in seen.iter().enumerate() {
        println!("| {} | {:.1} | {:.1} |", (number as u64 + 1) * PART, resident / 1e6, own / 1e6);
    }
    let (Some((first, _)), Some((last, _))) = (seen.first(), seen.last()) else {
        return Err("the run ended before a part was complete".into());
    };
    println!("\nat {} items of that at {PART}: {:.3} (bar: {BAR})", seen.len() as u64 * PART, last / first);
    let samples: Vec<f64> = seen.iter().map(|(resident, _)| *resident).collect();
    if let Some(slope) = theil_sen(&samples) {
        println!(
            "slope: {:.1} bytes an item ({:.1} to {:.1})\n",
            slope.middle / PART as f64,
            slope.low / PART as f64,
            slope.high / PART as f64
        );
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "that another process has written a line is no event")]
fn pause() {
    thread::sleep(Duration::from_millis(50));
}

/// A list of so many paths of small pictures.
fn list(places: &Places, items: u64) -> Result<PathBuf> {
    let folder = super::folder(places)?;
    let pictures = folder.join("small");
    fs::create_dir_all(&pictures)?;
    let mut paths = Vec::new();
    for number in 0..PICTURES {
        let path = pictures.join(format!("{number}.png"));
        let side = 48 + u32::try_from(number % 32)?;
        let pixel = |x: u32, y: u32| image::Rgb([(x * 5) as u8, (y * 5) as u8, number as u8]);
        image::RgbImage::from_fn(side, side, pixel).save(&path)?;
        paths.push(path.to_string_lossy().into_owned() + "\n");
    }
    let list = folder.join("small.txt");
    let lines: String = (0..items).map(|number| &*paths[(number % PICTURES) as usize]).collect();
    fs::write(&list, lines)?;
    Ok(list)
}
