//! One service of the comparison while it lives: started, asked, asked what it is and what it has taken.
//!
//! Owns which services there are, and their requests. Does not own the order of the measurements (`super`).

use std::{fs, path::Path};

use serde_json::Value;
use tokio::task::LocalSet;

use super::{Options, PHONE};
use crate::{
    ENDLESS, PICTURE, Result,
    arithmetic::Arithmetic,
    attack::album,
    bare::Bare,
    checkpoint::Size,
    costs::{Account, Threads},
    load::{
        connection::Connection,
        request::{Ask, Template, Wire},
    },
    process::Service,
    report::{Column, Kind},
    services::{self, Places},
    stages::{group, stages},
};

/// Texts of the cached measurement: all of them are asked for in its warm-up.
const CACHED: u64 = 64;

/// As long as the generator's own patience: no peer refuses what would wait, and a client that is told to come back in a second leaves
/// a service without work that the same client kept waiting would give it.
pub(super) const PATIENCE: &str = "limits.max_queue_wait=1m";

/// What is sent, one a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A JPEG of 640x480.
    Photograph,
    /// A JPEG of 12 megapixels.
    Phone,
    /// A text.
    Text,
}

/// The same input for all services of one size of the model.
pub(super) struct Inputs {
    photograph: Vec<u8>,
    phone: Vec<u8>,
}

impl Inputs {
    pub(super) fn new(places: &Places) -> Result<Self> {
        let photograph = fs::read(places.root.join(PICTURE))?;
        let phone = album::jpeg(&photograph, PHONE.0, PHONE.1)?;
        Ok(Self { photograph, phone })
    }

    /// Bytes of the picture of 12 megapixels.
    pub(super) fn phone_bytes(&self) -> usize {
        self.phone.len()
    }
}

/// One service and its numbers.
pub(super) struct Contender {
    pub(super) column: Column,
    pub(super) service: Service,
    wire: Wire,
    photographs: Template,
    phones: Template,
    texts: Template,
    pub(super) bare: Option<Bare>,
    /// Of one of ours.
    pub(super) arithmetic: Option<Arithmetic>,
    /// A second process with the embedding cache on.
    pub(super) cached: Option<(Service, Template)>,
}

/// Starts every service with a model of `size` and pauses it. Also what could not be started of ours, and why.
pub(super) fn start(
    places: &Places,
    options: &Options,
    size: Size,
    arithmetics: &[Arithmetic],
    inputs: &Inputs,
) -> Result<(Vec<Contender>, Vec<String>)> {
    let model = size.make(places)?;
    let (mut contenders, mut missing) = (Vec::new(), Vec::new());
    for &arithmetic in arithmetics {
        match ours(places, options, size, arithmetic, inputs) {
            Ok(ours) => contenders.push(ours),
            // Every build and machine has it: without it something else is wrong.
            Err(error) if arithmetic == Arithmetic::F32 => return Err(error),
            Err(error) => missing.push(format!("{}: {}", arithmetic.name(), error.to_string().trim())),
        }
    }
    eprintln!("starting infinity");
    contenders.push(Contender::new("infinity", Kind::Infinity, services::infinity(places, &model)?, inputs)?);
    for (name, start) in [
        ("transformers + FastAPI", services::transformers as fn(&Places, &Path) -> Result<Service>),
        ("OpenVINO + FastAPI", services::openvino),
    ] {
        eprintln!("starting {name}");
        contenders.push(Contender::new(name, Kind::Loop, start(places, &model)?, inputs)?);
    }
    Ok((contenders, missing))
}

/// clipserve, and with the smaller model what it is compared with: bare sessions, and in f32 itself with its cache.
fn ours(places: &Places, options: &Options, size: Size, arithmetic: Arithmetic, inputs: &Inputs) -> Result<Contender> {
    let (model, name) = (size.make(places)?, format!("clipserve {}", arithmetic.name()));
    eprintln!("starting {name}");
    let bare = (size == Size::VitB32).then(|| Bare::open(places, arithmetic)).transpose()?;
    let kind = Kind::Ours { bare_bar: arithmetic.bare_bar(), limit_bar: arithmetic.limit_bar() };
    let set = [&[PATIENCE.to_owned()][..], &options.set].concat();
    let service = services::clipserve(places, &model, arithmetic, &set)?;
    let mut ours = Contender::new(&name, kind, service, inputs)?;
    if bare.is_some() && arithmetic == Arithmetic::F32 {
        let set = [&set[..], &["cache.max_bytes=64MiB".to_owned()]].concat();
        let cached = services::clipserve(places, &model, arithmetic, &set)?;
        cached.pause()?;
        ours.cached = Some((cached, Template::new(Ask::Text, Wire::Native, &inputs.photograph, CACHED)?));
    }
    Ok(Contender { bare, arithmetic: Some(arithmetic), ..ours })
}

impl Contender {
    fn new(name: &str, kind: Kind, service: Service, inputs: &Inputs) -> Result<Self> {
        let wire = if kind == Kind::Infinity { Wire::Infinity } else { Wire::Native };
        let images = |picture: &[u8]| Template::new(Ask::Image, wire, picture, ENDLESS);
        service.pause()?;
        Ok(Self {
            column: Column::new(name.to_owned(), kind),
            service,
            wire,
            photographs: images(&inputs.photograph)?,
            phones: images(&inputs.phone)?,
            texts: Template::new(Ask::Text, wire, &inputs.photograph, ENDLESS)?,
            bare: None,
            arithmetic: None,
            cached: None,
        })
    }

    /// The requests for `input`.
    pub(super) fn template(&self, input: Input) -> &Template {
        match input {
            Input::Photograph => &self.photographs,
            Input::Phone => &self.phones,
            Input::Text => &self.texts,
        }
    }

    /// What runs inside, by its own account; of those that give one.
    pub(super) fn engine(&self) -> Result<Option<String>> {
        let name = &self.column.name;
        if !matches!(self.column.kind, Kind::Ours { .. }) && !name.starts_with("OpenVINO") {
            return Ok(None);
        }
        let info: Value =
            serde_json::from_slice(&self.with_connection(async |mut connection| connection.get("/info").await)?)?;
        let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
        if self.arithmetic.is_none() {
            let [version, vision, words] =
                [&info["openvino"], &info["precision"]["vision"], &info["precision"]["text"]].map(text);
            return Ok(Some(format!(
                "{name} by OpenVINO {version}, which chose {vision} for images and {words} for texts"
            )));
        }
        let (provider, version) = (text(&info["provider"]), text(&info["versions"]["onnxruntime"]));
        Ok(Some(format!("{name} by the provider {provider} of ONNX Runtime {version}")))
    }

    /// What it has taken so far.
    pub(super) fn account(&self) -> Result<Account> {
        let all = self.service.ticks()? as f64 / 100.0;
        if self.arithmetic.is_none() {
            return Ok(Account { all, threads: None });
        }
        let threads = self.service.cpu_by_thread(group)?;
        let of = |group: &str| threads.get(group).copied().unwrap_or(0.0);
        let stages = self.with_connection(async |mut connection| stages(&mut connection).await)?;
        let stage = |name: &str| stages.get(name).copied().ok_or_else(|| format!("no stage {name} in /metrics"));
        let (preprocess, sessions) = (of("preprocess"), of("session"));
        let threads = Threads { preprocess, sessions, decode: stage("decode")?, resize: stage("resize")? };
        Ok(Account { all, threads: Some(threads) })
    }

    /// The first embedding of an answer.
    pub(super) fn embedding(&self, input: Input) -> Result<Vec<f64>> {
        let template = self.template(input);
        let answer = self.with_connection(async |mut connection| connection.fetch(template.request(1)).await)?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let embedding = match self.wire {
            Wire::Native => &answer["embeddings"][0],
            Wire::Infinity => &answer["data"][0]["embedding"],
        };
        let numbers =
            embedding.as_array().ok_or_else(|| format!("{}: an answer without an embedding", self.column.name))?;
        Ok(numbers.iter().filter_map(Value::as_f64).collect())
    }

    /// A connection while the service is not paused.
    fn with_connection<T>(&self, ask: impl AsyncFnOnce(Connection) -> Result<T>) -> Result<T> {
        self.service.resume()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer =
            LocalSet::new().block_on(&runtime, async { ask(Connection::open(self.service.address()).await?).await });
        self.service.pause()?;
        answer.map_err(|error| format!("{}: {error}", self.column.name).into())
    }
}
