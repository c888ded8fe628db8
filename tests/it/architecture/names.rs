//! What a file of the tree names, read off its tokens.
//!
//! Owns the reading of paths: in a `use`, whose lists are taken apart, and wherever else words have `::` between them. Does not own
//! what may be named (the rules), nor which file has what a path leads to (`circles`).
//!
//! Invariant: comments, strings, attributes' texts and the visibility of an item name nothing.

use std::{collections::BTreeSet, fmt};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// Where a file under `src/`, or a module inside of one, stands in the crate: `src/batch/worker.rs` is `["batch", "worker"]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Module(pub(super) Vec<String>);

impl Module {
    /// `None` for a file that is not under `src/`.
    pub(super) fn of(path: &str) -> Option<Self> {
        let mut parts: Vec<_> = path.strip_prefix("src/")?.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
        if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
            parts.pop();
        }
        Some(Self(parts))
    }

    /// The module right below the crate, or `lib`.
    pub(super) fn top(&self) -> &str {
        self.0.first().map_or("lib", String::as_str)
    }

    /// The module `name` in this one.
    pub(super) fn child(&self, name: &str) -> Self {
        Self(self.0.iter().cloned().chain([name.to_owned()]).collect())
    }

    /// Whether it is `other` or stands somewhere in it.
    pub(super) fn is_in(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

/// What a file names.
#[derive(Default)]
pub(super) struct Named {
    /// Everything with a `::`, and everything in a `use`.
    pub(super) names: Vec<Name>,
    /// `todo`, `unimplemented`.
    pub(super) stubs: BTreeSet<String>,
    /// The modules in files of their own that only tests have.
    pub(super) test_modules: BTreeSet<Module>,
}

/// A path, where it is named.
pub(super) struct Name {
    /// The module around it.
    pub(super) within: Module,
    /// Where it leads.
    pub(super) target: Target,
    /// Where it is one of a `use`.
    pub(super) import: Option<Import>,
    /// Whether only tests have it.
    pub(super) in_tests: bool,
}

/// Where a path leads, as far as its own words say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// From the root of this crate: `crate`, `self` and `super` are resolved.
    Crate(Vec<String>),
    /// To another crate, a child of the module around it, or something that was imported there.
    Other(Vec<String>),
}

/// What a `use` says besides the path.
pub(super) struct Import {
    /// `pub`, to whomever.
    pub(super) public: bool,
    /// What it is called from here on; `None` for `*`.
    pub(super) alias: Option<String>,
}

/// Where the reader is.
#[derive(Clone)]
struct Place {
    module: Module,
    in_tests: bool,
}

impl Named {
    pub(super) fn in_tokens(tokens: TokenStream, module: &Module) -> Self {
        let mut named = Self::default();
        named.walk(tokens, &Place { module: module.clone(), in_tests: false });
        named
    }

    /// The modules right below the crate among the names.
    pub(super) fn tops(&self) -> BTreeSet<&str> {
        let targets = self.names.iter().map(|name| &name.target);
        let in_crate =
            targets.filter_map(|target| if let Target::Crate(words) = target { words.first() } else { None });
        in_crate.map(String::as_str).collect()
    }

    /// The first word, and the first two, of every other name.
    pub(super) fn others(&self) -> BTreeSet<String> {
        let mut others = BTreeSet::new();
        for name in &self.names {
            if let Target::Other(words) = &name.target {
                others.extend(words.first().cloned());
                others.extend(words.get(..2).map(|two| two.join("::")));
            }
        }
        others
    }

    /// Goes through `tokens`, which stand in `place`, and through every group inside them.
    fn walk(&mut self, tokens: TokenStream, place: &Place) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let tests = Place { in_tests: true, ..place.clone() };
        // Where the item ends that only tests have.
        let mut tests_end = 0;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            if is_cfg_test(&tokens[at..]) {
                tests_end = tests_end.max(end_of_item(&tokens, at));
            }
            let place = if at < tests_end { &tests } else { place };
            match token {
                TokenTree::Group(group) => self.walk(group.stream(), place),
                TokenTree::Ident(word) if *word == "pub" => {
                    if matches!(tokens.get(at + 1), Some(TokenTree::Group(group)) if is_visibility(group)) {
                        at += 1;
                    }
                }
                TokenTree::Ident(word) if *word == "mod" => match (tokens.get(at + 1), tokens.get(at + 2)) {
                    // `mod name { .. }`: `super` in there is this module.
                    (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) => {
                        let module = place.module.child(&name.to_string());
                        self.walk(body.stream(), &Place { module, ..place.clone() });
                        at += 2;
                    }
                    (Some(TokenTree::Ident(name)), end) if place.in_tests && is_punct(end, ';') => {
                        self.test_modules.insert(place.module.child(&name.to_string()));
                    }
                    _ => {}
                },
                TokenTree::Ident(word) if *word == "todo" || *word == "unimplemented" => {
                    if is_punct(tokens.get(at + 1), '!') {
                        self.stubs.insert(word.to_string());
                    }
                }
                TokenTree::Ident(_) => {
                    at = self.path(&tokens, at, Vec::new(), import_at(&tokens, at), place);
                    continue;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            at += 1;
        }
    }

    /// Reads the path that begins at `tokens[at]`, below `prefix`, and returns where it ends. A lone word is a path only in a
    /// `use` (`import`: whether that is public), where a group is a list of paths below this one.
    fn path(
        &mut self,
        tokens: &[TokenTree],
        mut at: usize,
        prefix: Vec<String>,
        import: Option<bool>,
        place: &Place,
    ) -> usize {
        let mut path = prefix;
        let mut all = false;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(segment) => path.push(segment.to_string()),
                TokenTree::Group(list) if import.is_some() => {
                    let list: Vec<_> = list.stream().into_iter().collect();
                    let items = list.split(|token| is_punct(Some(token), ','));
                    for item in items.filter(|item| !item.is_empty()) {
                        self.path(item, 0, path.clone(), import, place);
                    }
                    return at + 1;
                }
                token => {
                    all = is_punct(Some(token), '*');
                    break;
                }
            }
            at += 1;
            if !(is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')) {
                break;
            }
            at += 2;
        }
        if path.len() > 1 || import.is_some() {
            if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                path.pop();
            }
            let alias = match (tokens.get(at), tokens.get(at + 1)) {
                (Some(TokenTree::Ident(word)), Some(TokenTree::Ident(alias))) if *word == "as" => {
                    Some(alias.to_string())
                }
                _ => path.last().cloned().filter(|_| !all),
            };
            let import = import.map(|public| Import { public, alias });
            let target = Target::read(path, &place.module);
            self.names.push(Name { within: place.module.clone(), target, import, in_tests: place.in_tests });
        }
        at
    }
}

impl Target {
    /// The path with these words, which stands in `module`.
    fn read(words: Vec<String>, module: &Module) -> Self {
        let supers = words.iter().take_while(|word| *word == "super").count();
        match words.first().map(String::as_str) {
            Some("crate" | "clipserve") => Self::Crate(words[1..].to_vec()),
            Some("self") => Self::Crate(module.0.iter().chain(&words[1..]).cloned().collect()),
            Some("super") => {
                let kept = module.0.len().saturating_sub(supers);
                Self::Crate(module.0[..kept].iter().chain(&words[supers..]).cloned().collect())
            }
            _ => Self::Other(words),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crate(words) => write!(f, "crate::{}", words.join("::")),
            Self::Other(words) => f.write_str(&words.join("::")),
        }
    }
}

/// Whether `tokens[at]` begins the path of a `use`, and whether that one is public.
fn import_at(tokens: &[TokenTree], at: usize) -> Option<bool> {
    let is = |token: &TokenTree, name: &str| matches!(token, TokenTree::Ident(word) if *word == name);
    match &tokens[..at] {
        [.., before, TokenTree::Group(_), word] if is(word, "use") && is(before, "pub") => Some(true),
        [.., before, word] if is(word, "use") => Some(is(before, "pub")),
        [word] if is(word, "use") => Some(false),
        _ => None,
    }
}

/// Whether what follows `pub` says to whom.
fn is_visibility(group: &Group) -> bool {
    let first = group.stream().into_iter().next();
    matches!(first, Some(TokenTree::Ident(word)) if ["crate", "in", "self", "super"].iter().any(|name| word == name))
}

/// Whether `tokens` begin with `#[cfg(test)]`, or with one that wants more than that.
fn is_cfg_test(tokens: &[TokenTree]) -> bool {
    let [hash, TokenTree::Group(attribute), ..] = tokens else { return false };
    let attribute: Vec<_> = attribute.stream().into_iter().collect();
    let [TokenTree::Ident(cfg), TokenTree::Group(condition)] = &attribute[..] else { return false };
    let condition: Vec<_> = condition.stream().into_iter().collect();
    let is_test = |token: &TokenTree| matches!(token, TokenTree::Ident(word) if *word == "test");
    is_punct(Some(hash), '#')
        && *cfg == "cfg"
        && match &condition[..] {
            [word] => is_test(word),
            [TokenTree::Ident(all), TokenTree::Group(list)] => {
                *all == "all" && list.stream().into_iter().any(|token| is_test(&token))
            }
            _ => false,
        }
}

/// Where the item ends whose attributes begin at `tokens[at]`: behind its `;` or its body.
fn end_of_item(tokens: &[TokenTree], at: usize) -> usize {
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => is_punct(Some(token), ';'),
    };
    tokens[at..].iter().position(is_end).map_or(tokens.len(), |end| at + end + 1)
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}
