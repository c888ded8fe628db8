//! Voyage's `POST /v1/multimodalembeddings`.
//!
//! Owns its inputs, its answer and its errors. What Voyage's client sends to `/v1/embeddings` has OpenAI's shape (`openai`) and Voyage's
//! errors.
//!
//! Its client asks for base64 by itself, and reads the bytes of `int8` and `binary` as signed, those of `uint8` and `ubinary` as unsigned,
//! as they are written here.

use bytes::Bytes;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    Answered, Asked, Dialect, Reader, intel,
    parts::{Content, push_contents},
};
use crate::{
    embedder::picture_header,
    http::{
        ApiError, Code,
        embedding::{Embedding, EmbeddingForm, EmbeddingType, EncodingFormat},
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

/// Errors as Voyage writes them.
pub(in crate::http) const ERRORS: ErrorShape = ErrorShape::of::<intel::Detail<'static>>(error);

/// The route.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let operation = Operation::post("Voyage", "/v1/multimodalembeddings", "An embedding for each text and picture")
        .takes(JSON, schemas.request::<Body<'_>>())
        .answers(JSON, schemas.answer::<Answer<'_>>());
    vec![operation.refuses(schemas, OF_A_MODEL, &[ERRORS])]
}

/// What the answer repeats of the request.
#[derive(Debug)]
pub(in crate::http) struct Multimodal {
    pixels: u64,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "VoyageRequest")]
struct Body<'a> {
    #[serde(borrow)]
    #[schemars(with = "Vec<Content>", length(min = 1))]
    inputs: Option<Items<'a>>,
    model: Option<String>,
    truncation: Option<bool>,
    output_dtype: Option<EmbeddingType>,
    output_dimension: Option<usize>,
    encoding_format: Option<EncodingFormat>,
}

impl<'a> JsonRequest<'a> for Body<'a> {
    const ITEMS: &'static [&'static str] = &["inputs"];
}

impl Dialect for Multimodal {
    const ACCEPTS: &'static [Accepts] = &[Accepts::AnyJson];

    fn read(reader: Reader<'_>) -> Result<(Asked, Self), ApiError> {
        let body: Body<'_> = reader.payload.json()?;
        let mut inputs = reader.inputs();
        let contents = body.inputs.ok_or_else(|| ApiError::invalid("the request has no inputs"))?;
        push_contents(contents, &mut inputs, Limit::inputs(&reader.state.config.limits))?;
        let asked = Asked {
            model: body.model,
            wanted: inputs.finish()?,
            truncate: body.truncation.unwrap_or(true),
            normalize: true,
            dimensions: body.output_dimension,
            forms: vec![EmbeddingForm {
                kind: body.output_dtype.unwrap_or_default(),
                format: body.encoding_format.unwrap_or_default(),
            }],
            priority: None,
        };
        Ok((asked, Self { pixels: 0 }))
    }

    fn look(&mut self, files: &[Bytes]) {
        // A header may claim any size: what is over the limit is refused when it is decoded.
        self.pixels = files.iter().map(pixels).fold(0, u64::saturating_add);
    }

    fn around(&self, asked: &Asked) -> usize {
        asked.wanted.len().saturating_mul(AROUND)
    }

    fn write(&self, answered: &Answered<'_>, buffer: Vec<u8>) -> Result<Written, ApiError> {
        let body = Answer {
            object: "list",
            data: Data(answered),
            model: answered.model,
            usage: Usage {
                text_tokens: answered.tokens,
                image_pixels: self.pixels,
                video_pixels: 0,
                total_tokens: answered.tokens,
            },
        };
        Written::json(buffer, &body)
    }
}

/// `{"object":"embedding","index":1024,"embedding":},`
const AROUND: usize = 64;

/// Of a picture, by its header; none where that hides them.
fn pixels(bytes: &Bytes) -> u64 {
    picture_header(bytes).map_or(0, |header| u64::from(header.width) * u64::from(header.height))
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "VoyageResponse")]
struct Answer<'a> {
    object: &'static str,
    #[schemars(with = "Vec<schema::Entry>")]
    data: Data<'a>,
    model: &'a str,
    usage: Usage,
}

/// Its client reads every one of them.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Usage {
    text_tokens: usize,
    image_pixels: u64,
    video_pixels: u64,
    total_tokens: usize,
}

struct Data<'a>(&'a Answered<'a>);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Entry<'a> {
            object: &'static str,
            index: usize,
            embedding: Embedding<'a>,
        }
        let form = self.0.form();
        serializer.collect_seq(self.0.rows.rows().into_iter().enumerate().map(|(index, row)| Entry {
            object: "embedding",
            index,
            embedding: Embedding { row, form },
        }))
    }
}

/// `{"detail": ".."}`, with the statuses that its client knows: another than 400, 401, 422 and 429 is a fault of the service to it, and a
/// 501 it takes for an answer.
fn error(error: &ApiError, request_id: &str) -> Shaped {
    let shaped = intel::detail(error, request_id);
    let status = match error.code {
        Code::ModelNotFound | Code::PayloadTooLarge | Code::UnsupportedMediaType | Code::NotSupported => {
            StatusCode::BAD_REQUEST
        }
        _ => shaped.status,
    };
    Shaped { status, ..shaped }
}
