//! The container that Flax writes: msgpack, maps in maps whose leaves are arrays.
//!
//! Owns walking one, and what Flax makes of msgpack's own extension types: 1 is an array and 3 a scalar of numpy, both of them msgpack
//! themselves, `(shape, type, bytes)`. An array larger than msgpack's limit is a map of its own with the pieces in it. Decoding is
//! `rmp`'s. No weights are read on the way: it is noted where they lie.
//!
//! Invariants: one file has [`MAX_VALUES`] values at most, and names of [`MAX_NAME`] bytes; an array has as many bytes as its shape.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use rmp::{
    Marker,
    decode::{read_array_len, read_bin_len, read_ext_meta, read_int, read_map_len, read_str_len},
};

use super::stored::{Element, Stored};
use crate::export::error::ExportError;

/// Values in a file, keys aside: a ViT-bigG/14 with its optimizer's state has some 6 000 arrays.
const MAX_VALUES: usize = 1 << 16;
/// Maps and arrays within one another.
const MAX_DEPTH: usize = 32;
/// Bytes of the keys that lead to an array, with a dot between any two.
const MAX_NAME: usize = 512;
/// Dimensions of an array.
const MAX_DIMENSIONS: u32 = 8;
/// Extension types of Flax.
const ARRAY: i8 = 1;
const SCALAR: i8 = 3;
/// The key that says that a map is an array in pieces.
const CHUNKED: &str = "__msgpack_chunked_array__";

/// The arrays of one file, by the path of keys that leads to each, joined by dots.
pub(super) fn open(path: &Path) -> Result<Vec<(String, Stored)>, ExportError> {
    let file = File::open(path).map_err(ExportError::io(path))?;
    let size = file.metadata().map_err(ExportError::io(path))?.len();
    let malformed = |reason: String| ExportError::malformed(path, format!("not weights by Flax: {reason}"));
    let handle = Arc::new(file.try_clone().map_err(ExportError::io(path))?);
    let mut walk = Walk { reader: BufReader::new(file), size, values: 0 };
    let root = walk.whole().map_err(malformed)?;
    let mut arrays = BTreeMap::new();
    flatten(String::new(), root, &mut arrays).map_err(malformed)?;
    let path = Arc::new(PathBuf::from(path));
    let stored = |array: Array| Stored::within(&path, &handle, array.element, array.shape, array.parts);
    Ok(arrays.into_iter().map(|(name, array)| (name, stored(array))).collect())
}

/// A value, without the bytes of what is large.
enum Value {
    Map(BTreeMap<String, Self>),
    Array(Array),
    /// A whole number, zero or more.
    Number(usize),
    /// Anything else.
    Other,
}

struct Array {
    element: Element,
    shape: Vec<usize>,
    /// Where its bytes are in the file.
    parts: Vec<Range<u64>>,
}

impl Array {
    /// Whether there are as many bytes as the shape has elements.
    fn is_whole(&self) -> bool {
        let size = self.shape.iter().try_fold(self.element.size() as u64, |all, &count| all.checked_mul(count as u64));
        matches!(self.element, Element::Other(_))
            || size == Some(self.parts.iter().map(|part| part.end - part.start).sum())
    }
}

/// A walk through a file, which is `size` bytes long.
struct Walk {
    reader: BufReader<File>,
    size: u64,
    values: usize,
}

impl Walk {
    /// The one value that the file is.
    fn whole(&mut self) -> Result<Value, String> {
        let root = self.value(0)?;
        let end = self.at()?;
        if end != self.size {
            return Err(format!("it goes on behind byte {end}, where the weights end"));
        }
        Ok(root)
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        self.values += 1;
        if self.values > MAX_VALUES || depth > MAX_DEPTH {
            return Err(format!("it has more than {MAX_VALUES} values, or more than {MAX_DEPTH} in one another"));
        }
        match self.marker()? {
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => self.map(depth),
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                for _ in 0..read_array_len(&mut self.reader).map_err(text)? {
                    self.value(depth + 1)?;
                }
                Ok(Value::Other)
            }
            Marker::FixExt1
            | Marker::FixExt2
            | Marker::FixExt4
            | Marker::FixExt8
            | Marker::FixExt16
            | Marker::Ext8
            | Marker::Ext16
            | Marker::Ext32 => self.extension(),
            Marker::FixPos(_) | Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => {
                self.number().map(Value::Number)
            }
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let length = read_str_len(&mut self.reader).map_err(text)?;
                self.skip(length.into())
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                let length = read_bin_len(&mut self.reader).map_err(text)?;
                self.skip(length.into())
            }
            Marker::Null | Marker::True | Marker::False | Marker::FixNeg(_) => self.skip(1),
            Marker::I8 => self.skip(2),
            Marker::I16 => self.skip(3),
            Marker::I32 | Marker::F32 => self.skip(5),
            Marker::I64 | Marker::F64 => self.skip(9),
            Marker::Reserved => Err("it is no msgpack".to_owned()),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, String> {
        let mut map = BTreeMap::new();
        for _ in 0..read_map_len(&mut self.reader).map_err(text)? {
            let key = self.text()?;
            let value = self.value(depth + 1)?;
            if map.contains_key(&key) {
                return Err(format!("the key `{key}` is twice in one map"));
            }
            map.insert(key, value);
        }
        if map.contains_key(CHUNKED) { joined(map).map(Value::Array) } else { Ok(Value::Map(map)) }
    }

    fn extension(&mut self) -> Result<Value, String> {
        let meta = read_ext_meta(&mut self.reader).map_err(text)?;
        let (start, length) = (self.at()?, u64::from(meta.size));
        if length > self.size - start {
            return Err("an array in it ends behind the file".to_owned());
        }
        if ![ARRAY, SCALAR].contains(&meta.typeid) {
            return self.skip(length);
        }
        let array = self.array()?;
        if array.parts.iter().all(|part| part.end == start + length) && array.is_whole() {
            let left = start + length - self.at()?;
            return self.skip(left).map(|_| Value::Array(array));
        }
        Err(format!("an array in it has not as many bytes as its shape, {:?}", array.shape))
    }

    /// `(shape, type, bytes)`; what is read next are the bytes.
    fn array(&mut self) -> Result<Array, String> {
        if read_array_len(&mut self.reader).map_err(text)? != 3 {
            return Err("an array in it is no triple of shape, type and bytes".to_owned());
        }
        let dimensions = read_array_len(&mut self.reader).map_err(text)?;
        if dimensions > MAX_DIMENSIONS {
            return Err(format!("an array in it has {dimensions} dimensions"));
        }
        let shape = (0..dimensions).map(|_| self.number()).collect::<Result<_, _>>()?;
        let element = match &*self.text()? {
            "float32" => Element::F32,
            "float16" => Element::F16,
            "bfloat16" => Element::BF16,
            other => Element::Other(other.to_owned()),
        };
        let length = u64::from(read_bin_len(&mut self.reader).map_err(text)?);
        let start = self.at()?;
        let part = start..start + length;
        Ok(Array { element, shape, parts: vec![part] })
    }

    fn text(&mut self) -> Result<String, String> {
        let length = read_str_len(&mut self.reader).map_err(text)? as usize;
        if length > MAX_NAME {
            return Err(format!("a key in it has {length} bytes"));
        }
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).map_err(text)?;
        String::from_utf8(bytes).map_err(text)
    }

    fn number(&mut self) -> Result<usize, String> {
        read_int(&mut self.reader).map_err(text)
    }

    /// What the next value is; it is not taken yet.
    fn marker(&mut self) -> Result<Marker, String> {
        let next = self.reader.fill_buf().map_err(text)?.first();
        next.map(|&byte| Marker::from_u8(byte)).ok_or_else(|| "it ends too soon".to_owned())
    }

    /// Where the next byte is in the file.
    fn at(&mut self) -> Result<u64, String> {
        self.reader.stream_position().map_err(text)
    }

    fn skip(&mut self, length: u64) -> Result<Value, String> {
        let left = self.size.checked_sub(self.at()?).filter(|&left| length <= left);
        left.ok_or("it ends too soon")?;
        self.reader.seek_relative(length as i64).map_err(text)?;
        Ok(Value::Other)
    }
}

/// The array whose shape and pieces are in `map`, under the texts of the numbers from zero.
fn joined(mut map: BTreeMap<String, Value>) -> Result<Array, String> {
    let fault = || "an array in pieces lacks its shape or a piece".to_owned();
    let mut in_order = |key: &str| -> Result<Vec<Value>, String> {
        let Some(Value::Map(mut values)) = map.remove(key) else { return Err(fault()) };
        (0..values.len()).map(|index| values.remove(&index.to_string()).ok_or_else(fault)).collect()
    };
    let size = |value| if let Value::Number(size) = value { Ok(size) } else { Err(fault()) };
    let shape = in_order("shape")?.into_iter().map(size).collect::<Result<_, _>>()?;
    let mut pieces = in_order("chunks")?
        .into_iter()
        .map(|value| if let Value::Array(piece) = value { Ok(piece) } else { Err(fault()) });
    let mut array = Array { shape, ..pieces.next().ok_or_else(fault)?? };
    for piece in pieces {
        let piece = piece?;
        if piece.element != array.element {
            return Err("the pieces of an array are of several types".to_owned());
        }
        array.parts.extend(piece.parts);
    }
    if array.is_whole() {
        return Ok(array);
    }
    Err(format!("an array in pieces has not as many bytes as its shape, {:?}", array.shape))
}

/// All arrays in `value`, whose own name is `name`.
fn flatten(name: String, value: Value, arrays: &mut BTreeMap<String, Array>) -> Result<(), String> {
    let array = match value {
        Value::Map(map) => {
            for (key, value) in map {
                let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                if name.len() > MAX_NAME {
                    return Err(format!("the keys that lead to an array in it have more than {MAX_NAME} bytes"));
                }
                flatten(name, value, arrays)?;
            }
            return Ok(());
        }
        Value::Array(array) => array,
        Value::Number(_) | Value::Other => {
            Array { element: Element::Other("no array".to_owned()), shape: Vec::new(), parts: Vec::new() }
        }
    };
    if arrays.contains_key(&name) {
        return Err(format!("`{name}` is in it twice"));
    }
    arrays.insert(name, array);
    Ok(())
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use half::bf16;
    use rmp::encode::{
        write_array_len, write_bin, write_bool, write_ext_meta, write_map_len, write_nil, write_str, write_uint,
    };

    use super::*;

    /// `(shape, type, bytes)` as an extension type.
    fn array(out: &mut Vec<u8>, extension: i8, shape: &[u64], element: &str, bytes: &[u8]) {
        let mut inner = Vec::new();
        write_array_len(&mut inner, 3).unwrap();
        write_array_len(&mut inner, shape.len() as u32).unwrap();
        for &count in shape {
            write_uint(&mut inner, count).unwrap();
        }
        write_str(&mut inner, element).unwrap();
        write_bin(&mut inner, bytes).unwrap();
        write_ext_meta(out, inner.len() as u32, extension).unwrap();
        out.extend(inner);
    }

    fn key(out: &mut Vec<u8>, key: &str) {
        write_str(out, key).unwrap();
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn read(bytes: &[u8]) -> Result<BTreeMap<String, Stored>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flax_model.msgpack");
        fs::write(&path, bytes).unwrap();
        open(&path).map(|arrays| arrays.into_iter().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn arrays_of_every_kind_are_found() {
        let mut out = Vec::new();
        write_map_len(&mut out, 4).unwrap();
        key(&mut out, "step");
        write_uint(&mut out, 7).unwrap();
        key(&mut out, "state");
        write_array_len(&mut out, 2).unwrap();
        write_nil(&mut out).unwrap();
        write_str(&mut out, "text").unwrap();
        key(&mut out, "scalar");
        array(&mut out, SCALAR, &[], "bfloat16", &bf16::from_f32(-1.5).to_le_bytes());
        key(&mut out, "layer");
        write_map_len(&mut out, 2).unwrap();
        key(&mut out, "kernel");
        array(&mut out, ARRAY, &[2, 1], "float32", &floats(&[1.0, 2.0]));
        key(&mut out, "bias");
        array(&mut out, ARRAY, &[1], "int32", &[0; 4]);
        let arrays = read(&out).unwrap();
        let names: Vec<&str> = arrays.keys().map(String::as_str).collect();
        assert_eq!(names, ["layer.bias", "layer.kernel", "scalar", "state", "step"]);
        assert_eq!(arrays["layer.kernel"].values().unwrap(), [1.0, 2.0]);
        assert_eq!((&*arrays["scalar"].shape, arrays["scalar"].values().unwrap()), (&[][..], vec![-1.5]));
        assert_eq!(arrays["layer.bias"].element, Element::Other("int32".to_owned()));
        for end in 0..out.len() {
            read(&out[..end]).unwrap_err();
        }
        out.push(0xc0);
        assert!(read(&out).unwrap_err().contains("it goes on"));
    }

    /// A map with one array of three rows in two pieces, of this shape and in this order.
    fn in_pieces(shape: &[u64], pieces: [&str; 2]) -> Vec<u8> {
        let mut out = Vec::new();
        write_map_len(&mut out, 1).unwrap();
        key(&mut out, "table");
        write_map_len(&mut out, 3).unwrap();
        key(&mut out, CHUNKED);
        write_bool(&mut out, true).unwrap();
        key(&mut out, "shape");
        write_map_len(&mut out, shape.len() as u32).unwrap();
        for (index, &count) in shape.iter().enumerate() {
            key(&mut out, &index.to_string());
            write_uint(&mut out, count).unwrap();
        }
        key(&mut out, "chunks");
        write_map_len(&mut out, 2).unwrap();
        for piece in pieces {
            key(&mut out, piece);
            let values: &[f32] = if piece == "0" { &[1.0, 2.0, 3.0, 4.0] } else { &[5.0, 6.0] };
            array(&mut out, ARRAY, &[values.len() as u64], "float32", &floats(values));
        }
        out
    }

    #[test]
    fn an_array_in_pieces_is_one_in_the_order_of_their_numbers() {
        for pieces in [["0", "1"], ["1", "0"]] {
            let table = &read(&in_pieces(&[3, 2], pieces)).unwrap()["table"];
            assert_eq!((&*table.shape, table.values().unwrap()), (&[3, 2][..], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        }
        assert!(read(&in_pieces(&[4, 2], ["0", "1"])).unwrap_err().contains("not as many bytes"));
        assert!(read(&in_pieces(&[3, 2], ["0", "2"])).unwrap_err().contains("lacks its shape or a piece"));
        assert!(read(&in_pieces(&[3, 2], ["0", "0"])).unwrap_err().contains("`0` is twice"));
    }

    #[test]
    fn what_no_weights_are_is_refused_for_its_reason() {
        let one = |shape: &[u64], bytes: &[u8]| {
            let mut out = Vec::new();
            write_map_len(&mut out, 1).unwrap();
            key(&mut out, "a");
            array(&mut out, ARRAY, shape, "float32", bytes);
            out
        };
        let mut twice = Vec::new();
        write_map_len(&mut twice, 2).unwrap();
        key(&mut twice, "a.b");
        array(&mut twice, ARRAY, &[1], "float32", &[0; 4]);
        key(&mut twice, "a");
        write_map_len(&mut twice, 1).unwrap();
        key(&mut twice, "b");
        array(&mut twice, ARRAY, &[1], "float32", &[0; 4]);
        let deep = [[0x81, 0xa1, b'a'].repeat(40), vec![0xc0]].concat();
        let wide = [vec![0xdd, 0xff, 0xff, 0xff, 0xff], vec![0xc0; 70_000]].concat();
        for (bytes, reason) in [
            (one(&[2], &[0; 4]), "not as many bytes"),
            (one(&[u64::MAX, u64::MAX], &[0; 4]), "not as many bytes"),
            (one(&[1; 9], &[0; 4]), "9 dimensions"),
            (twice, "`a.b` is in it twice"),
            (deep, "more than 32 in one another"),
            (wide, "more than 65536 values"),
            (vec![0xdf, 0xff, 0xff, 0xff, 0xff], ""),
            (vec![0xc9, 0xff, 0xff, 0xff, 0xff, 1, 0], "ends behind the file"),
            (vec![0xc1], "no msgpack"),
            (vec![], "ends too soon"),
        ] {
            let error = read(&bytes).unwrap_err();
            assert!(error.contains(reason) && error.contains("not weights by Flax"), "{reason}: {error}");
        }
    }
}
