//! How the service behaves from one connection to many, and from half of its capacity to more than it has.
//!
//! For images, texts and similarity: a closed loop at each number of connections, then an open loop at fractions of the
//! capacity, which is what the closed loop reached at [`CAPACITY_CONNECTIONS`]. Above the capacity the latencies grow for as
//! long as it lasts, and where the queue gets full the rest is refused: the goodput is what tells.

use std::{fs, time::Duration};

use clap::Parser;

use crate::{
    ENDLESS, PICTURE, Result, Served, checkpoint,
    load::{
        self, Load, Pace,
        request::{Ask, Template, Wire},
        schedule::{Arrivals, Schedule},
    },
    machine,
    services::{self, Places},
};

/// Where the capacity is measured: enough for full batches.
const CAPACITY_CONNECTIONS: usize = 32;

/// Connections that an open loop may use at once: the service's own limit of requests in flight.
const OPEN_CONNECTIONS: usize = 512;

#[derive(Parser)]
pub(crate) struct Options {
    #[command(flatten)]
    served: Served,
    /// Seconds of each measurement, after one of warm-up.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// What is asked.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "image,text,similarity")]
    ask: Vec<Ask>,
    /// Connections of the closed loops.
    #[arg(long, value_delimiter = ',', default_value = "1,32,128,512")]
    connections: Vec<usize>,
    /// Rates of the open loops, as parts of the capacity.
    #[arg(long, value_delimiter = ',', default_value = "0.5,0.8,0.95,1.2")]
    rates: Vec<f64>,
    /// How the arrivals of the open loops are spread.
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: Arrivals,
    /// Answers within so many milliseconds are the goodput.
    #[arg(long, default_value_t = 1000)]
    slo: u64,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    println!("machine: {}\n", machine::describe()?);
    checkpoint::make(places)?;
    let picture = fs::read(places.root.join(PICTURE))?;
    let service = services::clipserve(places, &places.checkpoint(), options.served.arithmetic, &options.served.set)?;
    println!("ViT-B/32, {}, 640x480 JPEGs\n\n{}", options.served.arithmetic.name(), load::table::header(options.slo));
    for ask in &options.ask {
        let template = Template::new(*ask, Wire::Native, &picture, ENDLESS)?;
        let measure = |connections, pace, note: &str| -> Result<_> {
            let summary = load::run(&Load {
                address: service.address(),
                template: &template,
                connections,
                pace,
                warm_up: Duration::from_secs(1),
                window: Duration::from_secs_f64(options.seconds),
                drain: Duration::from_secs(5),
                patience: load::PATIENCE,
                slo: Duration::from_millis(options.slo),
            })?;
            println!("{}", load::table::row(&format!("{}{note}", template.name()), connections, &summary));
            Ok(summary)
        };
        let mut capacity = None;
        for &connections in &options.connections {
            let summary = measure(connections, Pace::Closed, "")?;
            if connections == CAPACITY_CONNECTIONS {
                capacity = Some(summary.rate);
            }
        }
        let capacity = match capacity {
            Some(capacity) => capacity,
            None if options.rates.is_empty() => continue,
            None => measure(CAPACITY_CONNECTIONS, Pace::Closed, "")?.rate,
        };
        for part in &options.rates {
            let schedule = Schedule::new(options.arrivals, part * capacity, 1);
            measure(OPEN_CONNECTIONS, Pace::Open(schedule), &format!(", {part} of capacity"))?;
        }
    }
    Ok(())
}
