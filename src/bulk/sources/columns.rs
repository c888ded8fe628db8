//! Which columns of a Parquet file are its pictures, texts and ids, and what of them is read.
//!
//! Owns the choice, by name and type. Does not own reading them (`batches`) or what is in a cell (`cells`).
//!
//! Invariants: what is in no row of the output is not read; strings are read as bytes, since the crate `parquet` fails a whole batch for one that is
//! not UTF-8.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use parquet::{
    arrow::parquet_to_arrow_schema,
    basic::Type as Physical,
    errors::Result as ParquetResult,
    file::metadata::{FileMetaData, ParquetMetaData},
    schema::types::{SchemaDescriptor, Type, TypePtr},
};

use super::{
    footer::contained,
    records::{ID, TEXT},
};
use crate::bulk::options::{self, Modalities};

/// A column among those of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Its place.
    pub(super) root: usize,
    name: String,
    data_type: DataType,
}

impl Column {
    /// Whether its cells are paths of pictures, not pictures.
    pub(super) fn is_path(&self) -> bool {
        self.data_type == DataType::Utf8
    }
}

/// The columns that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) image: Option<Column>,
    pub(super) text: Option<Column>,
    pub(super) id: Option<Column>,
}

impl Columns {
    /// Those of the file that are asked for by name or by what is embedded.
    ///
    /// # Errors
    /// One line: it lacks one, or several may be it.
    pub(super) fn find(
        metadata: &ParquetMetaData,
        modality: Modalities,
        asked: &options::Columns,
    ) -> Result<Self, String> {
        let schema = contained(|| parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), None))?;
        let image = image(&schema, asked.image.as_deref())?;
        let text = string(&schema, asked.text.as_deref(), "--text-column", &TEXT)?;
        let id = id(&schema, asked.id.as_deref())?;
        if image.is_none() && modality.has_images() {
            return Err(format!(
                "it has no column of pictures (a binary, or a struct of bytes and path) among {}; name one by --image-column, or \
                 embed its texts by --modality text",
                names(&schema)
            ));
        }
        if text.is_none() && modality.has_texts() {
            let usual = TEXT.join(", ");
            return Err(format!("it has no string column {usual} among {}; name one by --text-column", names(&schema)));
        }
        let column = |root: usize| {
            let field = schema.field(root);
            Column { root, name: field.name().clone(), data_type: field.data_type().clone() }
        };
        Ok(Self {
            image: image.filter(|_| modality.has_images()).map(column),
            // Where pictures alone are embedded it stands beside them, as the caption.
            text: text.map(column),
            id: id.map(column),
        })
    }

    /// Their places in the order of the file, which is that of a batch.
    pub(super) fn roots(&self) -> Vec<usize> {
        let mut roots: Vec<_> =
            [&self.image, &self.text, &self.id].into_iter().flatten().map(|column| column.root).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// The leaves of the file that are read for them: of a struct its `bytes` and, if it is a string, its `path`.
    pub(super) fn leaves(&self, schema: &SchemaDescriptor) -> Vec<usize> {
        let all = [&self.image, &self.text, &self.id];
        let is_read = |leaf: &usize| {
            let root = schema.get_column_root_idx(*leaf);
            all.into_iter().flatten().any(|column| {
                column.root == root
                    && match &column.data_type {
                        DataType::Struct(fields) => match schema.column(*leaf).path().parts() {
                            [_, field] if field == "bytes" => true,
                            [_, field] if field == "path" => {
                                fields.find("path").is_some_and(|(_, path)| *path.data_type() == DataType::Utf8)
                            }
                            _ => false,
                        },
                        _ => true,
                    }
            })
        };
        (0..schema.num_columns()).filter(is_read).collect()
    }

    /// `metadata` of the same file, where the strings of these columns are binaries.
    ///
    /// # Errors
    /// One line.
    pub(super) fn as_binaries(&self, metadata: ParquetMetaData) -> Result<ParquetMetaData, String> {
        let roots = self.roots();
        contained(|| -> ParquetResult<_> {
            let file = metadata.file_metadata();
            let schema = file.schema_descr().root_schema();
            let columns =
                schema.get_fields().iter().enumerate().map(|(root, column)| {
                    if roots.contains(&root) { as_binary(column) } else { Ok(Arc::clone(column)) }
                });
            let columns = columns.collect::<ParquetResult<Vec<_>>>()?;
            let schema = Type::group_type_builder(schema.name()).with_fields(columns).build()?;
            let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
            let file = FileMetaData::new(file.version(), file.num_rows(), None, None, schema, None);
            let groups = metadata.into_builder().take_row_groups();
            Ok(ParquetMetaData::new(file, groups))
        })
    }
}

fn as_binary(column: &TypePtr) -> ParquetResult<TypePtr> {
    let info = column.get_basic_info();
    let id = info.has_id().then(|| info.id());
    if column.is_group() {
        // Its strings, no deeper: that is all that is read of it.
        let plain = |field: &TypePtr| if field.is_primitive() { as_binary(field) } else { Ok(Arc::clone(field)) };
        let fields = column.get_fields().iter().map(plain).collect::<ParquetResult<Vec<_>>>()?;
        let group = Type::group_type_builder(column.name())
            .with_repetition(info.repetition())
            .with_converted_type(info.converted_type())
            .with_logical_type(info.logical_type_ref().cloned())
            .with_fields(fields)
            .with_id(id);
        return group.build().map(Arc::new);
    }
    if column.get_physical_type() != Physical::BYTE_ARRAY {
        return Ok(Arc::clone(column));
    }
    let binary = Type::primitive_type_builder(column.name(), Physical::BYTE_ARRAY);
    binary.with_repetition(info.repetition()).with_id(id).build().map(Arc::new)
}

fn names(schema: &Schema) -> String {
    schema
        .fields()
        .iter()
        .map(|field| format!("{} ({})", field.name(), field.data_type()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The column that is asked for, if it is one that `is` is true of.
fn asked(schema: &Schema, name: &str, flag: &str, what: &str, is: impl Fn(&Field) -> bool) -> Result<usize, String> {
    match schema.column_with_name(name) {
        Some((place, field)) if is(field) => Ok(place),
        Some((_, field)) => Err(format!("{flag} {name}: the column is {}, expected {what}", field.data_type())),
        None => Err(format!("{flag} {name}: there is no such column among {}", names(schema))),
    }
}

fn image(schema: &Schema, name: Option<&str>) -> Result<Option<usize>, String> {
    let has_bytes = |field: &Field| match field.data_type() {
        DataType::Binary => true,
        DataType::Struct(fields) => {
            fields.find("bytes").is_some_and(|(_, bytes)| *bytes.data_type() == DataType::Binary)
        }
        _ => false,
    };
    if let Some(name) = name {
        let is = |field: &Field| has_bytes(field) || *field.data_type() == DataType::Utf8;
        return asked(schema, name, "--image-column", "a binary, a struct of bytes and path, or a string", is)
            .map(Some);
    }
    let found: Vec<_> = schema.fields().iter().enumerate().filter(|(_, field)| has_bytes(field)).collect();
    match found[..] {
        [] => Ok(None),
        [(place, _)] => Ok(Some(place)),
        [..] => {
            let names: Vec<_> = found.iter().map(|(_, field)| field.name().as_str()).collect();
            Err(format!("several columns may be its pictures ({}); name one by --image-column", names.join(", ")))
        }
    }
}

fn string(schema: &Schema, name: Option<&str>, flag: &str, usual: &[&str]) -> Result<Option<usize>, String> {
    let is = |field: &Field| *field.data_type() == DataType::Utf8;
    if let Some(name) = name {
        return asked(schema, name, flag, "a string", is).map(Some);
    }
    let found = usual.iter().find_map(|name| schema.column_with_name(name).filter(|(_, field)| is(field)));
    Ok(found.map(|(place, _)| place))
}

fn id(schema: &Schema, name: Option<&str>) -> Result<Option<usize>, String> {
    let is = |field: &Field| *field.data_type() == DataType::Utf8 || field.data_type().is_integer();
    if let Some(name) = name {
        return asked(schema, name, "--id-column", "a string or an integer", is).map(Some);
    }
    let found = ID.iter().find_map(|name| schema.column_with_name(name).filter(|(_, field)| is(field)));
    Ok(found.map(|(place, _)| place))
}
