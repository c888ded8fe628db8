//! What the service adds to one picture's latency: one connection, beside the same work done without a service.
//!
//! In turn with each request the same picture is decoded and resized in this process and a bare session runs once, so that a
//! busy machine hits both sides alike; the difference is the median of the differences. A request goes through a kernel socket,
//! four threads and JSON; all of that is in it.

use std::{fs, hint::black_box, time::Instant};

use clap::Parser;
use clipserve::{
    model::{pictures::PicturePreparation, preprocessor::PreprocessorConfig},
    preprocess::image::{ImageOptions, ImageProcessor},
};
use tokio::task::LocalSet;

use crate::{
    ENDLESS, PICTURE, Result,
    arithmetic::Arithmetic,
    bare::Bare,
    checkpoint,
    figures::{median, milliseconds},
    load::{
        connection::Connection,
        request::{Ask, Template, Wire},
    },
    machine,
    services::{self, Places},
};

/// Milliseconds that the service may add.
const BAR: f64 = 1.0;

/// Rounds that do not count: caches and clocks warm up.
const WARM_UP: u64 = 20;

#[derive(Parser)]
pub(crate) struct Options {
    /// Arithmetics of the vision encoder.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32,bf16,int8-openvino")]
    arithmetics: Vec<Arithmetic>,
    /// Requests of each.
    #[arg(long, default_value_t = 200)]
    requests: u64,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    println!("machine: {}\n", machine::describe()?);
    checkpoint::make(places)?;
    println!("ViT-B/32, 640x480 JPEG, one connection, medians of {} in turn, ms\n", options.requests);
    println!("| | decode and resize | bare run | request | what the service adds (bar: {BAR}) |");
    println!("|---|---:|---:|---:|---:|");
    for &arithmetic in &options.arithmetics {
        match row(places, arithmetic, options.requests) {
            Ok(row) => println!("{row}"),
            // Every build and machine has it: without it something else is wrong.
            Err(error) if arithmetic == Arithmetic::F32 => return Err(error),
            Err(error) => println!("| {}: {} | | | | |", arithmetic.name(), error.to_string().trim()),
        }
    }
    Ok(())
}

/// One line of the table.
fn row(places: &Places, arithmetic: Arithmetic, requests: u64) -> Result<String> {
    let picture = fs::read(places.root.join(PICTURE))?;
    let config = fs::read_to_string(places.checkpoint().join("preprocessor_config.json"))?;
    let image_options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: 50_000_000 };
    let mut processor =
        ImageProcessor::new(&PicturePreparation::Transformers(PreprocessorConfig::from_json(&config)?), image_options)?;
    let mut bare = Bare::open(places, arithmetic)?;
    let service = services::clipserve(places, &places.checkpoint(), arithmetic, &[])?;
    let template = Template::new(Ask::Image, Wire::Native, &picture, ENDLESS)?;
    let mut columns = [const { Vec::new() }; 4];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut connection = Connection::open(service.address()).await?;
        for number in 0..WARM_UP + requests {
            let started = Instant::now();
            black_box(processor.process(&picture)?);
            let preprocess = started.elapsed();
            let run = bare.run()?;
            let started = Instant::now();
            black_box(connection.fetch(template.request(number)).await?);
            let request = started.elapsed();
            if number >= WARM_UP {
                let added = milliseconds(request) - milliseconds(preprocess + run);
                let figures = [preprocess, run, request].map(milliseconds);
                columns.iter_mut().zip(figures.into_iter().chain([added])).for_each(|(column, ms)| column.push(ms));
            }
        }
        Result::<()>::Ok(())
    })?;
    let cells = columns.map(|column| format!("{:.2}", median(&column)));
    Ok(format!("| {} | {} |", arithmetic.name(), cells.join(" | ")))
}
