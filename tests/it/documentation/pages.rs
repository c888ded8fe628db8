//! The blocks of commands in a Markdown page.
//!
//! Owns which text of a page is a command: every fenced block of `sh` or `console`, and every indented one; all other fenced blocks say what else they
//! are. Does not own what a command does.
//!
//! Invariant: [`blocks`] is a pure function of a page's text.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What stands in front of a block that no test runs; the reason follows, up to [`MARKER_END`].
const MARKER: &str = "<!-- not run: ";
const MARKER_END: &str = " -->";

/// Commands that stand together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Its first line in the page, from 1.
    pub line: usize,
    pub commands: Vec<Command>,
    /// Why nobody runs it.
    pub not_run: Option<String>,
}

/// A line for the shell, with those that continue it; of a block without `$ ` all of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub line: String,
    /// What the page shows as its output, `…` for what it leaves out; `None` where it shows nothing.
    pub output: Option<String>,
}

/// The blocks of a page.
///
/// # Errors
/// With the line: a fence without a language; a marker without its reason, or without a block.
pub(super) fn blocks(page: &str) -> Result<Vec<Block>, String> {
    let lines: Vec<&str> = page.lines().collect();
    let mut blocks = Vec::new();
    let mut marker: Option<(usize, String)> = None;
    let mut at = 0;
    let mut after_blank = true;
    while let Some(&line) = lines.get(at) {
        let number = at + 1;
        let body = if let Some(language) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let rest = &lines[number..];
            let length = rest.iter().position(|line| line.trim_start().starts_with("```"));
            let length = length.ok_or_else(|| format!("{number}: the fence has no end"))?;
            at += length + 2;
            match language.trim() {
                "" => return Err(format!("{number}: say what the block is: sh, console, text, ...")),
                "sh" | "console" => {
                    Some(rest[..length].iter().map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>())
                }
                _ => None,
            }
        } else if line.starts_with("    ") && after_blank {
            let rest = &lines[at..];
            let end = rest.iter().position(|line| !line.is_empty() && !line.starts_with("    "));
            let rest = &rest[..end.unwrap_or(rest.len())];
            at += rest.len();
            let text: Vec<&str> = rest.iter().map(|line| line.get(4..).unwrap_or_default()).collect();
            Some(text)
        } else {
            at += 1;
            None
        };
        if let Some(body) = body {
            let commands = commands(&body);
            blocks.push(Block { line: number, commands, not_run: marker.take().map(|(_, reason)| reason) });
        } else if !line.is_empty() {
            if let Some((number, _)) = marker {
                return Err(format!("{number}: no block of commands follows the marker"));
            }
            marker = reason(line).map_err(|fault| format!("{number}: {fault}"))?.map(|reason| (number, reason));
        }
        after_blank = at > 0 && lines[at - 1].is_empty();
    }
    match marker {
        Some((number, _)) => Err(format!("{number}: no block of commands follows the marker")),
        None => Ok(blocks),
    }
}

/// The reason of a marker; `None` of any other line.
fn reason(line: &str) -> Result<Option<String>, String> {
    if !line.trim_start().starts_with(MARKER.trim_end_matches(": ")) {
        return Ok(None);
    }
    let reason = line.trim().strip_prefix(MARKER).and_then(|rest| rest.strip_suffix(MARKER_END)).unwrap_or_default();
    if reason.trim().is_empty() {
        return Err(format!("write `{MARKER}why{MARKER_END}` on one line"));
    }
    Ok(Some(reason.to_owned()))
}

/// A block's commands. Where its first line begins with `$ `, each such line is one, and what does not is output.
fn commands(body: &[&str]) -> Vec<Command> {
    let body = &body[..body.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1)];
    if !body.first().is_some_and(|line| line.starts_with("$ ")) {
        return vec![Command { line: body.join("\n"), output: None }];
    }
    let mut commands: Vec<Command> = Vec::new();
    for &text in body {
        match (text.strip_prefix("$ "), commands.last_mut()) {
            (Some(text), _) => commands.push(Command { line: text.to_owned(), output: None }),
            (None, Some(last)) if last.output.is_none() && last.line.ends_with('\\') => {
                last.line.push('\n');
                last.line.push_str(text);
            }
            (None, Some(last)) => {
                let output = last.output.get_or_insert_default();
                output.push_str(text);
                output.push('\n');
            }
            (None, None) => {}
        }
    }
    commands
}

/// Every page of the repository, by its path from the root.
pub(super) fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![PathBuf::new()];
    let mut pages = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).expect("a folder of the repository").map(Result::unwrap) {
            let name = entry.file_name().into_string().expect("UTF-8");
            let path = folder.join(&name);
            // What is built, fetched or another program's.
            if entry.file_type().unwrap().is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                let text = fs::read_to_string(root.join(&path)).expect("UTF-8");
                pages.push((path.to_str().expect("UTF-8").to_owned(), text));
            }
        }
    }
    pages.sort();
    pages
}

#[test]
fn blocks_are_found_with_their_markers_and_outputs() {
    let page = "# Title\n\n    one --flag \\\n      more\n\n    two\n\nText:\n<!-- not run: it needs a GPU -->\n\n```sh\nthree\n```\n\n```json\n{}\n```\n\n\
                ```console\n$ four \\\n  on\nseen …\nand\n$ five\n```\n";
    let command =
        |line: &str, output: Option<&str>| Command { line: line.to_owned(), output: output.map(str::to_owned) };
    assert_eq!(
        blocks(page).unwrap(),
        [
            Block { line: 3, commands: vec![command("one --flag \\\n  more\n\ntwo", None)], not_run: None },
            Block { line: 11, commands: vec![command("three", None)], not_run: Some("it needs a GPU".to_owned()) },
            Block {
                line: 19,
                commands: vec![command("four \\\n  on", Some("seen …\nand\n")), command("five", None)],
                not_run: None
            },
        ]
    );
}

#[test]
fn what_cannot_be_told_is_a_fault() {
    for (page, fault) in [
        ("```\nx\n```\n", "1: say what the block is"),
        ("```sh\nx\n", "1: the fence has no end"),
        ("<!-- not run: -->\n\n    x\n", "1: write `"),
        ("<!-- not run -->\n\n    x\n", "1: write `"),
        ("<!-- not run: a GPU -->\n\nText\n", "1: no block"),
        ("Text\n\n<!-- not run: a GPU -->\n", "3: no block"),
    ] {
        let found = blocks(page).err().unwrap_or_else(|| "no fault".to_owned());
        assert!(found.starts_with(fault), "{page:?}: {found}");
    }
}
