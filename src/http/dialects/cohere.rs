//! Cohere's `POST /v2/embed`, and `POST /v1/embed` of its first client.
//!
//! Owns its inputs, its answer and its errors. The first version has no `inputs` and no `output_dimension`, and answers a plain list of
//! embeddings unless types are asked for; its client cuts long lists of texts into pieces of 96 and puts the answers together.
//!
//! What its client gives and is without effect here: `input_type`, because CLIP has one way to embed a text.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use super::{
    Answered, Asked, Dialect, Reader,
    options::{OneOrMore, Side, Truncate, TypeName},
    parts::{Content, push_contents},
};
use crate::{
    embedder::{PictureHeader, picture_header},
    http::{
        ApiError,
        answer::escaped_len,
        embedding::{EmbeddingForm, EncodingFormat},
        error::{ErrorShape, Shaped},
        operation::{JSON, OF_A_MODEL, Operation, Schemas},
        reply::Written,
        request::{
            json::{Items, JsonRequest},
            limit::Limit,
            payload::Accepts,
        },
        schema,
    },
};

/// Errors as Cohere writes them: `{"message": ".."}`.
pub(in crate::http) const ERRORS: ErrorShape = ErrorShape::of::<Envelope<'static>>(error);

/// Both versions of the route.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let operation = |(path, summary)| {
        Operation::post("Cohere", path, summary)
            .takes(JSON, schemas.request::<Body<'_>>())
            .answers(JSON, schemas.answer::<Answer<'_>>())
            .refuses(schemas, OF_A_MODEL, &[ERRORS])
    };
    let routes = [
        ("/v1/embed", "Embeddings of texts or of pictures, as a plain list or by their types"),
        ("/v2/embed", "Embeddings of texts, of pictures or of both, by their types"),
    ];
    routes.into_iter().map(operation).collect()
}

/// What the answer repeats of the request to one version.
#[derive(Debug)]
pub(in crate::http) struct Embed<const VERSION: u8> {
    pictures: Vec<Picture>,
    /// Whether embeddings are answered by their types, rather than as a plain list.
    by_type: bool,
}

/// One of `texts`, `images` and `inputs` has something in it.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "CohereRequest")]
struct Body<'a> {
    #[serde(borrow)]
    #[schemars(with = "Option<OneOrMore<String>>")]
    texts: Option<Items<'a>>,
    #[serde(borrow)]
    #[schemars(with = "Option<OneOrMore<schema::Picture>>")]
    images: Option<Items<'a>>,
    /// Of the second version.
    #[serde(borrow)]
    #[schemars(with = "Option<Vec<Content>>")]
    inputs: Option<Items<'a>>,
    model: Option<String>,
    embedding_types: Option<Vec<TypeName>>,
    output_dimension: Option<usize>,
    truncate: Option<Side>,
    max_tokens: Option<usize>,
    priority: Option<i64>,
}

impl<'a> JsonRequest<'a> for Body<'a> {
    const ITEMS: &'static [&'static str] = &["texts", "images", "inputs"];
}

impl<const VERSION: u8> Dialect for Embed<VERSION> {
    const ACCEPTS: &'static [Accepts] = &[Accepts::AnyJson];

    fn read(reader: Reader<'_>) -> Result<(Asked, Self), ApiError> {
        let body: Body<'_> = reader.payload.json()?;
        let mut inputs = reader.inputs();
        let most = Limit::inputs(&reader.state.config.limits);
        let there = |items: Option<Items<'_>>| items.filter(|items| !items.is_empty_list()).is_some();
        match (body.texts, body.images, body.inputs) {
            (Some(texts), images, contents) if there(Some(texts)) && !there(images) && !there(contents) => {
                texts.each("texts", most)?.into_iter().try_for_each(|text| inputs.text(text))?;
            }
            (texts, Some(images), contents) if there(Some(images)) && !there(texts) && !there(contents) => {
                images.each("images", most)?.into_iter().try_for_each(|image| inputs.picture(image))?;
            }
            (texts, images, Some(contents)) if there(Some(contents)) && !there(texts) && !there(images) => {
                push_contents(contents, &mut inputs, most)?;
            }
            _ => {
                return Err(ApiError::invalid(
                    "the request needs exactly one of texts, images and inputs, with something in it",
                ));
            }
        }
        let longest = reader.embedder.info().context_length.unwrap_or(0);
        if let Some(tokens) = body.max_tokens.filter(|&tokens| tokens < longest) {
            let message =
                format!("max_tokens is {tokens}; texts are cut at the model's own {longest} tokens, so leave it out");
            return Err(ApiError::invalid(message));
        }
        let types = body.embedding_types.unwrap_or_default();
        let mut forms: Vec<EmbeddingForm> = Vec::new();
        for form in types.iter().map(|kind| kind.form(EncodingFormat::Float)) {
            // Named twice it is one member of the answer all the same.
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        let by_type = VERSION > 1 || !forms.is_empty();
        if forms.is_empty() {
            forms.push(EmbeddingForm::FLOATS);
        }
        let asked = Asked {
            model: body.model,
            wanted: inputs.finish()?,
            truncate: body.truncate.map_or(Ok(true), |side| Truncate::Side(side).cuts())?,
            normalize: true,
            dimensions: body.output_dimension,
            forms,
            priority: body.priority,
        };
        Ok((asked, Self { pictures: Vec::new(), by_type }))
    }

    fn look(&mut self, files: &[Bytes]) {
        self.pictures = files.iter().map(Picture::of).collect();
    }

    fn around(&self, asked: &Asked) -> usize {
        beside(asked.wanted.texts(), asked.wanted.picture_places().len())
    }

    fn write(&self, answered: &Answered<'_>, buffer: Vec<u8>) -> Result<Written, ApiError> {
        let embeddings = if self.by_type { OfTypes::Named(answered) } else { OfTypes::Plain(answered) };
        let body = Answer {
            response_type: if self.by_type { "embeddings_by_type" } else { "embeddings_floats" },
            id: uuid::Uuid::now_v7().to_string(),
            embeddings,
            texts: answered.texts,
            images: &self.pictures,
            meta: Meta {
                api_version: Version { version: VERSION.to_string() },
                billed_units: Units {
                    images: Some(self.pictures.len()).filter(|&pictures| pictures > 0),
                    input_tokens: Some(answered.tokens).filter(|_| !answered.texts.is_empty()),
                },
            },
        };
        Written::json(buffer, &body)
    }
}

/// Bytes of `texts` and of what is said of so many pictures, at most.
fn beside(texts: &[String], pictures: usize) -> usize {
    let texts = texts.iter().map(|text| escaped_len(text).saturating_add(AROUND_TEXT));
    texts.fold(pictures.saturating_mul(PICTURE), usize::saturating_add)
}

/// The quotation marks of a text, and a comma.
const AROUND_TEXT: usize = 3;

/// The longest `{"width":4294967295,"height":4294967295,"format":"jpeg","bit_depth":4294967295},`
const PICTURE: usize = 96;

/// What its client is told of a picture; zeros and no format where its header hides that.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
#[schemars(inline)]
struct Picture {
    width: u32,
    height: u32,
    format: &'static str,
    bit_depth: u32,
}

impl Picture {
    fn of(bytes: &Bytes) -> Self {
        picture_header(bytes).map_or_else(Self::default, |PictureHeader { format, width, height, bit_depth }| Self {
            width,
            height,
            format: format.as_str(),
            bit_depth,
        })
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CohereResponse")]
struct Answer<'a> {
    response_type: &'static str,
    id: String,
    #[schemars(with = "schema::RowsByType")]
    embeddings: OfTypes<'a>,
    texts: &'a [String],
    images: &'a [Picture],
    meta: Meta,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Meta {
    api_version: Version,
    billed_units: Units,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Version {
    version: String,
}

/// What a request cost. The client adds up those that are there.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Units {
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<usize>,
}

/// All embeddings.
enum OfTypes<'a> {
    /// In one list.
    Plain(&'a Answered<'a>),
    /// In each of the forms, by its name.
    Named(&'a Answered<'a>),
}

impl Serialize for OfTypes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(answered) => answered.all_in(answered.form()).serialize(serializer),
            Self::Named(answered) => {
                let mut map = serializer.serialize_map(Some(answered.forms.len()))?;
                for &form in answered.forms {
                    let name = if form == EmbeddingForm::BASE64 { "base64" } else { form.kind.name() };
                    map.serialize_entry(name, &answered.all_in(form))?;
                }
                map.end()
            }
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CohereError")]
struct Envelope<'a> {
    message: &'a str,
}

fn error(error: &ApiError, _request_id: &str) -> Shaped {
    Shaped::json(error.code.status(), &Envelope { message: &error.message_with_index("input") })
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::http::{answer::Size, embedding::EmbeddingType};

    #[test]
    fn no_answer_is_longer_than_its_bound() {
        let longest = Picture { width: u32::MAX, height: u32::MAX, format: "jpeg", bit_depth: u32::MAX };
        let texts = vec!["\u{1}\"ü".to_owned(); 50];
        let kinds = EmbeddingType::ALL.map(|kind| EmbeddingForm { kind, format: EncodingFormat::Float });
        let forms: Vec<_> = kinds.into_iter().chain([EmbeddingForm::BASE64]).collect();
        let rows = Array2::from_elem((100, 16), -0.000_001_000_000_1f32);
        for by_type in [true, false] {
            let embed = Embed::<2> { pictures: vec![longest; 50], by_type };
            let scaled: Vec<_> = forms.iter().map(|form| form.scaled(127.0)).collect();
            let answered =
                Answered { model: "m", rows: &rows, forms: &scaled, tokens: usize::MAX, texts: &texts, pictures: &[] };
            let written = embed.write(&answered, Vec::new()).expect("in memory");
            let size = forms.iter().fold(Size::new("m"), |size, form| form.add_to(size, 100, 16));
            let bound = size.writing(beside(&texts, 50)).written();
            assert!(written.len() <= bound, "{} > {bound}", written.len());
        }
    }
}
