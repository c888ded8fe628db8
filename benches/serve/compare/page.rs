//! `benchmarks.md`: the tables, and around them how their numbers came to be.
//!
//! Pure but for the machine's name and versions. Does not own the tables (`report`, `costs`).

use super::{LARGE, Options, PHONES, Told, contender::PATIENCE};
use crate::{
    Result,
    checkpoint::Size,
    costs, limit, machine,
    report::{self, Column},
    services::Places,
};

/// The whole page.
pub(super) fn page(places: &Places, options: &Options, told: &Told, columns: &[Column]) -> Result<String> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let head = format!(
        "# How fast clipserve is, beside others\n\n\
         Written by `make bench-peers` (`cargo bench --bench serve -- {}`) on {}: one run, one machine, do not edit.\n\n\
         ![The table as bars](benchmarks.svg)\n\n\
         {}\n\
         In brackets: the ratio to infinity. Rounds: {}, {} s for each throughput and half of it for latencies. Figures \
         are medians over the rounds, ratios medians of the ratios of each round. What is measured is taken in turn within a round, \
         everything else is paused.\n",
        arguments.join(" "),
        machine::today(),
        report::table(columns),
        options.rounds,
        options.seconds,
    );
    Ok([
        head,
        format!("## What it is held to\n\n{}", report::bar_table(&report::bars(columns))),
        how(places, options, told)?,
        cost(columns),
    ]
    .join("\n"))
}

fn how(places: &Places, options: &Options, told: &Told) -> Result<String> {
    let (least, most) = told.generator_cpu;
    let [small, large] = [Size::VitB32, Size::VitL14].map(|size| limit::products_per_image(size) / 1e9);
    let missing = told.missing.iter().map(|missing| format!("* Not measured: {missing}\n"));
    let failed = told.failed.iter().map(|failed| format!("* Failed requests: {failed}\n"));
    Ok(format!(
        "## How\n\n\
         * Machine: {}.\n\
         * Versions: {}.\n\
         * Models: ViT-B/32's sizes, and ViT-L/14's where it is said; random weights, one checkpoint of each for all; clipserve serves the \
         graphs that it makes of it.\n\
         * Images: a JPEG of 640x480, 85 KB, and one of 12 megapixels (4000x3000, {:.1} MB) where it is said; each request is another \
         file with the same pixels. Raw body for clipserve and the loops in Python, base64 in JSON for infinity, which takes nothing else. \
         Texts: captions of 8 to 16 words, no two alike, one a request. Answers: JSON with 512 floats, of ViT-L/14 768.\n\
         * Load: closed loop on the same machine, whose generator takes {:.0} to {:.0} % of one CPU away from each service; 32 connections \
         where nothing else is said, {PHONES} for 12 megapixels, {LARGE} for ViT-L/14. At 512 connections clipserve may refuse what its queue does not \
         hold (429); the client waits as long as `Retry-After` says ({} refusals in this run), and only answers count.\n\
         * Services: {}. clipserve is without the embedding cache, so that every request is computed (a full one would add 67 MB); nothing else \
         set but `{PATIENCE}`: no other service here refuses what would wait{}. infinity: PyTorch engine on the CPU, nothing else said. transformers + FastAPI: \
         [`fastapi_transformers.py`](../benches/peers/fastapi_transformers.py). OpenVINO + FastAPI: \
         [`fastapi_openvino.py`](../benches/peers/fastapi_openvino.py), as Intel's multimodal-embedding-serving is inside: the same checkpoint converted \
         by `openvino.convert_model`, OpenVINO's own defaults on the CPU, pictures by the processor of transformers, an inference for each request.\n\
         * The cores' arithmetic at its limit: products per second out of registers, all cores at once, by {small:.2} billion products for \
         an image, {large:.1} of ViT-L/14 ([`limit.rs`](../benches/serve/limit.rs)). No program is faster in that arithmetic on this machine, decoding left aside.\n\
         * Memory: of the process at the end of its rounds, mapped weights included.\n\
         {}",
        machine::describe()?,
        machine::versions(places)?.join(", "),
        told.phone_bytes as f64 / 1e6,
        least * 100.0,
        most * 100.0,
        told.refused,
        told.engines.join(", "),
        options.set.iter().map(|pair| format!(", and {pair}")).collect::<String>(),
        missing.chain(failed).collect::<String>(),
    ))
}

fn cost(columns: &[Column]) -> String {
    format!(
        "## What a picture costs\n\n\
         Core-milliseconds of the service's process for each picture that it answered, under the loads of the rows above (32, {PHONES} and {LARGE} \
         connections); means over the rounds.\n\n\
         {}\n\
         All is the process's CPU time. Of clipserve, decode and resize are the CPU time of the threads that do both, shared out as \
         `clipserve_stage_duration_seconds` has them by the clock; encode is that of the sessions' threads; service is what is left: sockets, HTTP, \
         queues, JSON. Encode follows the model, the others follow the picture, so one of 12 megapixels costs ViT-L/14 the encode of the one and the rest of the other. \
         Cores for a load are pictures a second x all / 1000, so `all` is also the cores for 1,000 pictures a second \
         ([scale.md](scale.md#cores)).\n",
        costs::table(columns)
    )
}
