//! What a pickle asks for by name.
//!
//! A pickle is a program, and a global in it is something of Python's that it wants to call. Nobody calls anything here; but a file that
//! asks for more than weights need was not made to hold weights, and is refused with the name of what it asks for. The globals are those
//! of `torch.load(weights_only=True)` that stand for tensors, numbers and collections.
//!
//! Owns which globals these are, and finding those of a pickle, up to its end. Does not build what the instructions describe.
//!
//! Invariant: work and memory are bounded by `MAX_PICKLE` and [`MAX_INSTRUCTIONS`].

use std::collections::{HashMap, HashSet};

use super::instructions::{Instruction, MAX_INSTRUCTIONS, Pickle};

/// Instructions in one tuple. A tensor has its shape in one, and its reader would copy it each time that the tensor is recalled.
const MAX_TUPLE: usize = 256;
/// How often collections are recalled. Weights share none; their reader would copy each with all that is in it.
const MAX_RECALLS: usize = 64;
/// Bytes of a text: each tensor is given all keys that lead to it.
const MAX_TEXT: usize = 1024;
/// The longest name that is told.
const MAX_NAME: usize = 64;

/// The modules that may be named, and what of them.
const KNOWN: [(&str, &[&str]); 7] = [
    ("collections", &["OrderedDict"]),
    (
        "torch._utils",
        &[
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
        ],
    ),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    ("torch.nn.parameter", &["Parameter"]),
    ("torch.storage", &["UntypedStorage", "TypedStorage", "_TypedStorage", "_UntypedStorage"]),
    ("builtins", &["set", "frozenset"]),
    ("__builtin__", &["set", "frozenset"]),
];
/// Of `torch` itself: its storages, tensors as the oldest versions name them, and the types of elements.
const OF_TORCH: [&str; 36] = [
    "FloatStorage",
    "HalfStorage",
    "BFloat16Storage",
    "DoubleStorage",
    "LongStorage",
    "IntStorage",
    "ShortStorage",
    "CharStorage",
    "ByteStorage",
    "BoolStorage",
    "FloatTensor",
    "HalfTensor",
    "DoubleTensor",
    "LongTensor",
    "IntTensor",
    "ShortTensor",
    "CharTensor",
    "ByteTensor",
    "Size",
    "device",
    "Tensor",
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "bool",
    "strided",
    "contiguous_format",
];

fn is_known(module: &[u8], name: &[u8]) -> bool {
    let has = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
    if module == b"torch" {
        return has(&OF_TORCH);
    }
    KNOWN.iter().any(|(known, names)| known.as_bytes() == module && has(names))
}

/// Walks one pickle from its first byte to its end; what lies behind it.
///
/// # Errors
/// Names the first global that no weights need; or says that this is no pickle, or a longer one than weights have.
pub(super) fn check(bytes: &[u8]) -> Result<&[u8], String> {
    let mut pickle = Pickle::new(bytes);
    // What the last two instructions pushed, as far as they are texts: they name what `STACK_GLOBAL` wants.
    let mut pushed: [Option<&[u8]>; 2] = [None; 2];
    let mut memo: HashMap<u64, Option<&[u8]>> = HashMap::new();
    let mut marks = Vec::new();
    // Whether the last instruction left a collection on top, which of what is kept are some, and how often those were recalled.
    let (mut on_top, mut collections, mut recalls) = (false, HashSet::new(), 0);
    for number in 0..MAX_INSTRUCTIONS {
        let instruction = pickle.instruction()?;
        let is_collection = matches!(
            instruction,
            Instruction::Empty
                | Instruction::SetItem
                | Instruction::SetItems
                | Instruction::Append
                | Instruction::Appends
                | Instruction::OtherFromMark
                | Instruction::Build
        );
        let value = match instruction {
            Instruction::End => return Ok(pickle.rest()),
            Instruction::Nothing => continue,
            Instruction::Memo(key) => {
                let key = key.unwrap_or(memo.len() as u64);
                memo.insert(key, pushed[1]);
                if on_top {
                    collections.insert(key);
                }
                continue;
            }
            Instruction::Global { module, name } => check_global(module, name).map(|()| None)?,
            Instruction::StackGlobal => match pushed {
                [Some(module), Some(name)] => check_global(module, name).map(|()| None)?,
                _ => return Err("it asks for a global whose name it computes".to_owned()),
            },
            Instruction::Text(text) if text.len() > MAX_TEXT => {
                return Err(format!(
                    "a text in it has {} bytes, and the names of weights at most {MAX_TEXT}",
                    text.len()
                ));
            }
            Instruction::Text(text) => Some(text),
            Instruction::Mark => {
                marks.push(number);
                None
            }
            Instruction::TupleFromMark => {
                if marks.pop().is_some_and(|mark| number - mark > MAX_TUPLE) {
                    return Err(format!(
                        "a tuple in it takes more than {MAX_TUPLE} instructions, and shapes are shorter"
                    ));
                }
                None
            }
            Instruction::SetItems | Instruction::Appends | Instruction::OtherFromMark => {
                marks.pop();
                None
            }
            Instruction::Recall(key) => {
                recalls += usize::from(collections.contains(&key));
                if recalls > MAX_RECALLS {
                    return Err(format!(
                        "collections in it are used again more than {MAX_RECALLS} times, and weights share none"
                    ));
                }
                memo.get(&key).copied().flatten()
            }
            _ => None,
        };
        pushed = [pushed[1], value];
        on_top = is_collection;
    }
    Err(format!("a pickle in it has more than {MAX_INSTRUCTIONS} instructions, and weights take some thirty a tensor"))
}

/// # Errors
/// Names the global when no weights need it.
pub(super) fn check_global(module: &[u8], name: &[u8]) -> Result<(), String> {
    if is_known(module, name) {
        return Ok(());
    }
    let global = [module, b".", name].concat();
    let told: String = String::from_utf8_lossy(&global).escape_debug().take(MAX_NAME).collect();
    Err(format!(
        "it asks for the global `{told}`, which weights do not need; save them alone, by \
         torch.save(model.state_dict(), ..) or save_pretrained"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn collections_are_not_used_again_and_again() {
        let again = |times: usize| [b"\x80\x02}q\x00".as_slice(), &b"h\x00".repeat(times), b"."].concat();
        assert!(check(&again(MAX_RECALLS)).is_ok());
        assert!(check(&again(MAX_RECALLS + 1)).unwrap_err().contains("used again"));
        // Other things are: a class, a text.
        let class = [b"\x80\x02ctorch\nFloatStorage\nq\x00".as_slice(), &b"h\x00".repeat(1000), b"."].concat();
        assert!(check(&class).is_ok());
    }

    #[test]
    fn what_weights_need_is_passed_and_what_lies_behind_the_end_is_left() {
        for pickle in [
            &b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01.rest"[..],
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00.rest",
            b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x05torch\x94\x8c\x0cFloatStorage\x94\x93\x94.rest",
            b"(S'torch'\np0\ng0\nS'Size'\n\x93.rest",
            b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.rest",
        ] {
            assert_eq!(check(pickle), Ok(&b"rest"[..]), "{}", pickle.escape_ascii());
        }
    }

    #[test]
    fn another_global_is_named_however_it_is_asked_for() {
        for (pickle, named) in [
            (&b"\x80\x02cmodels.clip\nNet\n)R0}."[..], "`models.clip.Net`"),
            (b"(imodels\nNet\n.", "`models.Net`"),
            (b"\x8c\x06models\x94\x8c\x03Net\x94\x93.", "`models.Net`"),
            (b"\x8c\x06models\x94\x8c\x03Net\x940h\x00h\x01\x93.", "`models.Net`"),
            (b"ctorch\nload\n.", "`torch.load`"),
            (b"ccollections\nOrderedDict.fromkeys\n.", "`collections.OrderedDict.fromkeys`"),
            (b"c\n\x1b[2J\n.", "`.\\u{1b}[2J`"),
            (b"}}\x93.", "computes"),
            (b"\x82\x01.", "number"),
        ] {
            let refused = check(pickle).expect_err("no weights");
            assert!(refused.contains(named), "{}: {refused}", pickle.escape_ascii());
        }
        let long = [b"c".as_slice(), &[b'a'; 10_000], b"\nb\n."].concat();
        assert!(check(&long).expect_err("no weights").len() < 300);
    }

    #[test]
    fn what_is_no_pickle_or_too_much_of_one_is_refused() {
        for pickle in [&b""[..], b"\x80", b"X\xff\xff\xff\xffa", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", b"cnothing"] {
            assert!(check(pickle).expect_err("cut off").contains("cut off"));
        }
        assert!(check(b"\xff").expect_err("unknown").contains("0xff"));
        let tuple = |parts| [&b"("[..], &b"K\x01".repeat(parts), b"t."].concat();
        assert!(check(&tuple(MAX_TUPLE - 1)).is_ok());
        assert!(check(&tuple(MAX_TUPLE)).expect_err("long").contains("tuple"));
        let text = |bytes: usize| [&b"X"[..], &(bytes as u32).to_le_bytes(), &vec![b'a'; bytes], b"."].concat();
        assert!(check(&text(MAX_TEXT)).is_ok());
        assert!(check(&text(MAX_TEXT + 1)).expect_err("long").contains("text"));
        assert!(check(&vec![b'N'; MAX_INSTRUCTIONS + 1]).expect_err("long").contains("instructions"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = check(&bytes);
        }
    }
}
