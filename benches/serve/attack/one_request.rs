//! One request that asks for more than it may have, under a limit of memory.
//!
//! Owns the list of such requests and what each is held to. Each is sent alone; a process that ends is started again for the
//! next, and told.

use std::{fs, time::Duration};

use super::{
    Attack, bodies,
    bodies::{JSON, LARGE, list, multipart, object, string},
    finding::Finding,
    raw,
    target::{MIB, Model, Target, wait},
};
use crate::Result;

/// What the process may map beyond what it has when it is ready.
const ROOM: u64 = 2 << 30;

/// The most that one request may cost in memory: three bodies of 32 MiB, and some.
const GROWTH: f64 = (3 * 32 + 64) as f64;

/// The answer's time and length, and the length of its line in the log.
const ANSWER: Duration = Duration::from_secs(2);
const ANSWER_BYTES: usize = 4096;
const LINE_BYTES: usize = 8192;

/// How long is waited for an answer at all, and for a line of the log.
const PATIENCE: Duration = Duration::from_secs(5);
const LOG: Duration = Duration::from_millis(300);

/// So many lines of the log are kept.
const LINES: usize = 10_000;

/// What a forged line would begin with.
const FORGED: &str = "2031-01-01T00:00:00Z ERROR forged";

type Request = (String, &'static str, Box<dyn Fn() -> (String, Vec<u8>)>);

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    let pixel = fs::read(attack.places.root.join("tests/fixtures/images/one_pixel.png"))?;
    let mut target = start(attack)?;
    for (name, path, body) in greedy(pixel) {
        let (content_type, body) = body();
        let request = raw::post(path, &content_type, &body);
        drop(body);
        let finding = one(&mut target, Finding::new(format!("{path}: {name}")), &request)?;
        attack.found(finding);
        if !target.service().runs() {
            target = start(attack)?;
        }
    }
    let finding = forge(&mut target)?;
    attack.found(finding);
    attack.found(target.unharmed("one request", Duration::from_secs(5)));
    Ok(())
}

fn start(attack: &Attack<'_>) -> Result<Target> {
    let mut target = Target::start(attack.places, Model::Box, &[])?;
    target.service().limit_memory(ROOM)?;
    target.service().keep_lines(LINES);
    Ok(target)
}

/// Sends it, and holds the answer, the memory and the log to the bars.
fn one(target: &mut Target, finding: Finding, request: &[u8]) -> Result<Finding> {
    target.service().take_lines();
    target.service().forget_peak()?;
    let before = target.memory()?.resident;
    let answer = raw::exchange(target.address(), request, PATIENCE, false);
    let runs = !wait(Duration::from_millis(100), || !target.service().runs());
    if !runs {
        let how = target.service().how_it_ended();
        return Ok(finding.check(format!("the process ended: {how}"), "lives", false));
    }
    let mut lines = Vec::new();
    wait(LOG, || {
        lines.extend(target.service().take_lines());
        !lines.is_empty()
    });
    let finding = match answer {
        Ok(answer) => finding
            .check(answer.status.to_string(), "4xx", (400..500).contains(&answer.status))
            .within("in", answer.took, ANSWER)
            .check(format!("{} B", answer.length), format!("< {ANSWER_BYTES} B"), answer.length < ANSWER_BYTES),
        Err(error) => finding.check(error.to_string(), "4xx", false),
    };
    let growth = (target.memory()?.peak - before) / MIB;
    let longest = lines.iter().map(String::len).max().unwrap_or_default();
    let line = format!("{} log line(s), longest {longest} B", lines.len());
    let finding = finding.at_most("memory +", " MiB", growth, GROWTH);
    Ok(finding.check(line, format!("1 line < {LINE_BYTES} B"), lines.len() <= 1 && longest < LINE_BYTES))
}

/// Requests that ask for much.
fn greedy(pixel: Vec<u8>) -> Vec<Request> {
    let json = |name: &str, path, body: Box<dyn Fn() -> Vec<u8>>| -> Request {
        (name.to_owned(), path, Box::new(move || (JSON.to_owned(), body())))
    };
    let image = bodies::base64_list(&pixel, 1);
    let images = bodies::base64_list(&pixel, 64);
    let with_image = move |rest: String| format!("{{\"images\": {image}, {rest}}}").into_bytes();
    let mut requests = vec![];
    let fill = with_image.clone();
    requests.push(json(
        "a label of 100,000 letters in a template of 50,000 placeholders",
        "/classify",
        Box::new(move || {
            let template = "{}".repeat(50_000);
            fill(format!("\"labels\": [{}], \"templates\": [\"{template}\"]", string(100_000)))
        }),
    ));
    requests.push(json(
        "64 images x 1,024 labels of 16,000 letters in the answer",
        "/classify",
        Box::new(move || {
            let labels: Vec<_> = (0..1024).map(|number| format!("\"{number:05}{}\"", "a".repeat(15_995))).collect();
            format!("{{\"images\": {images}, \"templates\": [\"{{}}\"], \"labels\": [{}]}}", labels.join(","))
                .into_bytes()
        }),
    ));
    let rows = with_image.clone();
    requests.push(json(
        "33 MB of empty rows as text_embeds",
        "/similarity",
        Box::new(move || rows(format!("\"text_embeds\": {}", list("[]", LARGE)))),
    ));
    requests.push(json(
        "33 MB of empty rows as image_embeds",
        "/similarity",
        Box::new(|| format!("{{\"texts\": [\"a\"], \"image_embeds\": {}}}", list("[]", LARGE)).into_bytes()),
    ));
    for (key, path) in [("texts", "/embed/text"), ("images", "/embed/image")] {
        let name = format!("33 MB of \"\" as {key}");
        requests.push(json(&name, path, Box::new(move || object(key, &list("\"\"", LARGE)))));
    }
    for (key, other) in [("labels", "\"templates\": [\"{}\"]"), ("templates", "\"labels\": [\"a\"]")] {
        let with_image = with_image.clone();
        let body = move || with_image(format!("{other}, \"{key}\": {}", list("\"\"", LARGE)));
        requests.push(json(&format!("33 MB of \"\" as {key}"), "/classify", Box::new(body)));
    }
    requests.push(json(
        "an unknown key of 33 MB",
        "/embed/text",
        Box::new(|| format!("{{\"texts\": [\"a\"], {}: 1}}", string(LARGE)).into_bytes()),
    ));
    requests.push(json(
        "an unknown key with 33 MB of []",
        "/embed/text",
        Box::new(|| format!("{{\"texts\": [\"a\"], \"b\": {}}}", list("[]", LARGE)).into_bytes()),
    ));
    for option in ["encoding_format", "dimensions", "padding", "outputs"] {
        let body = move || format!("{{\"texts\": [\"a\"], \"{option}\": {}}}", string(LARGE)).into_bytes();
        requests.push(json(&format!("{option} of 33 MB"), "/embed/text", Box::new(body)));
    }
    for (name, key) in [("texts", "texts"), ("an unknown key", "b")] {
        let body = move || object(key, &("[".repeat(100_000) + &"]".repeat(100_000)));
        requests.push(json(&format!("{name}, nested 100,000 deep"), "/embed/text", Box::new(body)));
    }
    requests.push((
        "100,000 parts".to_owned(),
        "/similarity",
        Box::new(|| multipart(std::iter::repeat_n(("name=\"text\"", &b"a"[..]), 100_000))),
    ));
    requests.push((
        "a field name of 16 MB".to_owned(),
        "/similarity",
        Box::new(|| multipart([(format!("name=\"{}\"", "a".repeat(16_000_000)).as_str(), &b"a"[..])])),
    ));
    requests
}

/// Line ends, colours and other control characters in everything that a message may repeat.
fn forge(target: &mut Target) -> Result<Finding> {
    let mut requests = Vec::new();
    for end in ["\\n", "\\r", "\\r\\n", "\\u001b[2J\\n", "\\u2028", "\\u0085"] {
        let word = format!("x{end}{FORGED}");
        requests.push(("/embed/text".to_owned(), JSON.to_owned(), format!("{{\"texts\": [\"a\"], \"{word}\": 1}}")));
        for option in ["encoding_format", "padding", "outputs", "dimensions"] {
            requests.push((
                "/embed/text".to_owned(),
                JSON.to_owned(),
                format!("{{\"texts\": [\"a\"], \"{option}\": \"{word}\"}}"),
            ));
        }
        requests.push((
            "/classify".to_owned(),
            JSON.to_owned(),
            format!("{{\"images\": [\"{word}\"], \"labels\": [\"a\"]}}"),
        ));
    }
    for end in ["%0a", "%0d", "%0d%0a", "%1b%5b2J%0a", "%e2%80%a8", "%c2%85"] {
        for query in [format!("x{end}{FORGED}=1"), format!("encoding_format=x{end}{FORGED}")] {
            requests.push((
                format!("/embed/text?{}", query.replace(' ', "%20")),
                "text/plain".to_owned(),
                "a".to_owned(),
            ));
        }
        let disposition = format!("name=\"x{end}{FORGED}\"; filename=\"{end}{FORGED}\"");
        let (content_type, body) = multipart([(disposition.as_str(), &b"a"[..])]);
        requests.push(("/similarity".to_owned(), content_type, String::from_utf8_lossy(&body).into_owned()));
    }
    for content_type in
        ["text/x\tforged", "text/\u{85}forged", "multipart/form-data; boundary=\"a\tb\"", "x\u{2028}forged"]
    {
        requests.push(("/embed/text".to_owned(), content_type.to_owned(), "a".to_owned()));
    }
    target.service().take_lines();
    let (mut refused, count) = (0, requests.len());
    for (path, content_type, body) in requests {
        let request = raw::post(&path, &content_type, body.as_bytes());
        let answer = raw::exchange(target.address(), &request, PATIENCE, false);
        refused += usize::from(answer.is_ok_and(|answer| (400..500).contains(&answer.status)));
    }
    let mut lines = Vec::new();
    wait(LOG, || {
        lines.extend(target.service().take_lines());
        false
    });
    let forged = lines.iter().filter(|line| line.starts_with(FORGED) || line.chars().any(forges)).count();
    Ok(Finding::new("line ends and control characters in keys, options, queries, names, content types")
        .all("4xx", refused, count)
        .check(format!("{forged} forged log lines"), "0", forged == 0)
        .check(format!("{} lines", lines.len()), format!("≤ {count}"), lines.len() <= count))
}

/// Whether a terminal or a collector may take it for the end of a line, or worse.
fn forges(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}')
}
