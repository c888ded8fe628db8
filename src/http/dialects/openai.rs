//! OpenAI's `POST /v1/embeddings`, also `/embeddings`, and the image dialects that grew around it.
//!
//! Owns telling them apart by the body alone, OpenAI's answer (which all but Intel's share) and OpenAI's errors. `docs/clients.md` has the
//! table.
//!
//! | what is in the body | whose |
//! |---|---|
//! | `messages`, or messages in `input` | vLLM's: one conversation, or a list of them |
//! | `input` is an object | Intel's (`intel`) |
//! | `modality` beside strings | infinity's, NeMo's |
//! | objects with `text` / `image` / `url` / `bytes` | Jina's, SGLang's |
//! | objects with `content` | OpenRouter's |
//! | objects with `type` | content parts as inputs: llama.cpp's |
//! | strings that start with `data:image/` | NIM's, LiteLLM's: the one that OpenAI's own clients can send |
//! | other strings | OpenAI's |
//! | `truncation`, `output_dtype` or `output_dimension` besides | Voyage's (`voyage`) |
//!
//! Token ids are refused: they come from OpenAI's tokenizer, and nearly all of them are valid ids of CLIP's with another meaning.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    Answered, Asked, Dialect, Reader,
    inputs::Inputs,
    intel,
    options::{OneOrMore, Truncate, TypeName},
    parts::{Content, Object, Part, push_conversation},
    voyage,
};
use crate::http::{
    ApiError, Code,
    embedding::{Embedding, EmbeddingForm, EmbeddingType, EncodingFormat},
    error::{ErrorShape, Shaped},
    operation::{JSON, OF_A_MODEL, Operation, Schemas},
    quoted::Quoted,
    reply::Written,
    request::{
        json::{Items, JsonRequest, fault},
        limit::Limit,
        payload::Accepts,
        raw::Raw,
    },
    schema,
};

/// Errors as OpenAI writes them, and vLLM and infinity after it.
pub(in crate::http) const ERRORS: ErrorShape = ErrorShape::of::<Envelope<'static>>(error);

/// The same where nobody has read the request, which may be of a client that looks for `detail`: without it Voyage's does not repeat what
/// was refused. No status of these is 422, of which infinity's clients want another `detail`.
pub(in crate::http) const UNREAD: ErrorShape = ErrorShape::of::<Unread<'static>>(unread);

/// The route under both its paths, the second of which is Intel's too.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let operation = |(path, unread)| {
        let summary =
            "Embeddings, as OpenAI's clients and those around it ask for them, with pictures in any of their ways";
        Operation::post("OpenAI", path, summary)
            .takes(JSON, schemas.request::<Body<'_>>())
            .answers(JSON, schemas.answer::<Answer<'_>>())
            .answers(JSON, schemas.answer::<intel::Response>())
            .refuses(schemas, OF_A_MODEL, &[unread, ERRORS, voyage::ERRORS, intel::ERRORS])
    };
    [("/v1/embeddings", UNREAD), ("/embeddings", ERRORS)].into_iter().map(operation).collect()
}

/// What the answer repeats of the request.
#[derive(Debug)]
pub(in crate::http) enum Embeddings {
    /// OpenAI's and those around it.
    OpenAi,
    /// OpenAI's as Voyage's client sends it and reads it.
    Voyage,
    /// Intel's.
    Intel(intel::Shape),
}

/// `input` or `messages`, and the options of all dialects.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "OpenAiRequest")]
struct Body<'a> {
    #[serde(borrow)]
    #[schemars(with = "Option<Input>")]
    input: Option<Items<'a>>,
    #[serde(borrow)]
    #[schemars(with = "Option<Messages>")]
    messages: Option<Items<'a>>,
    model: Option<String>,
    encoding_format: Option<EncodingFormat>,
    /// Jina's and NeMo's.
    embedding_type: Option<OneOrMore<TypeName>>,
    /// 0 is all of them, as infinity's clients send.
    dimensions: Option<usize>,
    /// Voyage's.
    output_dtype: Option<TypeName>,
    /// Voyage's.
    output_dimension: Option<usize>,
    /// Voyage's: whether texts that are too long are cut.
    truncation: Option<bool>,
    /// infinity's and NeMo's, of all inputs or of each.
    #[serde(borrow)]
    #[schemars(with = "Option<schema::Texts>")]
    modality: Option<Items<'a>>,
    /// NeMo's, or whether.
    truncate: Option<Truncate>,
    /// vLLM's: -1 is the model's own length.
    truncate_prompt_tokens: Option<i64>,
    #[serde(alias = "normalize")]
    normalized: Option<bool>,
    priority: Option<i64>,
}

impl<'a> JsonRequest<'a> for Body<'a> {
    const ITEMS: &'static [&'static str] = &["input", "messages", "modality"];
}

// As `push_input` reads it.
/// A text, a picture as a data URL, Intel's object, or a list.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "OpenAiInput")]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum Input {
    Text(String),
    Intel(intel::Input),
    More(#[schemars(length(min = 1))] Vec<Item>),
}

// As `push_element` reads it.
/// One of a list of inputs.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "OpenAiItem")]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum Item {
    Text(String),
    Content(Content),
    Part(Part),
    Conversation(#[schemars(length(min = 1, max = 1))] Vec<Content>),
}

// As `push_messages` reads it.
/// One conversation, or a list of them, each of one message.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum Messages {
    One(#[schemars(length(min = 1, max = 1))] Vec<Content>),
    More(#[schemars(length(min = 1))] Vec<Vec<Content>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModalityName {
    Text,
    Image,
}

impl ModalityName {
    /// What `modality` says: nothing, of all inputs one, or one of each.
    fn read_all(modality: Option<Items<'_>>, most: Limit) -> Result<Vec<Self>, ApiError> {
        let Some(modality) = modality else { return Ok(Vec::new()) };
        match modality.elements("modalities", most)? {
            None => Ok(vec![Self::read(modality.value())?]),
            Some(each) => {
                let read = |(index, name)| Self::read(name).map_err(|error| error.at(index));
                each.into_iter().enumerate().map(read).collect()
            }
        }
    }

    fn read(name: Raw<'_>) -> Result<Self, ApiError> {
        match name.string().as_deref() {
            Ok("text") => Ok(Self::Text),
            Ok("image") => Ok(Self::Image),
            Ok("text_image") => Err(ApiError::invalid(
                "modality is text_image; CLIP embeds a text or a picture, so send each as an input of its own",
            )),
            Ok(other) => {
                Err(ApiError::invalid(format!("modality is {}; the model embeds text and image", Quoted(other))))
            }
            Err(_) => Err(fault(format_args!("modality is {}, expected text or image", name.kind()))),
        }
    }
}

impl Dialect for Embeddings {
    const ACCEPTS: &'static [Accepts] = &[Accepts::AnyJson];

    fn read(reader: Reader<'_>) -> Result<(Asked, Self), ApiError> {
        let body: Body<'_> = reader.payload.json()?;
        let is_intels = is_object(body.input);
        let is_voyages = body.truncation.is_some() || body.output_dtype.is_some() || body.output_dimension.is_some();
        let errors = match (is_intels, is_voyages) {
            (true, _) => intel::ERRORS,
            (false, true) => voyage::ERRORS,
            (false, false) => ERRORS,
        };
        Self::read_body(&reader, body, is_voyages).map_err(|error| error.shaped_if_not(Some(errors)))
    }

    fn errors(&self) -> Option<ErrorShape> {
        match self {
            Self::OpenAi => Some(ERRORS),
            Self::Voyage => Some(voyage::ERRORS),
            Self::Intel(_) => Some(intel::ERRORS),
        }
    }

    fn around(&self, asked: &Asked) -> usize {
        asked.wanted.len().saturating_mul(AROUND)
    }

    fn write(&self, answered: &Answered<'_>, buffer: Vec<u8>) -> Result<Written, ApiError> {
        match self {
            Self::OpenAi | Self::Voyage => Written::json(buffer, &Answer::of(answered)),
            Self::Intel(shape) => Written::json(buffer, &shape.answer(answered)),
        }
    }
}

/// `{"object":"embedding","index":1024,"embedding":},`
const AROUND: usize = 64;

impl Embeddings {
    fn read_body(reader: &Reader<'_>, body: Body<'_>, is_voyages: bool) -> Result<(Asked, Self), ApiError> {
        let mut inputs = reader.inputs();
        let mut shape = if is_voyages { Self::Voyage } else { Self::OpenAi };
        let most = Limit::inputs(&reader.state.config.limits);
        let twice = [
            ("dimensions", "output_dimension", body.dimensions.is_some() && body.output_dimension.is_some()),
            ("embedding_type", "output_dtype", body.embedding_type.is_some() && body.output_dtype.is_some()),
            ("truncate", "truncation", body.truncate.is_some() && body.truncation.is_some()),
        ];
        if let Some((one, other, _)) = twice.iter().find(|(_, _, both)| *both) {
            return Err(ApiError::invalid(format!(
                "the request has both {one} and {other}, which say the same; send one of them"
            )));
        }
        let has_strings = body.input.is_some() && !is_object(body.input);
        if body.modality.is_some() && !has_strings {
            return Err(ApiError::invalid(
                "modality says what the strings of input are; leave it out, since this request says it otherwise",
            ));
        }
        match (body.input, body.messages) {
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid("the request has both input and messages; send one of them"));
            }
            (None, None) => return Err(ApiError::invalid("the request has no input")),
            (Some(input), None) if is_object(Some(input)) => {
                shape = Self::Intel(intel::push(input, &mut inputs, most)?);
            }
            (Some(input), None) => {
                push_input(input, &ModalityName::read_all(body.modality, most)?, &mut inputs, most)?;
            }
            (None, Some(messages)) => push_messages(messages, &mut inputs, most)?,
        }
        if let Some(tokens) = body.truncate_prompt_tokens {
            let longest = reader.embedder.info().context_length.unwrap_or(0) as i64;
            if tokens != -1 && tokens < longest {
                let message = format!(
                    "truncate_prompt_tokens is {tokens}; texts are cut at the model's own {longest} tokens, so send -1 or leave it out"
                );
                return Err(ApiError::invalid(message));
            }
        }
        let format = body.encoding_format.unwrap_or_default();
        let types = body.embedding_type.or(body.output_dtype.map(OneOrMore::One));
        let forms = match types.as_ref().map(OneOrMore::as_slice) {
            None | Some([]) => vec![EmbeddingForm { kind: EmbeddingType::Float, format }],
            Some([one]) => vec![one.form(format)],
            Some(_) => {
                return Err(ApiError::invalid(
                    "embedding_type has several types; an answer of this route has one, so send one, or ask /v2/embed",
                ));
            }
        };
        let asked = Asked {
            model: body.model,
            wanted: inputs.finish()?,
            truncate: body.truncate.or(body.truncation.map(Truncate::Whether)).map_or(Ok(true), Truncate::cuts)?,
            normalize: body.normalized.unwrap_or(true),
            dimensions: body.dimensions.filter(|&dimensions| dimensions > 0).or(body.output_dimension),
            forms,
            priority: body.priority,
        };
        Ok((asked, shape))
    }
}

fn is_object(input: Option<Items<'_>>) -> bool {
    input.is_some_and(|input| input.value().is_object())
}

/// Adds what `input` has.
fn push_input(
    input: Items<'_>,
    modality: &[ModalityName],
    inputs: &mut Inputs<'_>,
    most: Limit,
) -> Result<(), ApiError> {
    let Some(elements) = input.elements("inputs", most)? else {
        if !input.value().is_string() {
            let kind = input.value().kind();
            return Err(fault(format_args!("input is {kind}, expected a string or a list")));
        }
        check_modality(modality, &[input.value()])?;
        return push_string(input, modality, inputs);
    };
    check_modality(modality, &elements)?;
    let mut rest = elements.as_slice();
    if let &[first, ref others @ ..] = rest
        && first.is_object()
    {
        match Object::read(first).map_err(|error| error.at(0))? {
            Object { role: Some(_), .. } => return push_conversation(&elements, inputs),
            object => object.push(inputs)?,
        }
        rest = others;
    }
    rest.iter().try_for_each(|&element| push_element(element, modality, inputs))
}

/// Holds `modality` to one entry, or one for each input, and the inputs to strings: whatever else says itself what it is.
fn check_modality(modality: &[ModalityName], elements: &[Raw<'_>]) -> Result<(), ApiError> {
    if modality.is_empty() {
        return Ok(());
    }
    if modality.len() > 1 && modality.len() != elements.len() {
        let (entries, inputs) = (modality.len(), elements.len());
        let message = format!("modality has {entries} entries for {inputs} inputs; send one, or one for each");
        return Err(ApiError::invalid(message));
    }
    let Some(at) = elements.iter().position(|element| element.get().starts_with(['{', '['])) else { return Ok(()) };
    let kind = elements[at].kind();
    let message = format!("modality says what strings are, and the input is {kind}; leave modality out");
    Err(ApiError::invalid(message).at(at))
}

fn push_element(element: Raw<'_>, modality: &[ModalityName], inputs: &mut Inputs<'_>) -> Result<(), ApiError> {
    let place = inputs.len();
    let item = Items::of(element);
    match element.get().as_bytes().first() {
        Some(b'"') => push_string(item, modality, inputs),
        Some(b'{') => Object::read(element).map_err(|error| error.at(place))?.push(inputs),
        Some(b'[') => match element.get()[1..].trim_start().as_bytes().first() {
            Some(b'{') => {
                let messages = item.elements("messages", MOST_MESSAGES).map_err(|error| error.at(place))?;
                push_conversation(&messages.unwrap_or_default(), inputs)
            }
            Some(b'-' | b'0'..=b'9') => Err(ApiError::invalid(TOKEN_IDS).at(place)),
            _ => Err(unexpected(element, place)),
        },
        Some(b'-' | b'0'..=b'9') => Err(ApiError::invalid(TOKEN_IDS).at(place)),
        _ => Err(unexpected(element, place)),
    }
}

fn unexpected(element: Raw<'_>, place: usize) -> ApiError {
    let kind = element.kind();
    fault(format_args!("input has {kind} at {place}, expected a string or an object")).at(place)
}

const TOKEN_IDS: &str = "the input is token ids, which only the tokenizer that made them knows the meaning of; send the text itself (LangChain's \
                         OpenAIEmbeddings: check_embedding_ctx_length=False)";

/// So many messages are counted before they are refused.
const MOST_MESSAGES: usize = 1024;

fn push_string(item: Items<'_>, modality: &[ModalityName], inputs: &mut Inputs<'_>) -> Result<(), ApiError> {
    let place = inputs.len();
    let modality = if let [one] = modality { Some(one) } else { modality.get(place) };
    match modality {
        Some(ModalityName::Image) => inputs.picture(item),
        Some(ModalityName::Text) => inputs.text(item),
        None => inputs.text_or_picture(item),
    }
}

/// Adds what vLLM's `messages` have: one conversation, or a list of conversations.
fn push_messages(messages: Items<'_>, inputs: &mut Inputs<'_>, most: Limit) -> Result<(), ApiError> {
    let elements = messages.elements("messages", most)?;
    let elements =
        elements.ok_or_else(|| ApiError::invalid("messages is no list; expected [{\"role\": .., \"content\": ..}]"))?;
    if !elements.first().is_some_and(|element| element.get().starts_with('[')) {
        return push_conversation(&elements, inputs);
    }
    elements.into_iter().try_for_each(|conversation| {
        let place = inputs.len();
        let messages = Items::of(conversation).elements("messages", MOST_MESSAGES).map_err(|error| error.at(place))?;
        push_conversation(&messages.unwrap_or_default(), inputs)
    })
}

/// The answer to all but Intel's requests.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiResponse")]
struct Answer<'a> {
    object: &'static str,
    #[schemars(with = "Vec<schema::Entry>")]
    data: Data<'a>,
    model: &'a str,
    usage: Usage,
    id: String,
    created: u64,
}

/// Tokens of all texts.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Usage {
    prompt_tokens: usize,
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

impl<'a> Answer<'a> {
    fn of(answered: &'a Answered<'a>) -> Self {
        Self {
            object: "list",
            data: Data(answered),
            model: answered.model,
            usage: Usage { prompt_tokens: answered.tokens, total_tokens: answered.tokens },
            id: format!("embd-{}", uuid::Uuid::now_v7().simple()),
            created: answered.created(),
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiError")]
struct Envelope<'a> {
    error: Fault<'a>,
}

/// The message once more, for clients that look for it there.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiErrorUnread")]
struct Unread<'a> {
    error: Fault<'a>,
    detail: &'a str,
}

fn error(error: &ApiError, _request_id: &str) -> Shaped {
    Shaped::json(error.code.status(), &Envelope { error: Fault::of(error) })
}

fn unread(error: &ApiError, _request_id: &str) -> Shaped {
    Shaped::json(error.code.status(), &Unread { error: Fault::of(error), detail: &error.message })
}

/// An error in OpenAI's words.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Fault<'a> {
    message: Cow<'a, str>,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Which input stands in the way, such as input[3].
    param: Option<String>,
    code: &'static str,
}

impl<'a> Fault<'a> {
    fn of(error: &'a ApiError) -> Self {
        let kind = match error.code {
            Code::Overloaded => "rate_limit_error",
            Code::Unauthorized => "authentication_error",
            code if code.status().is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let code = match error.code {
            Code::Overloaded => "rate_limit_exceeded",
            Code::Unauthorized => "invalid_api_key",
            code => code.as_str(),
        };
        let param = error.index.map(|index| format!("input[{index}]"));
        Self { message: error.message_with_index("input"), kind, param, code }
    }
}
