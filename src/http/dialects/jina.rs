//! Jina's `POST /v1/classify`: texts and pictures against labels, without any training.
//!
//! Owns its request, its answer and its errors. Jina's embeddings are among OpenAI's dialects (`openai`).
//!
//! The scores of an input are the softmax over the labels of the model's logits, `logit_scale * cosine`, as `CLIPModel.forward` has them
//! for pictures with texts ([`similarity`]). A label is embedded as it is, without a template around it. With labels in named groups there
//! is a softmax for each group. Labels are answered in the order of the request.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use ndarray::{Axis, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use super::{
    Answered, Asked, Dialect, Reader,
    inputs::Inputs,
    intel,
    options::OneOrMore,
    parts::{Object, Part},
};
use crate::{
    budget::Reservation,
    http::{
        ApiError, Code,
        answer::escaped_len,
        error::ErrorShape,
        operation::{JSON, OF_A_MODEL, Operation, Schemas},
        reply::Written,
        request::{
            json::{Items, JsonRequest, fault},
            payload::Accepts,
        },
    },
    similarity,
};

/// Errors as Jina writes them: `{"detail": ".."}`.
pub(in crate::http) const ERRORS: ErrorShape = ErrorShape::of::<intel::Detail<'static>>(intel::detail);

/// The route.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let operation = Operation::post("Jina", "/v1/classify", "Scores of each text and picture against labels")
        .takes(JSON, schemas.request::<Body<'_>>())
        .answers(JSON, schemas.answer::<Answer<'_>>());
    vec![operation.refuses(schemas, OF_A_MODEL, &[ERRORS])]
}

/// Inputs of one request, as Jina has it.
const MAX_INPUTS: usize = 1024;

/// Labels of one request in all groups, as Jina has it.
const MAX_LABELS: usize = 256;

/// Bytes of a group's name, as it is written.
const MAX_NAME_BYTES: usize = 1024;

/// What the answer needs of the request. Its inputs are followed by its labels.
#[derive(Debug)]
pub(in crate::http) struct Classify {
    logit_scale: f32,
    /// How many are no labels.
    inputs: usize,
    groups: Vec<Group>,
    /// Of the names of groups.
    _room: Option<Reservation>,
}

/// Labels that are scored against each other.
#[derive(Debug)]
struct Group {
    /// `None` where labels are a plain list.
    name: Option<String>,
    /// Which of all labels.
    labels: Range<usize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "JinaRequest")]
struct Body<'a> {
    #[serde(borrow)]
    #[schemars(with = "OneOrMore<Input>")]
    input: Option<Items<'a>>,
    #[serde(borrow)]
    #[schemars(with = "Labels")]
    labels: Option<Items<'a>>,
    model: Option<String>,
    /// Of a classifier that was trained: there is none.
    #[serde(borrow)]
    #[schemars(with = "Option<()>")]
    classifier_id: Option<Items<'a>>,
    priority: Option<i64>,
}

// As `push` reads it.
/// A text, a picture as a data URL, or an object with either.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum Input {
    Text(String),
    Part(Part),
}

// As `push_labels` reads them.
/// A list, or an object of named lists, each with scores of its own.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum Labels {
    List(#[schemars(length(min = 1))] Vec<String>),
    Groups(BTreeMap<String, Vec<String>>),
}

impl<'a> JsonRequest<'a> for Body<'a> {
    const ITEMS: &'static [&'static str] = &["input", "labels"];
}

impl Dialect for Classify {
    const ACCEPTS: &'static [Accepts] = &[Accepts::AnyJson];

    fn read(reader: Reader<'_>) -> Result<(Asked, Self), ApiError> {
        let logit_scale = reader.embedder.logit_scale()?;
        let body: Body<'_> = reader.payload.json()?;
        if body.classifier_id.is_some() {
            let message =
                "classifier_id names a classifier that was trained, and none is trained here; send labels instead";
            return Err(ApiError::invalid(message));
        }
        let mut inputs = reader.inputs();
        let input = body.input.ok_or_else(|| ApiError::invalid("the request has no input"))?;
        input.each("inputs", MAX_INPUTS)?.into_iter().try_for_each(|item| push(item, &mut inputs))?;
        let count = inputs.len();
        let labels = body.labels.ok_or_else(|| ApiError::invalid("the request has no labels"))?;
        let (groups, room) = push_labels(labels, &mut inputs).map_err(|error| explain(error, count))?;
        let asked = Asked {
            model: body.model,
            wanted: inputs.finish()?,
            truncate: true,
            normalize: true,
            dimensions: None,
            forms: Vec::new(),
            priority: body.priority,
        };
        Ok((asked, Self { logit_scale, inputs: count, groups, _room: room }))
    }

    fn explain(&self, error: ApiError) -> ApiError {
        explain(error, self.inputs)
    }

    fn around(&self, asked: &Asked) -> usize {
        self.longest(asked.wanted.texts())
    }

    fn write(&self, answered: &Answered<'_>, buffer: Vec<u8>) -> Result<Written, ApiError> {
        let data = Data { classify: self, answered };
        Written::json(buffer, &Answer { data, usage: Usage { total_tokens: answered.tokens }, model: answered.model })
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JinaResponse")]
struct Answer<'a> {
    #[schemars(with = "Vec<Classified<'static>>")]
    data: Data<'a>,
    usage: Usage,
    model: &'a str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Usage {
    total_tokens: usize,
}

// As `Entry` writes it.
/// The scores of an input.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
struct Classified<'a> {
    object: &'a str,
    index: usize,
    prediction: OfGroups<&'a str>,
    score: OfGroups<f32>,
    predictions: OfGroups<Vec<Score<'a>>>,
}

// As `ByGroup` writes it.
/// One, or one by the name of each group.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum OfGroups<T> {
    One(T),
    Named(BTreeMap<String, T>),
}

/// `{"object":"classification","index":1023,"prediction":{},"score":{},"predictions":{}},`
const AROUND_INPUT: usize = 96;

/// `{"label":"","score":},` and the number.
const AROUND_SCORE: usize = 22 + 16;

/// Three times `"":,`, quotation marks around the best label, its score, and brackets.
const AROUND_GROUP: usize = 3 * 4 + 2 + 16 + 2;

impl Classify {
    /// Bytes of the answer at most, where `texts` are those of the request.
    fn longest(&self, texts: &[String]) -> usize {
        let labels = &texts[texts.len() - self.labels()..];
        let per_input = self.groups.iter().fold(AROUND_INPUT, |sum: usize, group| {
            let name = group.name.as_deref().map_or(0, escaped_len);
            let lens = labels[group.labels.clone()].iter().map(|label| escaped_len(label));
            // The best label stands once more, and the name with each of the three things that are said of a group.
            let longest = lens.clone().max().unwrap_or(0);
            let all = lens.fold(0, |sum: usize, len| sum.saturating_add(len).saturating_add(AROUND_SCORE));
            sum.saturating_add(all).saturating_add(longest).saturating_add(3 * name + AROUND_GROUP)
        });
        self.inputs.saturating_mul(per_input)
    }

    fn labels(&self) -> usize {
        self.groups.last().map_or(0, |group| group.labels.end)
    }
}

/// `error` with a label called by its place among the labels, where it is one: they are embedded behind the inputs.
fn explain(mut error: ApiError, inputs: usize) -> ApiError {
    if let Some(label) = error.index.and_then(|index| index.checked_sub(inputs)) {
        error.index = None;
        error.message = format!("label {label}: {}", error.message).into();
    }
    error
}

/// Adds an input: a text, a picture as a data URL, or an object of either.
fn push(item: Items<'_>, inputs: &mut Inputs<'_>) -> Result<(), ApiError> {
    let place = inputs.len();
    match item.value().get().as_bytes().first() {
        Some(b'"') => inputs.text_or_picture(item),
        Some(b'{') => Object::read(item.value()).map_err(|error| error.at(place))?.push(inputs),
        _ => {
            let kind = item.value().kind();
            Err(fault(format_args!(
                "input has {kind} at {place}, expected a string, {{\"text\": ..}} or {{\"image\": ..}}"
            ))
            .at(place))
        }
    }
}

/// Adds labels: a list of them, or an object of named lists. With the room of the names.
fn push_labels(labels: Items<'_>, inputs: &mut Inputs<'_>) -> Result<(Vec<Group>, Option<Reservation>), ApiError> {
    let (before, mut groups) = (inputs.len(), Vec::new());
    let mut push_group = |name, labels: Items<'_>, inputs: &mut Inputs<'_>| {
        let start = inputs.len() - before;
        let elements = labels.elements("labels", MAX_LABELS)?;
        let elements = elements.ok_or_else(|| fault("labels are no list; expected [\"cat\", \"dog\"]"))?;
        if start + elements.len() > MAX_LABELS {
            let message = format!("the request has more than {MAX_LABELS} labels in all groups; split it");
            return Err(ApiError::new(Code::PayloadTooLarge, message));
        }
        elements.into_iter().try_for_each(|label| inputs.text(Items::of(label)))?;
        groups.push(Group { name, labels: start..inputs.len() - before });
        Ok(())
    };
    if !labels.value().is_object() {
        push_group(None, labels, inputs)?;
        return Ok((groups, None));
    }
    let mut named = Vec::new();
    for (name, labels) in labels.value().members() {
        if named.len() == MAX_LABELS {
            return Err(fault(format_args!("labels has more than {MAX_LABELS} groups")));
        }
        if name.get().len() > MAX_NAME_BYTES {
            return Err(fault(format_args!("the name of a group has more than {MAX_NAME_BYTES} bytes")));
        }
        named.push((name, labels));
    }
    if named.is_empty() {
        return Err(ApiError::invalid("labels has no group of them"));
    }
    // One parsed name is held at a time besides those that are kept.
    let room =
        inputs.claim().reserve(named.iter().map(|(name, _)| name.get().len()).sum::<usize>() + MAX_NAME_BYTES)?;
    let mut seen: Vec<Cow<'_, str>> = Vec::new();
    for (name, labels) in named {
        let name = name.string().map_err(|_| fault("labels has half a surrogate pair in the name of a group"))?;
        if seen.contains(&name) {
            return Err(ApiError::invalid("labels has two groups of the same name"));
        }
        push_group(Some(name.clone().into_owned()), Items::of(labels), inputs)?;
        seen.push(name);
    }
    Ok((groups, Some(room)))
}

/// All inputs, the scores of each made while they are written.
struct Data<'a> {
    classify: &'a Classify,
    answered: &'a Answered<'a>,
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { classify, answered } = self;
        let Classify { logit_scale, inputs, groups, .. } = classify;
        let (rows, label_rows) = answered.rows.view().split_at(Axis(0), *inputs);
        let labels = &answered.texts[answered.texts.len() - classify.labels()..];
        serializer.collect_seq((0..*inputs).map(|index| {
            let row = rows.slice(s![index..=index, ..]);
            let logits = similarity::logits_per_image(row, label_rows, *logit_scale);
            let score = |group: &Group| {
                let probs = similarity::softmax_rows(logits.slice(s![.., group.labels.clone()]));
                let scores =
                    labels[group.labels.clone()].iter().zip(probs).map(|(label, score)| Score { label, score });
                scores.collect()
            };
            let scores = groups.iter().map(score).collect();
            Entry { index, groups, scores }
        }))
    }
}

/// What is said of one input.
struct Entry<'a> {
    index: usize,
    groups: &'a [Group],
    /// Of each group.
    scores: Vec<Vec<Score<'a>>>,
}

#[derive(Clone, Copy, Serialize, JsonSchema)]
#[schemars(inline)]
struct Score<'a> {
    label: &'a str,
    score: f32,
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_map(Some(5))?;
        entry.serialize_entry("object", "classification")?;
        entry.serialize_entry("index", &self.index)?;
        entry.serialize_entry("prediction", &self.by_group(|scores| best(scores).map(|best| best.label)))?;
        entry.serialize_entry("score", &self.by_group(|scores| best(scores).map(|best| best.score)))?;
        entry.serialize_entry("predictions", &self.by_group(|scores| scores))?;
        entry.end()
    }
}

/// The best of a group, of equals the first. A group has one label at least.
fn best<'a>(scores: &'a [Score<'a>]) -> Option<&'a Score<'a>> {
    scores.iter().rev().max_by(|a, b| a.score.total_cmp(&b.score))
}

impl Entry<'_> {
    fn by_group<'a, T, F: Fn(&'a [Score<'a>]) -> T>(&'a self, of: F) -> ByGroup<'a, F> {
        ByGroup { entry: self, of }
    }
}

/// Something of each group, by its name; of labels without groups the thing itself.
struct ByGroup<'a, F> {
    entry: &'a Entry<'a>,
    of: F,
}

impl<'a, T: Serialize, F: Fn(&'a [Score<'a>]) -> T> Serialize for ByGroup<'a, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Entry { groups, scores, .. } = self.entry;
        if let ([Group { name: None, .. }], [scores]) = (*groups, &scores[..]) {
            return (self.of)(scores).serialize(serializer);
        }
        serializer.collect_map(groups.iter().zip(scores).map(|(group, scores)| (&group.name, (self.of)(scores))))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;

    fn classify(inputs: usize, groups: &[(Option<&str>, usize)]) -> Classify {
        let mut start = 0;
        let group = |&(name, labels): &(Option<&str>, usize)| {
            start += labels;
            Group { name: name.map(str::to_owned), labels: start - labels..start }
        };
        Classify { logit_scale: 100.0, inputs, groups: groups.iter().map(group).collect(), _room: None }
    }

    fn written(classify: &Classify, rows: &Array2<f32>, texts: &[String]) -> String {
        let answered = Answered { model: "m", rows, forms: &[], tokens: 7, texts, pictures: &[] };
        serde_json::to_string(&Data { classify, answered: &answered }).expect("JSON")
    }

    #[test]
    fn of_equal_labels_the_first_is_the_best_and_groups_keep_their_order() {
        let rows = ndarray::array![[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]];
        let texts = ["a", "b", "c"].map(str::to_owned);
        let json = written(&classify(1, &[(Some("z"), 2), (Some("y"), 1)]), &rows, &texts);
        let expected = r#"[{"object":"classification","index":0,"prediction":{"z":"a","y":"c"},"score":{"z":0.5,"y":1.0},"predictions":{"z":[{"label":"a","score":0.5},{"label":"b","score":0.5}],"y":[{"label":"c","score":1.0}]}}]"#;
        assert_eq!(json, expected);
    }

    proptest! {
        #[test]
        fn no_answer_is_longer_than_its_bound(
            labels in prop::collection::vec("[\u{0}-\u{7f}]{0,20}", 1..9), name in prop::option::of("[\u{0}-\u{7f}]{0,20}"), inputs in 1usize..5,
            angles in prop::collection::vec(0f32..7.0, 12),
        ) {
            let classify = classify(inputs, &[(name.as_deref(), labels.len())]);
            let rows = Array2::from_shape_fn((inputs + labels.len(), 2), |(row, column)| {
                if column == 0 { angles[row].cos() } else { angles[row].sin() }
            });
            let json = written(&classify, &rows, &labels);
            prop_assert!(json.len() <= classify.longest(&labels) + "[]".len(), "{}", json);
        }
    }
}
