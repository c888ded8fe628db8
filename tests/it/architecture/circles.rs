//! Files that name each other in a circle.
//!
//! Owns the second rule of direction: what stands in one folder of `src/`, files and folders, names each other one way, as the
//! modules below the crate do; so no files form a circle, and no folders. The same holds for the training scripts. Does not own
//! which way that is.
//!
//! Where a path leads is the file that has the thing, however many `use` it takes to get there: `super::Peers` leads to
//! `connection/peers.rs`, since `http/mod.rs` says `pub use connection::peers::Peers`. Seen are every `use`, and every path with a
//! `::` that begins with `crate`, `super`, `self`, a child, or a name that a `use` has brought. Not seen is what takes no path (a
//! method, a field), what a `*` brings (it leads to the file in front of it), and what a macro makes. Of Python it is the relative
//! imports that are seen, each on a line of its own.
//!
//! Not counted is what only tests have (`#[cfg(test)]`), and what makes a child a part of its parent: `mod child;` and
//! `pub use child::..`. Whatever else a parent names of its children is: then they must not name what is the parent's own. Circles
//! are looked for twice, with and without these, lest a parent that all its children lead to hides a circle among them.
//!
//! Invariant: a circle that is known is in [`KNOWN`] as it is, so that the table shrinks with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use proc_macro2::TokenStream;

use super::{
    SourceFile,
    names::{Import, Module, Name, Named, Target},
    read_tree,
};

/// The circles that are there, by folder: each is to go with the issue that rewrites its files, and none is to come.
const KNOWN: [(&str, &[&str]); 7] = [
    ("onnx/training", &["evaluate", "loop"]),
    ("src/config", &[HEAD, "validate"]),
    ("src/embedder", &["items", HEAD]),
    ("src/model/hub", &["cache", "client", "download", HEAD]),
    (
        "src/preprocess/image",
        &["avif", "bmp", "gif", "heic", "jpeg", "jxl", HEAD, "orientation", "png", "tiff", "webp"],
    ),
    ("src/preprocess/resample", &[HEAD, "nearest"]),
    ("src/tune", &["measure", HEAD]),
];

/// What a folder's own file is called in it, `mod.rs` or the one beside the folder.
const HEAD: &str = "mod";

/// So many `use` lead from one to the next, at most; more are themselves a circle.
const MOST_IMPORTS: usize = 16;

/// By folder: who of what stands in it names whom, and an example of that.
type Edges = BTreeMap<String, BTreeMap<(String, String), String>>;

/// The circles of `edges` that are not `known`, and the `known` ones that are none.
fn violations(edges: &Edges, known: &[(&str, &[&str])]) -> Vec<String> {
    let known: BTreeSet<_> = known.iter().map(|(folder, names)| (*folder, names.iter().copied().collect())).collect();
    let mut found: BTreeSet<(&str, BTreeSet<&str>)> = BTreeSet::new();
    for (folder, edges) in edges {
        let all: Vec<_> = edges.keys().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        let children: Vec<_> = all.iter().copied().filter(|(from, _)| *from != HEAD).collect();
        let circles = circles(&all).into_iter().chain(circles(&children));
        found.extend(circles.map(|circle| (folder.as_str(), circle)));
    }
    let list = |circle: &BTreeSet<&str>| circle.iter().copied().collect::<Vec<_>>().join(", ");
    let mut complaints = Vec::new();
    for (folder, circle) in found.difference(&known) {
        let within = edges[*folder].iter();
        let within = within.filter(|((from, to), _)| circle.contains(from.as_str()) && circle.contains(to.as_str()));
        let how: Vec<_> = within.map(|((from, to), how)| format!("\n  {from} -> {to}: {how}")).collect();
        complaints.push(format!("{folder}: a circle of {}{}", list(circle), how.concat()));
    }
    for (folder, circle) in known.difference(&found) {
        complaints.push(format!("{folder}: {} are listed as a circle and are none", list(circle)));
    }
    complaints
}

/// The circles among `edges`, each as large as it is: all in it lead to each other.
fn circles<'a>(edges: &[(&'a str, &'a str)]) -> BTreeSet<BTreeSet<&'a str>> {
    let reached_from = |start| {
        let mut reached = BTreeSet::new();
        let mut left = vec![start];
        while let Some(at) = left.pop() {
            let next = edges.iter().filter(|(from, _)| *from == at).map(|(_, to)| *to);
            left.extend(next.filter(|to| reached.insert(*to)));
        }
        reached
    };
    let reached: BTreeMap<_, BTreeSet<&str>> = edges.iter().map(|(from, _)| (*from, reached_from(*from))).collect();
    let leads = |from: &str, to: &str| reached.get(from).is_some_and(|reached| reached.contains(to));
    let with = |one: &&'a str| reached.keys().copied().filter(|to| leads(one, to) && leads(to, one)).collect();
    reached.keys().filter(|one| leads(one, one)).map(with).collect()
}

/// The files of the crate, and what each has brought to it.
struct Tree<'a> {
    files: BTreeMap<Module, &'a str>,
    imports: BTreeMap<Module, BTreeMap<String, Target>>,
}

impl Tree<'_> {
    /// Who names whom among `files`.
    fn edges(files: &[SourceFile]) -> Edges {
        let mut tree = Tree { files: BTreeMap::new(), imports: BTreeMap::new() };
        let (mut names, mut test_modules) = (Vec::new(), BTreeSet::new());
        for file in files {
            let module = Module::of(&file.path);
            let (Some(module), Ok(tokens)) = (module, TokenStream::from_str(&file.text)) else { continue };
            let named = Named::in_tokens(tokens, &module);
            names.extend(named.names);
            test_modules.extend(named.test_modules);
            tree.files.insert(module, &file.path);
        }
        let is_test = |module: &Module| test_modules.iter().any(|tests| module.is_in(tests));
        tree.files.retain(|module, _| !is_test(module));
        names.retain(|name: &Name| !name.in_tests && !is_test(&name.within));
        for Name { within, target, import, .. } in &names {
            if let Some(Import { alias: Some(alias), .. }) = import {
                tree.imports.entry(within.clone()).or_default().insert(alias.clone(), target.clone());
            }
        }
        let mut edges = Edges::new();
        for Name { within, target, import, .. } in &names {
            let to = tree.path_to(within, target, 0).and_then(|path| tree.owner(&path, 0));
            let (Some(from), Some(to)) = (tree.file_around(within), to) else { continue };
            let is_part = import.as_ref().is_some_and(|import| import.public) && to.is_in(&from);
            if from == to || from.top() != to.top() || is_part {
                continue;
            }
            let common = from.0.iter().zip(&to.0).take_while(|(one, other)| one == other).count();
            let in_folder = |module: &Module| module.0.get(common).map_or(HEAD, String::as_str).to_owned();
            let folder = format!("src/{}", from.0[..common].join("/"));
            let how = format!("{} names {target}", tree.files[&from]);
            edges.entry(folder).or_default().entry((in_folder(&from), in_folder(&to))).or_insert(how);
        }
        edges
    }

    /// The module with a file of its own that `module` is, or stands in.
    fn file_around(&self, module: &Module) -> Option<Module> {
        let mut around = (0..=module.0.len()).rev().map(|end| Module(module.0[..end].to_vec()));
        around.find(|module| self.files.contains_key(module))
    }

    /// Where `target`, named in `within`, leads from the root of the crate; `None` for another crate.
    fn path_to(&self, within: &Module, target: &Target, imports: usize) -> Option<Vec<String>> {
        let words = match target {
            Target::Crate(words) => return Some(words.clone()),
            Target::Other(words) => words,
        };
        let (first, rest) = words.split_first()?;
        let child = within.child(first);
        let mut path = if self.files.contains_key(&child) {
            child.0
        } else {
            let import = self.imports.get(within)?.get(first)?;
            // `use bytes;` brings what it names itself.
            if import == target || imports == MOST_IMPORTS {
                return None;
            }
            self.path_to(within, import, imports + 1)?
        };
        path.extend_from_slice(rest);
        Some(path)
    }

    /// The module with a file of its own that has what `path`, from the root of the crate, leads to.
    fn owner(&self, path: &[String], imports: usize) -> Option<Module> {
        let mut at = Module(Vec::new());
        for (place, word) in path.iter().enumerate() {
            let child = at.child(word);
            if self.files.contains_key(&child) {
                at = child;
                continue;
            }
            let Some(import) = self.imports.get(&at).and_then(|imports| imports.get(word)) else { break };
            if imports == MOST_IMPORTS {
                return None;
            }
            let mut on = self.path_to(&at, import, 0)?;
            on.extend_from_slice(&path[place + 1..]);
            return self.owner(&on, imports + 1);
        }
        self.files.contains_key(&at).then_some(at)
    }
}

/// Who names whom among Python files: by `from . import name, ..` and `from .name import ..`.
fn python_edges(files: &[SourceFile]) -> Edges {
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut edges = Edges::new();
    for SourceFile { path, text } in files {
        let Some((folder, name)) = path.strip_suffix(".py").and_then(|path| path.rsplit_once('/')) else { continue };
        let imports = text.lines().filter_map(|line| line.trim_start().strip_prefix("from .")?.split_once(" import "));
        for (module, names) in imports {
            let modules = if module.is_empty() { names } else { module };
            let modules = modules.split(',').filter_map(|module| module.split_whitespace().next());
            for module in modules.filter(|module| paths.contains(format!("{folder}/{module}.py").as_str())) {
                let of_folder = edges.entry(folder.to_owned()).or_default();
                of_folder.insert((name.to_owned(), module.to_owned()), format!("{path} imports {module}"));
            }
        }
    }
    edges
}

#[test]
fn what_stands_in_one_folder_names_each_other_one_way() {
    let (mut rust, mut python) = (Vec::new(), Vec::new());
    read_tree("src", "rs", &mut rust);
    read_tree("onnx/training", "py", &mut python);
    let mut edges = Tree::edges(&rust);
    edges.extend(python_edges(&python));
    let found = violations(&edges, &KNOWN);
    assert!(edges["src/http"].len() > 3, "only {} names found", edges["src/http"].len());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn files(texts: &[(&str, &str)]) -> Vec<SourceFile> {
    texts.iter().map(|(path, text)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() }).collect()
}

/// The circles of a crate with these files, as `folder: names`.
fn found(texts: &[(&str, &str)]) -> Vec<String> {
    let found = violations(&Tree::edges(&files(texts)), &[]);
    found.iter().map(|what| what.lines().next().unwrap_or_default().replace("a circle of ", "")).collect()
}

#[test]
fn two_files_that_name_each_other_are_found_however_it_is_written() {
    for code in [
        "use super::b::B;",
        "use super::{b::{self, B}, c};",
        "pub(super) use crate::a::b::B as Own;",
        "fn a() -> crate::a::b::B { c() }",
        "fn a(b: Vec<super::b::B>) {}",
        "use super::*; fn a() { super::b::b() }",
        "use super::b; fn a() { b::b() }",
        "use crate::a; fn a() { a::b::b() }",
        "mod inner { use super::super::b; }",
        // By what `mod.rs` says.
        "use super::B;",
        "use crate::a::{B, C};",
        "use super::Renamed;",
        "use super::inside::Deep;",
        "fn a() { select! { x = super::b() => {} } }",
    ] {
        let head =
            "mod b; mod c; pub use b::B; pub(super) use self::b::{b, B as Renamed}; pub mod inside; pub use c::C;";
        let inside = "pub use super::b::Deep;";
        let c = ("src/a/c.rs", "");
        let texts = [("src/a/mod.rs", head), ("src/a/inside.rs", inside), c, ("src/a/b.rs", "use super::x;")];
        let texts = [&texts[..], &[("src/a/x.rs", code)]].concat();
        assert_eq!(found(&texts), ["src/a: b, x"], "{code}");
    }
}

#[test]
fn a_circle_of_three_and_one_of_folders_are_found() {
    let heads = [("src/a/mod.rs", ""), ("src/a/f/mod.rs", ""), ("src/a/g/mod.rs", "")];
    let three = [("src/a/x.rs", "use super::y;"), ("src/a/y.rs", "use super::z;"), ("src/a/z.rs", "use super::x;")];
    assert_eq!(found(&[&heads[..], &three].concat()), ["src/a: x, y, z"]);
    // No two of these files lead to each other.
    let folders = [("src/a/f/x.rs", "use crate::a::g::x;"), ("src/a/g/y.rs", "use crate::a::f::y;")];
    let ends = [("src/a/g/x.rs", ""), ("src/a/f/y.rs", "")];
    assert_eq!(found(&[&heads[..], &folders, &ends].concat()), ["src/a: f, g"]);
}

#[test]
fn a_parent_that_does_more_than_to_hold_its_children_must_not_be_named_by_them() {
    let child = ("src/a/x.rs", "use super::Own;");
    for (head, is_circle) in [
        ("mod x; pub use x::X; struct Own;", false),
        ("pub mod x; pub(crate) use self::x::{X, Y}; struct Own;", false),
        ("mod x; use x::X; struct Own;", true),
        ("mod x; struct Own; fn a() { x::x() }", true),
        ("mod x; pub use x::X; struct Own; fn a() { X::new() }", true),
    ] {
        let expected: &[&str] = if is_circle { &["src/a: mod, x"] } else { &[] };
        for parent in ["src/a/mod.rs", "src/a.rs"] {
            assert_eq!(found(&[(parent, head), child]), expected, "{head}");
        }
    }
    // Nor does it hide what its children do.
    let head = ("src/a/mod.rs", "mod x; fn a() { x::x(); y::y(); z::z(); }");
    let [y, z] = [("src/a/y.rs", "use super::{z, Own};"), ("src/a/z.rs", "use super::{y, Own};")];
    assert_eq!(found(&[head, child, y, z]), ["src/a: mod, x, y, z", "src/a: y, z"]);
}

#[test]
fn what_only_tests_have_is_no_circle_and_neither_is_another_crate() {
    for code in [
        "#[cfg(test)] mod tests { use super::super::b; }",
        "#[cfg(test)] use super::b;",
        "#[cfg(test)] #[allow(unused)] fn a() -> super::b::B { c() }",
        "#[cfg(all(test, unix))] mod tests { use crate::a::b; }",
        "/// [`super::b`]\n fn a() { \"super::b\"; }",
        "pub(in crate::a::b) fn a() {}",
        "use b::B; fn a() { b::b(); other::b(); }",
        "use b; fn a() { b::b(); }",
        "use crate::b;",
    ] {
        let texts = [("src/a/mod.rs", ""), ("src/b.rs", "use crate::a::x;"), ("src/a/b.rs", "use super::x;")];
        assert_eq!(found(&[&texts[..], &[("src/a/x.rs", code)]].concat()), Vec::<String>::new(), "{code}");
    }
    for (code, expected) in [("#[cfg(test)] mod tests;", &[][..]), ("mod tests;", &["src/a: b, x"])] {
        let tests = [("src/a/x/tests.rs", "mod more;"), ("src/a/x/tests/more.rs", "use crate::a::b;")];
        let texts = [("src/a/mod.rs", ""), ("src/a/b.rs", "use super::x;"), ("src/a/x.rs", code)];
        assert_eq!(found(&[&texts[..], &tests].concat()), expected, "{code}");
    }
    let end = "#[cfg(test)] const A: [u8; 2] = [1, 2]; use super::b;";
    let texts = [("src/a/mod.rs", ""), ("src/a/b.rs", "use super::x;"), ("src/a/x.rs", end)];
    assert_eq!(found(&texts), ["src/a: b, x"], "behind what only tests have");
}

#[test]
fn python_files_that_import_each_other_are_found() {
    for code in ["from . import y", "from . import w, y as z", "def a():\n    from .y import a, b"] {
        let files = files(&[("o/t/x.py", code), ("o/t/y.py", "import w\nfrom . import x"), ("o/t/w.py", "import x")]);
        let found = violations(&python_edges(&files), &[]);
        assert_eq!(
            found,
            ["o/t: a circle of x, y\n  x -> y: o/t/x.py imports y\n  y -> x: o/t/y.py imports x"],
            "{code}"
        );
    }
    let files = files(&[("o/t/x.py", "import y\nfrom y import z"), ("o/t/y.py", "from . import x")]);
    assert!(violations(&python_edges(&files), &[]).is_empty());
}

#[test]
fn a_known_circle_is_as_it_is_listed_or_the_list_is_wrong() {
    let texts = [("src/a/mod.rs", ""), ("src/a/x.rs", "use super::y;"), ("src/a/y.rs", "use super::x;")];
    let edges = Tree::edges(&files(&texts));
    assert!(violations(&edges, &[("src/a", &["x", "y"])]).is_empty());
    let circle =
        "src/a: a circle of x, y\n  x -> y: src/a/x.rs names crate::a::y\n  y -> x: src/a/y.rs names crate::a::x";
    let gone = "src/a: x, y, z are listed as a circle and are none";
    assert_eq!(violations(&edges, &[("src/a", &["x", "y", "z"])]), [circle, gone]);
    let edges = Tree::edges(&files(&texts[..2]));
    assert_eq!(violations(&edges, &[("src/a", &["x", "y"])]), ["src/a: x, y are listed as a circle and are none"]);
}
