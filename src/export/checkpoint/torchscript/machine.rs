//! The machine that a module's pickle is a program for.
//!
//! Owns walking it over an arena of what it pushes: a class is only a name, and an object its attributes. Does not know where storages lie.
//!
//! Invariant: the arena and the names are bounded by the pickle, which is by `MAX_PICKLE`.

use std::collections::HashMap;

use super::super::{
    instructions::{Instruction, MAX_INSTRUCTIONS, Pickle},
    pickle_globals::check_global,
    stored::Element,
};

/// Modules in modules: OpenAI's blocks have six.
const MAX_DEPTH: usize = 32;
/// Attributes of all modules together, those of a module that is in two places counted twice. Each of OpenAI's has about five.
const MAX_ATTRIBUTES: usize = 1 << 16;
/// Bytes of a tensor's whole name, and of a storage's key.
const MAX_NAME: usize = 256;
/// Dimensions of a tensor: CLIP's have four.
const MAX_RANK: usize = 8;

/// What the pickle pushes: an index into [`Machine::nodes`].
pub(super) type Id = usize;

/// One thing that the pickle describes.
enum Node<'a> {
    /// Nothing that weights depend on.
    Other,
    Int(i64),
    Text(&'a [u8]),
    Global {
        module: &'a [u8],
        name: &'a [u8],
    },
    /// What is in a tuple, a list, or (its keys and values in turn) a dictionary.
    Items(Vec<Id>),
    Storage(Storage),
    Tensor(Tensor),
    /// A module, or another object; its attributes, once it has them.
    Object(Option<Id>),
}

#[derive(Clone)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) element: Element,
}

#[derive(Clone)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    /// In elements, from the storage's first to the tensor's.
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    /// Elements from one to the next along each dimension.
    pub(super) strides: Vec<usize>,
}

/// The machine that a pickle is a program for.
#[derive(Default)]
pub(super) struct Machine<'a> {
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// How much was on the stack at each mark.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// Walks the pickle; what it describes.
    pub(super) fn run(&mut self, bytes: &'a [u8]) -> Result<Id, String> {
        let mut pickle = Pickle::new(bytes);
        for _ in 0..MAX_INSTRUCTIONS {
            match pickle.instruction()? {
                Instruction::End => return self.pop(),
                instruction => self.step(instruction)?,
            }
        }
        Err(format!(
            "its data.pkl has more than {MAX_INSTRUCTIONS} instructions, and weights take some thirty a tensor"
        ))
    }

    fn step(&mut self, instruction: Instruction<'a>) -> Result<(), String> {
        let node = match instruction {
            Instruction::Nothing | Instruction::End => return Ok(()),
            Instruction::Global { module, name } => {
                // The module's own classes, and what tells the types of lists.
                if !module.starts_with(b"__torch__") && module != b"torch.jit._pickle" {
                    check_global(module, name)?;
                }
                Node::Global { module, name }
            }
            Instruction::Text(text) => Node::Text(text),
            Instruction::Int(number) => number.map_or(Node::Other, Node::Int),
            Instruction::Constant => Node::Other,
            Instruction::Empty => Node::Items(Vec::new()),
            Instruction::Memo(key) => {
                let top = *self.stack.last().ok_or_else(short)?;
                self.memo.insert(key.unwrap_or(self.memo.len() as u64), top);
                return Ok(());
            }
            Instruction::Recall(key) => {
                let known = *self.memo.get(&key).ok_or("it recalls what it has not kept")?;
                self.stack.push(known);
                return Ok(());
            }
            Instruction::Mark => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            Instruction::TupleFromMark => Node::Items(self.since_mark()?),
            Instruction::Tuple(count) => Node::Items(self.last(count)?),
            Instruction::SetItems | Instruction::Appends => {
                let items = self.since_mark()?;
                return self.add(items);
            }
            Instruction::SetItem => {
                let items = self.last(2)?;
                return self.add(items);
            }
            Instruction::Append => {
                let items = self.last(1)?;
                return self.add(items);
            }
            Instruction::Call => {
                let arguments = self.pop()?;
                let callee = self.pop()?;
                match self.call(callee, arguments)? {
                    Called::Made(node) => node,
                    Called::Known(id) => {
                        self.stack.push(id);
                        return Ok(());
                    }
                }
            }
            Instruction::Build => {
                let state = self.pop()?;
                let top = *self.stack.last().ok_or_else(short)?;
                if let Some(Node::Object(attributes)) = self.nodes.get_mut(top) {
                    *attributes = Some(state);
                }
                return Ok(());
            }
            Instruction::Persistent => {
                let id = self.pop()?;
                Node::Storage(self.storage(id).ok_or("it names something outside that is no storage")?)
            }
            Instruction::StackGlobal | Instruction::OtherFromMark | Instruction::Other => {
                return Err("it has an instruction that torch.jit.save does not write".to_owned());
            }
        };
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, String> {
        self.stack.pop().ok_or_else(short)
    }

    fn last(&mut self, count: usize) -> Result<Vec<Id>, String> {
        let start = self.stack.len().checked_sub(count).ok_or_else(short)?;
        Ok(self.stack.split_off(start))
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let start = self.marks.pop().filter(|&start| start <= self.stack.len()).ok_or_else(short)?;
        Ok(self.stack.split_off(start))
    }

    /// Into the list or dictionary that is now on top.
    fn add(&mut self, more: Vec<Id>) -> Result<(), String> {
        let top = *self.stack.last().ok_or_else(short)?;
        if let Some(Node::Items(items)) = self.nodes.get_mut(top) {
            items.extend(more);
        }
        Ok(())
    }

    fn call(&self, callee: Id, arguments: Id) -> Result<Called<'a>, String> {
        let Some(&Node::Global { module, name }) = self.nodes.get(callee) else {
            return Err("it calls something that is no global".to_owned());
        };
        Ok(match (module, name) {
            (b"torch._utils", b"_rebuild_tensor" | b"_rebuild_tensor_v2") => {
                let tensor = self.tensor(arguments);
                Called::Made(Node::Tensor(tensor.ok_or("a tensor in it has no storage, sizes or strides")?))
            }
            // A list or dictionary, and the name of its type.
            (b"torch.jit._pickle", b"restore_type_tag") => match self.items(arguments) {
                Some([value, _]) => Called::Known(*value),
                _ => Called::Made(Node::Other),
            },
            (module, _) if module.starts_with(b"__torch__") => Called::Made(Node::Object(None)),
            _ => Called::Made(Node::Other),
        })
    }

    fn items(&self, id: Id) -> Option<&[Id]> {
        match self.nodes.get(id)? {
            Node::Items(items) => Some(items),
            _ => None,
        }
    }

    fn text(&self, id: Id) -> Option<&'a [u8]> {
        match self.nodes.get(id)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        let items = self.items(id).filter(|items| items.len() <= MAX_RANK)?;
        items.iter().map(|&id| self.int(id)?.try_into().ok()).collect()
    }

    fn int(&self, id: Id) -> Option<i64> {
        match self.nodes.get(id)? {
            Node::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// Of `("storage", its class, its key, its device, its length)`.
    fn storage(&self, id: Id) -> Option<Storage> {
        let [kind, class, key, ..] = *self.items(id)? else { return None };
        let (b"storage", Node::Global { module: b"torch", name }) = (self.text(kind)?, self.nodes.get(class)?) else {
            return None;
        };
        let element = match *name {
            b"FloatStorage" => Element::F32,
            b"HalfStorage" => Element::F16,
            b"BFloat16Storage" => Element::BF16,
            other => Element::Other(String::from_utf8_lossy(other).replace("Storage", "")),
        };
        let key = self.text(key).filter(|key| key.len() <= MAX_NAME)?;
        Some(Storage { key: String::from_utf8(key.to_vec()).ok()?, element })
    }

    /// Of `(storage, offset, sizes, strides, ..)`.
    fn tensor(&self, arguments: Id) -> Option<Tensor> {
        let [storage, offset, sizes, strides, ..] = *self.items(arguments)? else { return None };
        let Node::Storage(storage) = self.nodes.get(storage)? else { return None };
        let (shape, strides) = (self.sizes(sizes)?, self.sizes(strides)?);
        let offset = self.int(offset)?.try_into().ok()?;
        (shape.len() == strides.len()).then(|| Tensor { storage: storage.clone(), offset, shape, strides })
    }

    /// The tensors among the attributes of `root` and of the modules in it, each with its name.
    pub(super) fn tensors(&self, root: Id) -> Result<Vec<(String, &Tensor)>, String> {
        let (mut found, mut visited) = (Vec::new(), 0);
        let mut left = vec![(root, String::new(), 0)];
        while let Some((object, prefix, depth)) = left.pop() {
            let Some(Node::Object(Some(state))) = self.nodes.get(object) else { continue };
            let attributes = self.items(*state).unwrap_or_default();
            for pair in attributes.as_chunks().0 {
                let &[key, value] = pair;
                visited += 1;
                if visited > MAX_ATTRIBUTES || depth > MAX_DEPTH {
                    return Err(format!(
                        "its modules have more than {MAX_ATTRIBUTES} attributes, or lie more than {MAX_DEPTH} deep"
                    ));
                }
                let node = self.nodes.get(value);
                if !matches!(node, Some(Node::Tensor(_) | Node::Object(_))) {
                    continue;
                }
                let key = self.text(key).and_then(|key| std::str::from_utf8(key).ok());
                let key = key.ok_or("an attribute in it has no name")?;
                let dot = if prefix.is_empty() { "" } else { "." };
                let name = format!("{prefix}{dot}{key}");
                if name.len() > MAX_NAME {
                    return Err(format!("an attribute in it has a name of more than {MAX_NAME} bytes"));
                }
                match node {
                    Some(Node::Tensor(tensor)) => found.push((name, tensor)),
                    _ => left.push((value, name, depth + 1)),
                }
            }
        }
        Ok(found)
    }
}

/// What a call gives.
enum Called<'a> {
    Made(Node<'a>),
    Known(Id),
}

fn short() -> String {
    "it takes from its stack what is not there".to_owned()
}
