//! One input tensor of a request: its name, its type, its shape, and its data, wherever that stands.
//!
//! Owns reading the data as strings of bytes, as integers or as floats, and the two places of it: a list in the JSON, flat or nested as
//! the shape is, and the bytes behind the JSON (`binary_data_size`). Does not own which tensors there are (`request`).
//!
//! Invariants: the number of elements is checked before one of them is read, and room is taken for all of them; every error names the
//! tensor, what was expected and what came.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, SeqAccess, Visitor},
};

use crate::{
    budget::Reservation,
    http::{
        ApiError,
        quoted::Quoted,
        request::{
            json::{Items, fault},
            raw::Raw,
            room::Claim,
        },
    },
};

/// Bytes of a tensor's name, type, shape or parameters, as they are written in JSON.
const MAX_HEAD_BYTES: usize = 1024;

/// Axes of a shape. No tensor of ours has more than four.
const MAX_AXES: usize = 8;

// As `Head` and `Tensor` read it.
/// An input tensor.
#[derive(JsonSchema)]
#[schemars(rename = "OipInput")]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
pub(super) struct Input {
    name: InputName,
    datatype: Datatype,
    #[schemars(length(min = 1, max = MAX_AXES))]
    shape: Vec<usize>,
    parameters: Option<Parameters>,
    /// Flat, or nested as the shape is. Without it the bytes stand behind the JSON (`binary_data_size`).
    data: Option<Vec<serde_json::Value>>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case", inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum InputName {
    Images,
    PixelValues,
    Texts,
    InputIds,
    AttentionMask,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "UPPERCASE", inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum Datatype {
    Bytes,
    Fp32,
    Int64,
}

// As `Head` reads it.
/// An output that is asked for.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
pub(super) struct Output {
    name: String,
    parameters: Option<Parameters>,
}

/// What of the parameters of a tensor means something here. Others are passed over, as Triton does.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct Parameters {
    /// Bytes behind the JSON that are the input's.
    binary_data_size: Option<usize>,
    /// Whether the output is to stand behind the JSON.
    pub(super) binary_data: Option<bool>,
    /// An extension that is not served.
    #[schemars(with = "Option<()>")]
    shared_memory_region: Option<serde::de::IgnoredAny>,
    /// An extension that is not served.
    #[schemars(with = "Option<()>")]
    classification: Option<serde::de::IgnoredAny>,
}

/// The head of an entry.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) parameters: Parameters,
    datatype: Option<Raw<'a>>,
    shape: Option<Raw<'a>>,
    data: Option<Raw<'a>>,
}

impl<'a> Head<'a> {
    /// Of an element of `inputs` or `outputs`, which `list` names.
    ///
    /// # Errors
    /// 400 for what is no tensor, and for an extension that is not served.
    pub(super) fn read(list: &str, index: usize, element: Raw<'a>) -> Result<Self, ApiError> {
        let at = |what: &str| fault(format_args!("{list}[{index}] {what}"));
        if !element.is_object() {
            return Err(at(&format!("is {}, expected an object with a name", element.kind())));
        }
        let [name, datatype, shape, parameters, data] = element
            .members_named(["name", "datatype", "shape", "parameters", "data"])
            .map_err(|reason| at(&format!("cannot be read: {reason}")))?;
        let name = word(name).ok_or_else(|| at("has no name, expected a short string"))?;
        let parameters = match parameters {
            None => Parameters::default(),
            Some(parameters) => {
                short(parameters).and_then(|parameters| serde_json::from_str(parameters.get()).ok()).ok_or_else(
                    || about(&name, "has parameters that are no object of short values of the protocol's types"),
                )?
            }
        };
        if parameters.shared_memory_region.is_some() {
            return Err(about(
                &name,
                "is asked for in shared memory, which is not served; send and take tensors in the request and the answer",
            ));
        }
        if parameters.classification.is_some() {
            return Err(about(
                &name,
                "is asked for as a classification, which is not served; take the tensor, or ask /classify",
            ));
        }
        Ok(Self { name, parameters, datatype, shape, data })
    }
}

/// What is wrong with a tensor.
pub(super) fn about(name: &str, what: impl fmt::Display) -> ApiError {
    ApiError::invalid(format!("{} {what}", Quoted(name)))
}

/// A value that is an option and no data.
fn short(value: Raw<'_>) -> Option<Raw<'_>> {
    Some(value).filter(|value| value.get().len() <= MAX_HEAD_BYTES)
}

fn word(value: Option<Raw<'_>>) -> Option<Cow<'_, str>> {
    short(value?)?.string().ok()
}

/// The bytes behind the JSON of a request, given to its inputs in their order.
#[derive(Debug)]
pub(super) struct Behind(Bytes);

impl Behind {
    /// All of them.
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    fn take(&mut self, name: &str, size: usize) -> Result<Bytes, ApiError> {
        if size > self.0.len() {
            let message = format!(
                "has a binary_data_size of {size} bytes, and {} are left behind the JSON; the header Inference-Header-Content-Length \
                 says where they begin",
                self.0.len()
            );
            return Err(about(name, message));
        }
        Ok(self.0.split_to(size))
    }

    /// Every byte is some input's.
    ///
    /// # Errors
    /// 400 otherwise.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(format!(
            "{} bytes behind the JSON belong to no input; give each input that is sent so its binary_data_size",
            self.0.len()
        )))
    }
}

/// Where a tensor's data is.
#[derive(Debug)]
enum Data<'a> {
    Json(Items<'a>),
    Binary(Bytes),
}

/// An input tensor, its data unread.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    name: Cow<'a, str>,
    shape: Vec<usize>,
    data: Data<'a>,
}

/// Elements of a shape; none when they cannot be counted.
fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1, |product: usize, &axis| product.checked_mul(axis))
}

impl<'a> Tensor<'a> {
    /// An input of the type `datatype`, with its part of what is `behind` the JSON.
    ///
    /// # Errors
    /// 400 for another type, for a shape that is none, for no data and for data in both places.
    pub(super) fn read(head: Head<'a>, datatype: &str, behind: &mut Behind) -> Result<Self, ApiError> {
        let Head { name, parameters, datatype: sent, shape, data } = head;
        let sent = word(sent).unwrap_or_default();
        if sent != datatype {
            return Err(about(&name, format_args!("has the datatype \"{}\", expected \"{datatype}\"", Quoted(&sent))));
        }
        let no_shape = || {
            about(&name, format_args!("has no shape, or one that cannot be; expected a list of 1 to {MAX_AXES} sizes"))
        };
        let shape = shape.and_then(short).ok_or_else(no_shape)?;
        let shape: Vec<usize> = serde_json::from_str(shape.get()).map_err(|_| no_shape())?;
        if !(1..=MAX_AXES).contains(&shape.len()) || count(&shape).is_none() {
            return Err(no_shape());
        }
        let data = match (data, parameters.binary_data_size) {
            (Some(data), None) => Data::Json(Items::of(data)),
            (None, Some(size)) => Data::Binary(behind.take(&name, size)?),
            (Some(_), Some(_)) => return Err(about(&name, "has both data and a binary_data_size; send one of them")),
            (None, None) => return Err(about(&name, "has no data; send a list, or a binary_data_size and bytes")),
        };
        Ok(Self { name, shape, data })
    }

    /// The name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The sizes of the axes.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn no_list(&self, data: &Items<'_>) -> ApiError {
        about(&self.name, format_args!("has data that is {}, expected a list", data.value().kind()))
    }

    /// The shape is not as `expected`.
    pub(super) fn wrong_shape(&self, expected: impl fmt::Display) -> ApiError {
        about(&self.name, format_args!("has the shape {:?}, expected {expected}", self.shape))
    }

    /// How many strings of bytes the tensor has: its shape is `[n]` or `[n, 1]`.
    ///
    /// # Errors
    /// 400 for another shape.
    pub(super) fn items(&self) -> Result<usize, ApiError> {
        match *self.shape.as_slice() {
            [n] | [n, 1] if n > 0 => Ok(n),
            _ => Err(self.wrong_shape("[n] or [n, 1] with n from 1")),
        }
    }

    /// The strings of bytes of a tensor of `n`, each handed to `take` with its place.
    ///
    /// # Errors
    /// 400 when there are not `n`; those of `take`.
    pub(super) fn each(
        &self,
        n: usize,
        mut take: impl FnMut(usize, Element<'_>) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        let wrong_count =
            || about(&self.name, format_args!("has another number of elements than its shape says, which is {n}"));
        match &self.data {
            Data::Json(data) => {
                // One more than the shape says, so that too many are told from as many.
                let elements =
                    data.elements(&self.name, n).map_err(|_| wrong_count())?.ok_or_else(|| self.no_list(data))?;
                if elements.len() != n {
                    return Err(wrong_count());
                }
                for (index, element) in elements.into_iter().enumerate() {
                    let alone = Items::of(element).elements(&self.name, 1).map_err(|_| wrong_count())?;
                    let element = alone.and_then(|alone| alone.first().copied()).unwrap_or(element);
                    take(index, Element::Json(Items::of(element)))?;
                }
                Ok(())
            }
            Data::Binary(bytes) => {
                let mut rest = bytes.clone();
                for index in 0..n {
                    let cut_short = || {
                        about(
                            &self.name,
                            format_args!(
                                "ends in its element {index} of {n}; BYTES are four bytes of length, little-endian, before each element"
                            ),
                        )
                    };
                    let len = rest.split_at_checked(4).ok_or_else(cut_short)?.0;
                    let len = len.try_into().map_or(usize::MAX, |len| u32::from_le_bytes(len) as usize);
                    let _length = rest.split_to(4);
                    if len > rest.len() {
                        return Err(cut_short());
                    }
                    take(index, Element::Binary(rest.split_to(len)))?;
                }
                if rest.is_empty() { Ok(()) } else { Err(wrong_count()) }
            }
        }
    }

    /// The elements of a tensor of numbers, with their room.
    ///
    /// # Errors
    /// 400 when they are not as many as the shape says, or no such numbers; 413 and 429 as [`Claim::reserve`].
    pub(super) fn numbers<T: Number>(&self, claim: &mut Claim<'_>) -> Result<(Vec<T>, Reservation), ApiError> {
        let n = count(&self.shape).unwrap_or(usize::MAX);
        let bytes = n.checked_mul(size_of::<T>());
        let wrong_count = |found: &dyn fmt::Display| {
            about(
                &self.name,
                format_args!("has {found}, its shape {:?} takes {n} numbers of {}", self.shape, T::DATATYPE),
            )
        };
        match &self.data {
            Data::Binary(data) => {
                if bytes != Some(data.len()) {
                    return Err(wrong_count(&format_args!("{} bytes", data.len())));
                }
                let room = claim.reserve(data.len())?;
                Ok((data.chunks_exact(size_of::<T>()).map(T::of_bytes).collect(), room))
            }
            Data::Json(data) => {
                if !data.value().is_list() {
                    return Err(self.no_list(data));
                }
                // Every number is a character and a comma, or a bracket, at least: so many cannot stand there.
                if n > data.value().get().len() {
                    return Err(wrong_count(&"fewer"));
                }
                let room = claim.reserve(bytes.unwrap_or(usize::MAX))?;
                let (mut values, mut too_many) = (Vec::with_capacity(n), false);
                let flat = Flat { values: &mut values, n, too_many: &mut too_many };
                let read = flat.deserialize(&mut serde_json::Deserializer::from_str(data.value().get()));
                if too_many {
                    return Err(wrong_count(&"more"));
                }
                read.map_err(|_| {
                    about(&self.name, format_args!("has data that is no list of numbers of {}", T::DATATYPE))
                })?;
                if values.len() < n {
                    return Err(wrong_count(&values.len()));
                }
                Ok((values, room))
            }
        }
    }
}

/// One element of a tensor of BYTES.
#[derive(Debug)]
pub(super) enum Element<'a> {
    /// A value of JSON.
    Json(Items<'a>),
    /// The bytes.
    Binary(Bytes),
}

/// A number of a tensor.
pub(super) trait Number: Sized {
    /// As the protocol calls it.
    const DATATYPE: &'static str;

    /// From as many bytes as it has, little-endian.
    fn of_bytes(bytes: &[u8]) -> Self;

    /// From an integer of JSON.
    fn of_integer(value: i64) -> Option<Self>;

    /// From a number with a fraction or an exponent.
    fn of_float(value: f64) -> Option<Self>;
}

impl Number for i64 {
    const DATATYPE: &'static str = "INT64";

    fn of_bytes(bytes: &[u8]) -> Self {
        bytes.try_into().map_or(0, Self::from_le_bytes)
    }

    fn of_integer(value: i64) -> Option<Self> {
        Some(value)
    }

    fn of_float(_value: f64) -> Option<Self> {
        None
    }
}

impl Number for f32 {
    const DATATYPE: &'static str = "FP32";

    fn of_bytes(bytes: &[u8]) -> Self {
        bytes.try_into().map_or(0.0, Self::from_le_bytes)
    }

    fn of_integer(value: i64) -> Option<Self> {
        Some(value as Self)
    }

    fn of_float(value: f64) -> Option<Self> {
        Some(value as Self)
    }
}

/// The numbers of nested lists, one after the other, up to `n`.
struct Flat<'v, T> {
    values: &'v mut Vec<T>,
    n: usize,
    too_many: &'v mut bool,
}

impl<T: Number> Flat<'_, T> {
    fn push<E: serde::de::Error>(self, value: Option<T>) -> Result<(), E> {
        let value = value.ok_or_else(|| E::custom("another type"))?;
        if self.values.len() == self.n {
            *self.too_many = true;
            return Err(E::custom("too many"));
        }
        self.values.push(value);
        Ok(())
    }
}

impl<'de, T: Number> DeserializeSeed<'de> for Flat<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Number> Visitor<'de> for Flat<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers")
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.push(T::of_integer(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        let value = i64::try_from(value).map_or_else(|_| T::of_float(value as f64), T::of_integer);
        self.push(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.push(T::of_float(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { values, n, too_many } = self;
        while seq.next_element_seed(Flat { values: &mut *values, n, too_many: &mut *too_many })?.is_some() {
            if *too_many {
                return Err(A::Error::custom("too many"));
            }
        }
        Ok(())
    }
}
