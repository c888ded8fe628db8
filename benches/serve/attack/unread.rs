//! Large answers that nobody reads.
//!
//! Owns that attack: clients with small buffers ask for texts that are in the cache, megabytes of JSON each, and read nothing.
//! Held to: the service's memory stays within its formula.

use std::time::{Duration, Instant};

use super::{
    Attack,
    bodies::{JSON, texts},
    crowd::{Crowd, Guest},
    finding::Finding,
    raw::{self, Prober},
    target::{MIB, Model, Target, hold},
};
use crate::{Result, arithmetic::Arithmetic};

/// Texts of one request: as many as it may have.
pub(crate) const TEXTS: usize = 1024;

/// Bytes of each: a few tokens.
const TEXT: usize = 8;

/// Memory is looked at until it has not grown for so many looks, or for so long.
const LOOKS: usize = 4;
const LOOK: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(12);

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    let mut target = Target::start(attack.places, Model::Large(Arithmetic::F32), &["cache.max_bytes=64MiB"])?;
    let request = cached(&target)?;
    let length = raw::exchange(target.address(), &request, Duration::from_secs(10), false)?.length;
    for clients in [200, 600] {
        target.service().forget_peak()?;
        let prober = Prober::start(target.address(), &["/livez", "/readyz"]);
        let crowd = Crowd::gather(target.address(), vec![(clients, Guest::Deaf(request.clone().into()))])?;
        let (started, mut peak, mut looks) = (Instant::now(), 0.0, 0);
        while looks < LOOKS && started.elapsed() < LONGEST {
            hold(LOOK);
            let now = target.memory()?.peak;
            looks = if now > peak { 0 } else { looks + 1 };
            peak = now;
        }
        let probes = prober.stop()?;
        attack.say(format!("  {clients} clients: {}; {}", crowd.describe(), probes.describe()));
        let name = format!("{clients} clients do not read {:.1} MiB each", length as f64 / MIB);
        let finding = target.memory_finding(Finding::new(name), clients)?;
        drop(crowd);
        attack.found(finding);
        attack.found(target.unharmed(&format!("{clients} unread answers"), Duration::from_secs(5)));
        attack.time_left()?;
    }
    Ok(())
}

/// A request for as many texts as one may have, all of them in the cache.
pub(crate) fn cached(target: &Target) -> Result<Vec<u8>> {
    let request = raw::post("/embed/text", JSON, &texts(TEXTS, TEXT));
    let answer = raw::exchange(target.address(), &request, Duration::from_secs(60), false)?;
    if answer.status == 200 { Ok(request) } else { Err(format!("{TEXTS} texts: {}", answer.status).into()) }
}
