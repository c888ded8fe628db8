//! The body of an inference: from tensors to pictures, texts and token ids, and the outputs that are asked for.
//!
//! Owns which input tensors there are, their types and shapes:
//!
//! | name | datatype | shape | a value |
//! |---|---|---|---|
//! | `images` | BYTES | [n] or [n, 1] | a picture's file; in JSON its base64, a data URL, or its address |
//! | `pixel_values` | FP32 | [n, 3, height, width] | what the model's own image processor gives: rescaled, normalised
//! | `texts` | BYTES | [n] or [n, 1] | UTF-8 |
//! | `input_ids` | INT64 | [n, L] | ids of the model's own tokenizer, start and end token among them |
//! | `attention_mask` | INT64 | [n, L] | 1 for what is attended to, then 0; without it all is |
//!
//! Does not own how a tensor is read (`tensor`), nor what becomes of the inputs (`infer`).
//!
//! Invariant: of each side there is one tensor at most, and of both one at least.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    super::inputs::Inputs,
    output::{Counts, Name},
    tensor::{self, Behind, Element, Head, Number, Tensor, about},
};
use crate::{
    budget::Reservation,
    embedder::{Embedder, Modality, Terms},
    encoder::{PixelValues, Tokens},
    http::{
        ApiError, AppState,
        connection::held::owning,
        request::{
            json::{self, Items, JsonRequest, check_count},
            limit::Limit,
            payload::Payload,
            picture::{Picture, bring_all},
            room::Claim,
        },
    },
};

/// Bytes of JSON before those of the tensors.
pub(super) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Entries of `inputs` and of `outputs`: there are fewer names than that.
const MAX_TENSORS: usize = 32;

/// Tensors, and the outputs that are asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "OipRequest")]
pub(super) struct Body<'a> {
    id: Option<String>,
    parameters: Option<Parameters>,
    #[serde(borrow)]
    #[schemars(with = "Vec<tensor::Input>", length(min = 1))]
    inputs: Items<'a>,
    #[serde(borrow)]
    #[schemars(with = "Option<Vec<tensor::Output>>")]
    outputs: Option<Items<'a>>,
}

impl<'a> JsonRequest<'a> for Body<'a> {
    const ITEMS: &'static [&'static str] = &["inputs", "outputs"];
}

// Others are passed over, as Triton does with those that a model has no use for; so is `priority`, which is a level among those of a model
// that has levels.
/// What of a request's parameters means something here.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(inline)]
struct Parameters {
    /// Of outputs that do not say it themselves, and of those that nobody named.
    binary_data_output: Option<bool>,
    /// Microseconds.
    timeout: Option<u64>,
    /// An extension that is not served.
    #[schemars(with = "Option<()>")]
    sequence_id: Option<serde::de::IgnoredAny>,
}

/// Pictures.
#[derive(Debug)]
pub(super) enum Images<P = Picture> {
    /// Files, or where they are.
    Files(Vec<P>),
    /// As floats.
    Pixels(Vec<PixelValues>),
}

impl Images {
    /// The same with the bytes of all files.
    ///
    /// # Errors
    /// As [`bring_all`].
    pub(super) async fn bring(self, state: &AppState, terms: Terms) -> Result<Images<Bytes>, ApiError> {
        Ok(match self {
            Self::Files(pictures) => Images::Files(bring_all(state, pictures, terms).await?),
            Self::Pixels(pictures) => Images::Pixels(pictures),
        })
    }
}

impl<P> Images<P> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Pixels(pictures) => pictures.len(),
        }
    }

    /// The tensor.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Files(_) => "images",
            Self::Pixels(_) => "pixel_values",
        }
    }
}

/// Texts.
#[derive(Debug)]
pub(super) enum Texts {
    /// As they are.
    Strings(Vec<String>),
    /// As ids, all of one length.
    Ids(Vec<Tokens>),
}

impl Texts {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Strings(strings) => strings.len(),
            Self::Ids(ids) => ids.len(),
        }
    }

    /// The tensor.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Strings(_) => "texts",
            Self::Ids(_) => "input_ids",
        }
    }
}

/// An output that is asked for.
#[derive(Debug)]
pub(super) struct OutputAsked {
    pub(super) output: Name,
    /// What the request calls it.
    pub(super) name: String,
    /// Whether it stands behind the JSON.
    pub(super) binary: bool,
}

/// An inference.
#[derive(Debug)]
pub(super) struct Inference {
    /// The client's own, which the answer repeats.
    pub(super) id: Option<String>,
    pub(super) images: Option<Images>,
    pub(super) texts: Option<Texts>,
    pub(super) outputs: Vec<OutputAsked>,
    /// How long the client waits.
    pub(super) timeout: Option<Duration>,
    /// Of texts and ids; pictures have their own.
    pub(super) room: Vec<Reservation>,
}

impl Inference {
    /// Reads a request; its body is gone with this, but for the bytes of pictures.
    ///
    /// # Errors
    /// 400 that names the tensor, 413 for too many items, 413 and 429 for the room of what is read.
    pub(super) fn read(state: &AppState, embedder: &Embedder, payload: Payload) -> Result<Self, ApiError> {
        let claim = payload.claim(state);
        let header = match payload.header(&HEADER_LENGTH) {
            None => None,
            Some(value) => {
                let length = value.to_str().ok().and_then(|value| value.trim().parse::<usize>().ok());
                Some(length.ok_or_else(|| {
                    ApiError::invalid(
                        "the header Inference-Header-Content-Length is not the number of bytes of the JSON",
                    )
                })?)
            }
        };
        let (bytes, share) = payload.body.into_parts();
        let mut body = owning(bytes, share);
        let header = header.unwrap_or(body.len());
        if header > body.len() {
            return Err(ApiError::invalid(format!(
                "the header Inference-Header-Content-Length says {header} bytes, and the body has {}",
                body.len()
            )));
        }
        let behind = body.split_off(header);
        let read: Body<'_> = json::Unread::of(&body)?.read()?;
        let mut reading =
            Reading { embedder, inputs: Inputs::new(state, claim), sides: Sides::default(), room: Vec::new() };
        reading.tensors(read.inputs, Behind::new(behind), state)?;
        let Reading { inputs, sides, mut room, .. } = reading;
        let (strings, texts_room, files) = inputs.by_kind();
        room.extend(texts_room);
        let images = match sides.pixels {
            Some(pixels) => Some(Images::Pixels(pixels)),
            None => sides.images.then_some(Images::Files(files)),
        };
        let texts = match sides.ids {
            Some(ids) => Some(Texts::Ids(ids)),
            None => sides.texts.then_some(Texts::Strings(strings)),
        };
        let counts = Counts { images: images.as_ref().map(Images::len), texts: texts.as_ref().map(Texts::len) };
        if counts == (Counts { images: None, texts: None }) {
            return Err(ApiError::invalid(
                "the request has no input; send images or texts (BYTES), or what the model's own processor makes of them",
            ));
        }
        let parameters = read.parameters.unwrap_or_default();
        if parameters.sequence_id.is_some() {
            return Err(ApiError::invalid("sequence_id is given; a request depends on no other here, so leave it out"));
        }
        let outputs = outputs(read.outputs, counts, parameters.binary_data_output.unwrap_or(false))?;
        let timeout = parameters.timeout.filter(|&timeout| timeout > 0).map(Duration::from_micros);
        Ok(Self { id: read.id, images, texts, outputs, timeout, room })
    }
}

/// The outputs that are asked for; none: the embeddings of what is there.
fn outputs(items: Option<Items<'_>>, counts: Counts, binary: bool) -> Result<Vec<OutputAsked>, ApiError> {
    let elements = match items {
        Some(items) if !items.is_empty_list() => items
            .elements("outputs", MAX_TENSORS)?
            .ok_or_else(|| json::fault("outputs is no list; expected [{\"name\": ..}]"))?,
        _ => {
            let sides = [Modality::Image, Modality::Text].into_iter().filter(|&side| counts.of(side).is_some());
            let embeds = sides.map(Name::Embeds);
            return Ok(embeds.map(|output| OutputAsked { output, name: output.to_string(), binary }).collect());
        }
    };
    let mut outputs: Vec<OutputAsked> = Vec::with_capacity(elements.len());
    for (index, element) in elements.into_iter().enumerate() {
        let head = Head::read("outputs", index, element)?;
        let output = Name::read(&head.name, counts)?;
        if outputs.iter().any(|other| other.output == output) {
            return Err(about(&head.name, "is asked for twice; name each output once"));
        }
        let binary = head.parameters.binary_data.unwrap_or(binary);
        outputs.push(OutputAsked { output, name: head.name.into_owned(), binary });
    }
    Ok(outputs)
}

/// What has been read so far.
struct Reading<'a> {
    embedder: &'a Embedder,
    inputs: Inputs<'a>,
    sides: Sides,
    room: Vec<Reservation>,
}

/// Which tensors have been seen, and the ids.
#[derive(Default)]
struct Sides {
    images: bool,
    texts: bool,
    pixels: Option<Vec<PixelValues>>,
    ids: Option<Vec<Tokens>>,
}

impl Reading<'_> {
    fn tensors(&mut self, inputs: Items<'_>, mut behind: Behind, state: &AppState) -> Result<(), ApiError> {
        let limits = &state.config.limits;
        let elements = inputs.elements("inputs", MAX_TENSORS)?.ok_or_else(|| {
            json::fault("inputs is no list; expected [{\"name\": .., \"datatype\": .., \"shape\": ..}]")
        })?;
        let (mut input_ids, mut attention_mask) = (None, None);
        for (index, element) in elements.into_iter().enumerate() {
            let head = Head::read("inputs", index, element)?;
            let name = head.name.clone();
            let twice = || about(&name, "is there twice; send all of them as one tensor");
            match &*name {
                "images" if self.sides.images => return Err(twice()),
                "pixel_values" if self.sides.pixels.is_some() => return Err(twice()),
                "texts" if self.sides.texts => return Err(twice()),
                "images" => {
                    self.sides.images = true;
                    self.images(&Tensor::read(head, BYTES, &mut behind)?, Limit::images(limits))?;
                }
                "texts" => {
                    self.sides.texts = true;
                    self.texts(&Tensor::read(head, BYTES, &mut behind)?, Limit::texts(limits))?;
                }
                "pixel_values" => {
                    self.pixels(&Tensor::read(head, f32::DATATYPE, &mut behind)?, Limit::images(limits))?;
                }
                "input_ids" | "attention_mask" => {
                    let place = if name == "input_ids" { &mut input_ids } else { &mut attention_mask };
                    let tensor = Tensor::read(head, i64::DATATYPE, &mut behind)?;
                    if place.replace(tensor).is_some() {
                        return Err(twice());
                    }
                }
                _ => {
                    return Err(about(
                        &name,
                        "is no input; there are images, pixel_values, texts, input_ids and attention_mask; GET the model for \
                         those that it has",
                    ));
                }
            }
        }
        behind.finish()?;
        if self.sides.images && self.sides.pixels.is_some() {
            return Err(ApiError::invalid(
                "the request has both images and pixel_values; send one of them, the other in a request of its own",
            ));
        }
        match (input_ids, attention_mask) {
            (Some(_), _) if self.sides.texts => Err(ApiError::invalid(
                "the request has both texts and input_ids; send one of them, the other in a request of its own",
            )),
            (Some(ids), mask) => self.ids(&ids, mask.as_ref(), Limit::texts(limits)),
            (None, Some(mask)) => Err(about(mask.name(), "belongs to input_ids, and the request has none")),
            (None, None) => Ok(()),
        }
    }

    fn images(&mut self, tensor: &Tensor<'_>, limit: Limit) -> Result<(), ApiError> {
        let n = tensor.items()?;
        check_count("images", n, limit)?;
        tensor.each(n, |index, element| {
            let read = match element {
                Element::Json(item) => self.inputs.picture(item),
                Element::Binary(bytes) => self.inputs.file(bytes),
            };
            read.map_err(|error| error.at(index).naming("images"))
        })
    }

    fn pixels(&mut self, tensor: &Tensor<'_>, limit: Limit) -> Result<(), ApiError> {
        let (height, width) = self.embedder.pixel_values_size()?;
        let &[n, 3, sent_height, sent_width] = tensor.shape() else {
            return Err(tensor.wrong_shape(format_args!("[n, 3, {height}, {width}]")));
        };
        if n == 0 || (sent_height, sent_width) != (height, width) {
            return Err(tensor.wrong_shape(format_args!("[n, 3, {height}, {width}] with n from 1")));
        }
        check_count(tensor.name(), n, limit)?;
        let (values, room) = tensor.numbers::<f32>(self.inputs.claim())?;
        // A copy, for as long as it is made.
        let _copy = self.inputs.claim().reserve(values.len().saturating_mul(size_of::<f32>()))?;
        self.room.push(room);
        let values: Arc<[f32]> = values.into();
        let picture = |index: usize| {
            let picture = PixelValues::new(height, width, Arc::clone(&values), index * 3 * height * width);
            let checked = Embedder::check_pixel_values(&picture).map(|()| picture);
            checked.map_err(|error| ApiError::from(error).at(index).naming("pixel_values"))
        };
        self.sides.pixels = Some((0..n).map(picture).collect::<Result<_, _>>()?);
        Ok(())
    }

    fn texts(&mut self, tensor: &Tensor<'_>, limit: Limit) -> Result<(), ApiError> {
        let n = tensor.items()?;
        check_count("texts", n, limit)?;
        tensor.each(n, |index, element| {
            let read = match element {
                Element::Json(item) => self.inputs.text(item),
                Element::Binary(bytes) => self.text(&bytes),
            };
            read.map_err(|error| error.at(index).naming("texts"))
        })
    }

    fn text(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ApiError::invalid("the text is not UTF-8"))?;
        let room = self.inputs.claim().reserve(text.len())?;
        self.inputs.read_texts(vec![text.to_owned()], room)
    }

    fn ids(&mut self, tensor: &Tensor<'_>, mask: Option<&Tensor<'_>>, limit: Limit) -> Result<(), ApiError> {
        self.embedder.supports(Modality::Text)?;
        let longest = self.embedder.info().context_length.unwrap_or(0);
        let &[n, length] = tensor.shape() else {
            return Err(tensor.wrong_shape(format_args!("[n, L] with L from 1 to {longest}")));
        };
        check_count(tensor.name(), n, limit)?;
        if !(1..=longest).contains(&length) {
            return Err(
                tensor.wrong_shape(format_args!("[n, L] with L from 1 to {longest}, the model's context length"))
            );
        }
        let claim: &mut Claim<'_> = self.inputs.claim();
        let (ids, _read) = tensor.numbers::<i64>(claim)?;
        let mask = match mask {
            Some(mask) if mask.shape() != tensor.shape() => {
                return Err(mask.wrong_shape(format_args!("that of input_ids, {:?}", tensor.shape())));
            }
            Some(mask) => Some(mask.numbers::<i64>(claim)?),
            None => None,
        };
        self.room.push(claim.reserve(ids.len().saturating_mul(size_of::<u32>()))?);
        let rows = ids.chunks_exact(length).enumerate().map(|(index, ids)| {
            let mask = mask.as_ref().map(|(mask, _)| &mask[index * length..][..length]);
            let attended = mask.map_or(Ok(length), |mask| attended(mask).map_err(|error| error.at(index)))?;
            let tokens = self.embedder.tokens(ids, attended).map_err(|error| ApiError::from(error).at(index));
            tokens.map_err(|error| error.naming("input_ids"))
        });
        self.sides.ids = Some(rows.collect::<Result<_, _>>()?);
        Ok(())
    }
}

const BYTES: &str = "BYTES";

/// How many positions a mask attends to, all of them before those that it shuts out.
fn attended(mask: &[i64]) -> Result<usize, ApiError> {
    let attended = mask.iter().take_while(|&&value| value == 1).count();
    if attended > 0 && mask[attended..].iter().all(|&value| value == 0) {
        return Ok(attended);
    }
    let what = "the mask is not ones and then zeros; padding stands behind a text here, as CLIP's tokenizer puts it";
    Err(ApiError::invalid(what).naming("attention_mask"))
}

/// The names of the inputs of a model, with their types and shapes, of which -1 is any size.
pub(super) fn accepted(embedder: &Embedder) -> Vec<(Cow<'static, str>, &'static str, Vec<i64>)> {
    let mut inputs = Vec::new();
    if embedder.supports(Modality::Image).is_ok() {
        inputs.push(("images".into(), BYTES, vec![-1]));
    }
    if let Ok((height, width)) = embedder.pixel_values_size() {
        inputs.push(("pixel_values".into(), f32::DATATYPE, vec![-1, 3, height as i64, width as i64]));
    }
    if embedder.supports(Modality::Text).is_ok() {
        inputs.push(("texts".into(), BYTES, vec![-1]));
        inputs.push(("input_ids".into(), i64::DATATYPE, vec![-1, -1]));
        inputs.push(("attention_mask".into(), i64::DATATYPE, vec![-1, -1]));
    }
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_ones_and_then_zeros() {
        for (mask, expected) in [(&[1, 1, 1][..], 3), (&[1, 0, 0], 1)] {
            assert_eq!(attended(mask).expect("a prefix"), expected);
        }
        for mask in [&[0, 1, 1][..], &[1, 0, 1], &[0, 0], &[1, 2], &[1, -1]] {
            let error = attended(mask).expect_err("no prefix");
            assert!(error.message.contains("attention_mask"), "{}", error.message);
        }
    }
}
