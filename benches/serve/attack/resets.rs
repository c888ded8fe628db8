//! Connections that are cut: by the service, which must not, or by half by their client, which may.
//!
//! Owns both. Held to: no client ever sees anything but an answer.

use std::time::Duration;

use super::{
    Attack, Client,
    bodies::{JSON, object},
    describe,
    finding::Finding,
    measure, raw,
    target::{Model, Target},
};
use crate::{Result, arithmetic::Arithmetic, load::request::Ask};

/// Connections: as many as requests may be in flight, twice as many as pictures may wait.
const CONNECTIONS: usize = 512;
const SECONDS: f64 = 10.0;

/// Half-closed requests of each kind; after so many failures it is known.
const HALF_CLOSED: usize = 100;

/// How long a picture may wait: only a connection that is cut is at fault here.
const LONG: Duration = Duration::from_secs(40);

/// How long each may take.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    let mut target = Target::start(attack.places, Model::Large(Arithmetic::F32), &[])?;
    let template = attack.template(Ask::Image)?;
    let summary = measure(&target, &template, Client::Closed(CONNECTIONS), SECONDS, LONG)?;
    attack.say(format!("  512 connections: {}", describe(&summary)));
    let name = "512 connections in a closed loop, 10 s of images with refusals";
    let failure = summary.first_failure.as_ref().map(|failure| format!(" ({failure})")).unwrap_or_default();
    let counts = format!("{} answered, {} refused", summary.answered, summary.refused);
    let finding = Finding::new(name).check(counts, "some of both", summary.answered > 0 && summary.refused > 0).check(
        format!("{} failed{failure}", summary.failed),
        "0",
        summary.failed == 0,
    );
    attack.found(finding);
    attack.found(target.unharmed(name, Duration::from_secs(5)));
    drop(target);

    let mut target = Target::start(attack.places, Model::Box, &["cache.max_bytes=64MiB"])?;
    let cached = raw::post("/embed/text", JSON, &object("texts", "[\"a cached text\"]"));
    raw::exchange(target.address(), &cached, PATIENCE, false)?;
    let requests = [
        ("/livez", raw::get("/livez")),
        ("/readyz", raw::get("/readyz")),
        ("/metrics", raw::get("/metrics")),
        ("a cached text", cached),
    ];
    let mut finding = Finding::new("half closed behind the request");
    for (what, request) in requests {
        let answers = (0..HALF_CLOSED).filter(|_| {
            let answer = raw::exchange(target.address(), &request, PATIENCE, true);
            answer.is_ok_and(|answer| answer.status == 200)
        });
        finding = finding.all(what, answers.count(), HALF_CLOSED);
    }
    attack.found(finding);
    attack.found(target.unharmed("half closed", Duration::from_secs(5)));
    Ok(())
}
