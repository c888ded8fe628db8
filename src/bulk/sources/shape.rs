//! What Thrift may look like in a Parquet file: the structs of `parquet.thrift`, and walking bytes by them.
//!
//! Owns the shapes and the walk. Does not own what of it is wanted (`footer`, `pages`).
//!
//! Invariants: a field that is known has its own type, and fields come in ascending order, so that none comes twice. The crate `parquet`
//! takes a field by its number, whatever type is written beside it, and by the last of several: what has another shape would be read
//! differently there than here, and what is checked here would not be what is read.

use thrift::protocol::{TInputProtocol, TType};

/// Structs in structs that are followed in a field nobody knows. `parquet.thrift` has five.
const MAX_UNKNOWN_DEPTH: u32 = 16;

/// The fields of a struct.
pub(super) type Fields = &'static [(i16, Shape)];

/// What a field is.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Bool,
    I08,
    I16,
    I32,
    I64,
    Double,
    Bytes,
    List(&'static Shape),
    Struct(Fields),
}

use Shape::{Bool, Bytes, Double, I08, I16, I32, I64, List, Struct};

impl Shape {
    fn kind(self) -> TType {
        match self {
            Bool => TType::Bool,
            I08 => TType::I08,
            I16 => TType::I16,
            I32 => TType::I32,
            I64 => TType::I64,
            Double => TType::Double,
            Bytes => TType::String,
            List(_) => TType::List,
            Struct(_) => TType::Struct,
        }
    }
}

const NOTHING: Shape = Struct(&[]);
const I32_LIST: Shape = List(&I32);
const I64_LIST: Shape = List(&I64);
const KEY_VALUES: Shape = List(&Struct(&[(1, Bytes), (2, Bytes)]));

const TIME: Shape = Struct(&[(1, Bool), (2, Struct(&[(1, NOTHING), (2, NOTHING), (3, NOTHING)]))]);
const LOGICAL_TYPE: Shape = Struct(&[
    (1, NOTHING),
    (2, NOTHING),
    (3, NOTHING),
    (4, NOTHING),
    (5, Struct(&[(1, I32), (2, I32)])),
    (6, NOTHING),
    (7, TIME),
    (8, TIME),
    (10, Struct(&[(1, I08), (2, Bool)])),
    (11, NOTHING),
    (12, NOTHING),
    (13, NOTHING),
    (14, NOTHING),
    (15, NOTHING),
    (16, Struct(&[(1, I08)])),
    (17, Struct(&[(1, Bytes)])),
    (18, Struct(&[(1, Bytes), (2, I32)])),
]);

/// `SchemaElement`.
pub(super) const SCHEMA_ELEMENT: Fields =
    &[(1, I32), (2, I32), (3, I32), (4, Bytes), (5, I32), (6, I32), (7, I32), (8, I32), (9, I32), (10, LOGICAL_TYPE)];

const STATISTICS: Shape =
    Struct(&[(1, Bytes), (2, Bytes), (3, I64), (4, I64), (5, Bytes), (6, Bytes), (7, Bool), (8, Bool), (9, I64)]);
const BOX: Shape =
    Struct(&[(1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double)]);
const COLUMN: Shape = Struct(&[
    (1, I32),
    (2, I32_LIST),
    (3, List(&Bytes)),
    (4, I32),
    (5, I64),
    (6, I64),
    (7, I64),
    (8, KEY_VALUES),
    (9, I64),
    (10, I64),
    (11, I64),
    (12, STATISTICS),
    (13, List(&Struct(&[(1, I32), (2, I32), (3, I32)]))),
    (14, I64),
    (15, I32),
    (16, Struct(&[(1, I64), (2, I64_LIST), (3, I64_LIST)])),
    (17, Struct(&[(1, BOX), (2, I32_LIST)])),
]);
const CHUNK: Shape = Struct(&[(1, Bytes), (2, I64), (3, COLUMN), (4, I64), (5, I32), (6, I64), (7, I32)]);

/// `RowGroup`.
pub(super) const ROW_GROUP: Shape = Struct(&[
    (1, List(&CHUNK)),
    (2, I64),
    (3, I64),
    (4, List(&Struct(&[(1, I32), (2, Bool), (3, Bool)]))),
    (5, I64),
    (6, I64),
    (7, I16),
]);

/// `FileMetaData`.
pub(super) const FILE: Fields = &[
    (1, I32),
    (2, List(&Struct(SCHEMA_ELEMENT))),
    (3, I64),
    (4, List(&ROW_GROUP)),
    (5, KEY_VALUES),
    (6, Bytes),
    (7, List(&Struct(&[(1, NOTHING), (2, NOTHING)]))),
];

/// `DataPageHeader`.
pub(super) const DATA_PAGE: Fields = &[(1, I32), (2, I32), (3, I32), (4, I32), (5, STATISTICS)];
/// `DataPageHeaderV2`.
pub(super) const DATA_PAGE_V2: Fields =
    &[(1, I32), (2, I32), (3, I32), (4, I32), (5, I32), (6, I32), (7, Bool), (8, STATISTICS)];
/// `PageHeader`.
pub(super) const PAGE: Fields = &[
    (1, I32),
    (2, I32),
    (3, I32),
    (4, I32),
    (5, Struct(DATA_PAGE)),
    (6, NOTHING),
    (7, Struct(&[(1, I32), (2, I32), (3, Bool)])),
    (8, Struct(DATA_PAGE_V2)),
];

/// Walks a struct. `read` is given the number of every field that is known, and answers whether it has read it.
///
/// # Errors
/// When the bytes are no such struct, or `read` says so.
pub(super) fn each_field<P: TInputProtocol>(
    protocol: &mut P,
    fields: Fields,
    read: &mut dyn FnMut(&mut P, i16) -> thrift::Result<bool>,
) -> thrift::Result<()> {
    protocol.read_struct_begin()?;
    let mut last = 0;
    loop {
        let field = protocol.read_field_begin()?;
        if field.field_type == TType::Stop {
            return protocol.read_struct_end();
        }
        let id = field.id.unwrap_or_default();
        if id <= last {
            return Err(thrift::Error::from("a field comes twice, or out of its order"));
        }
        last = id;
        match fields.iter().find(|(known, _)| *known == id) {
            Some((_, shape)) if shape.kind() != field.field_type => {
                return Err(thrift::Error::from("a field has another type than its own"));
            }
            Some((_, shape)) => {
                if !read(protocol, id)? {
                    walk(protocol, *shape)?;
                }
            }
            None => pass(protocol, field.field_type, MAX_UNKNOWN_DEPTH)?,
        }
        protocol.read_field_end()?;
    }
}

/// Begins a list of structs; answers how many they are.
///
/// # Errors
/// When it is none.
pub(super) fn structs(protocol: &mut impl TInputProtocol) -> thrift::Result<usize> {
    list(protocol, TType::Struct)
}

/// Walks past what has this shape.
///
/// # Errors
/// When it has not.
pub(super) fn walk<P: TInputProtocol>(protocol: &mut P, shape: Shape) -> thrift::Result<()> {
    match shape {
        Bool => protocol.read_bool().map(drop),
        I08 => protocol.read_i8().map(drop),
        I16 => protocol.read_i16().map(drop),
        I32 => protocol.read_i32().map(drop),
        I64 => protocol.read_i64().map(drop),
        Double => protocol.read_double().map(drop),
        Bytes => protocol.skip(TType::String),
        List(element) => {
            for _ in 0..list(protocol, element.kind())? {
                walk(protocol, *element)?;
            }
            protocol.read_list_end()
        }
        Struct(fields) => each_field(protocol, fields, &mut |_, _| Ok(false)),
    }
}

fn list(protocol: &mut impl TInputProtocol, kind: TType) -> thrift::Result<usize> {
    let list = protocol.read_list_begin()?;
    // Some writers give an empty list no type.
    if list.size != 0 && list.element_type != kind {
        return Err(thrift::Error::from("a list has other elements than its own"));
    }
    usize::try_from(list.size).map_err(|_| thrift::Error::from("a negative size"))
}

/// Passes a field that is not known. Of the collections lists alone, and none of booleans, which the crate `parquet` passes as if they
/// had no bytes.
fn pass(protocol: &mut impl TInputProtocol, kind: TType, depth: u32) -> thrift::Result<()> {
    let deeper = || depth.checked_sub(1).ok_or_else(|| thrift::Error::from("structs are too deep"));
    match kind {
        TType::Struct => {
            let depth = deeper()?;
            protocol.read_struct_begin()?;
            loop {
                let field = protocol.read_field_begin()?;
                if field.field_type == TType::Stop {
                    return protocol.read_struct_end();
                }
                pass(protocol, field.field_type, depth)?;
            }
        }
        TType::List => {
            let depth = deeper()?;
            let list = protocol.read_list_begin()?;
            if list.element_type == TType::Bool {
                return Err(thrift::Error::from("a list of booleans"));
            }
            for _ in 0..list.size {
                pass(protocol, list.element_type, depth)?;
            }
            protocol.read_list_end()
        }
        TType::Set | TType::Map => Err(thrift::Error::from("a set or a map, which Parquet has not")),
        _ => protocol.skip(kind),
    }
}
