//! Every command of every page is run as it stands there, or is marked with the reason why not.
//!
//! Owns the checkout that commands find themselves in, what they may call, and when what they print is what the page shows. The service that they
//! ask serves the model in the box.
//!
//! Invariants: a command can call what [`TOOLS`] names and the service, and nothing else, so one that builds, fetches or installs fails until it is
//! marked; what asks for another host than this one is sent to a port where nobody listens.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
};

use super::pages::{self, Block};
use crate::lifecycle::{self, Running};

/// What a command of a page may call beside the service.
const TOOLS: [&str; 9] = ["bash", "base64", "cat", "curl", "find", "grep", "head", "ls", "printf"];

/// What the pages call things that are the reader's own, and what stands for them here.
const STAND_INS: [(&str, &str); 4] = [
    ("path/to/model", "onnx/emoji-clip"),
    ("path/to/checkpoint", "onnx/emoji-clip"),
    ("path/to/pictures", "onnx/examples"),
    ("photos", "onnx/examples"),
];

/// Addresses that the pages ask: those of the service, and of another that is to be left.
const ADDRESSES: [&str; 3] = ["localhost:8080", "127.0.0.1:8080", "old-service:7997"];

/// The service as they call it: see its head.
const SERVICE: &str = "tests/it/documentation/clipserve";

#[test]
fn every_command_of_every_page_is_run_or_marked() {
    let mut service = Running::spawn(lifecycle::command(&[
        "serve",
        "--model",
        concat!(env!("CARGO_MANIFEST_DIR"), "/onnx/emoji-clip"),
        "--listen",
        "127.0.0.1:0",
        "--provider",
        "cpu",
    ]));
    let address = service.address();
    service.until("ready");
    let mut faults = Vec::new();
    let mut run = 0;
    for (path, text) in pages::all() {
        let blocks = pages::blocks(&text).unwrap_or_else(|fault| panic!("{path}:{fault}"));
        if blocks.iter().all(|block| block.not_run.is_some()) {
            continue;
        }
        let checkout = checkout();
        for block in blocks.iter().filter(|block| block.not_run.is_none()) {
            run += block.commands.len();
            faults.extend(run_block(checkout.path(), &address, block).err().map(|fault| format!("{path}:{fault}")));
        }
    }
    service.signal(libc::SIGTERM);
    assert_eq!(service.exit_code(), Some(0));
    assert!(
        faults.is_empty(),
        "mend the command, or put `<!-- not run: why -->` in front of it:\n\n{}",
        faults.join("\n\n")
    );
    assert!(run > 20, "only {run} commands were found");
}

/// A folder that looks like the checkout of who reads the pages, for one page.
fn checkout() -> tempfile::TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path();
    for name in ["bin", "path/to", "target/release"] {
        fs::create_dir_all(inside.join(name)).expect("a folder");
    }
    for name in ["config", "deploy", "docs", "findings", "onnx", "tests"] {
        symlink(root.join(name), inside.join(name)).expect("a link");
    }
    for (name, stands_for) in STAND_INS {
        symlink(root.join(stands_for), inside.join(name)).expect("a link");
    }
    let found = |tool: &str| {
        let folders = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
        folders.iter().map(|folder| folder.join(tool)).find(|path| path.is_file())
    };
    for tool in TOOLS {
        let path = found(tool).unwrap_or_else(|| panic!("{tool} is not installed, which commands of the pages call"));
        symlink(path, inside.join("bin").join(tool)).expect("a link");
    }
    for name in ["bin/clipserve", "target/release/clipserve"] {
        symlink(root.join(SERVICE), inside.join(name)).expect("a link");
    }
    // An answer of 400 and more fails a command whose output the page does not show.
    fs::write(inside.join(".curlrc"), "fail-with-body\n").expect("written");
    folder
}

/// Runs a block's commands in their turn, up to the first that does not do what the page says.
fn run_block(checkout: &Path, address: &str, block: &Block) -> Result<(), String> {
    for command in &block.commands {
        let line = ADDRESSES
            .iter()
            .fold(command.line.replace("/path/to/", "path/to/"), |line, name| line.replace(name, address));
        let output = lifecycle::fault(shell(checkout, &line));
        let printed = String::from_utf8_lossy(&output.stdout);
        let fault = match &command.output {
            Some(shown) if !agrees(shown, &printed) => format!("does not print what the page shows:\n{shown}"),
            None if !output.status.success() => "fails".to_owned(),
            _ => continue,
        };
        return Err(told(block.line, &line, &fault, &output));
    }
    Ok(())
}

fn told(at: usize, line: &str, fault: &str, Output { stdout, stderr, status }: &Output) -> String {
    let end = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.chars().rev().take(2000).collect::<Vec<_>>().into_iter().rev().collect::<String>()
    };
    format!("{at}: {line}\n{fault}\n({status}; it printed:)\n{}{}", end(stdout), end(stderr))
}

fn shell(checkout: &Path, line: &str) -> Command {
    let mut command = Command::new(checkout.join("bin/bash"));
    command.args(["-euo", "pipefail", "-c", line]).current_dir(checkout).env_clear();
    command.env("PATH", checkout.join("bin")).env("BINARY", env!("CARGO_BIN_EXE_clipserve"));
    // Where .curlrc is, and the cache.
    command.env("HOME", checkout).env("HF_HUB_OFFLINE", "1").env("no_proxy", "127.0.0.1");
    for name in ["http_proxy", "https_proxy"] {
        command.env(name, "http://127.0.0.1:9");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Whether what was printed is what a page shows: the same, where `…` stands for anything, and numbers to a thousandth, since CPUs round
/// differently.
fn agrees(shown: &str, printed: &str) -> bool {
    let (shown, printed) = (tokens(shown), tokens(printed));
    let (mut at, mut anything) = (0, None);
    let mut seen = 0;
    while seen < printed.len() {
        match shown.get(at) {
            Some(Token::Anything) => {
                anything = Some((at, seen));
                at += 1;
            }
            Some(token) if token.equals(&printed[seen]) => {
                at += 1;
                seen += 1;
            }
            _ => match &mut anything {
                // One more belongs to the last `…`.
                Some((place, taken)) => {
                    *taken += 1;
                    (at, seen) = (*place + 1, *taken);
                }
                None => return false,
            },
        }
    }
    shown[at..].iter().all(|token| *token == Token::Anything)
}

#[derive(Debug, PartialEq)]
enum Token {
    Anything,
    Number(f64),
    Other(char),
}

impl Token {
    fn equals(&self, printed: &Self) -> bool {
        match (self, printed) {
            (Self::Number(shown), Self::Number(printed)) => (shown - printed).abs() <= 1e-3,
            (shown, printed) => shown == printed,
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let fraction = rest[digits..]
            .strip_prefix('.')
            .map_or(0, |part| part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len()));
        let length = digits + if fraction > 0 { 1 + fraction } else { 0 };
        if digits > 0 {
            tokens.push(Token::Number(rest[..length].parse().expect("digits")));
            rest = &rest[length..];
        } else {
            tokens.push(if first == '…' { Token::Anything } else { Token::Other(first) });
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

#[test]
fn outputs_agree_but_for_what_is_left_out_and_rounded() {
    let printed = "{\"a\":[0.1234,-2,30],\"b\":\"x-1\"}\n";
    for shown in [
        "{\"a\":[0.1238,-2,30],\"b\":\"x-1\"}",
        "{\"a\":[0.1234,…],\"b\":\"x…\"}",
        "…",
        "{…}",
        "{\"a\":[…30]…\"b\":\"x-1\"}…",
    ] {
        assert!(agrees(shown, printed), "{shown}");
    }
    for shown in [
        "",
        "{\"a\":[0.1254,-2,30],\"b\":\"x-1\"}",
        "{\"a\":[0.1234,…],\"c\":…}",
        "…30",
        "{\"a\":[0.1234,2,30],\"b\":\"x-1\"}",
        "{\"a\":…}}",
    ] {
        assert!(!agrees(shown, printed), "{shown}");
    }
}

#[test]
fn a_command_is_held_to_its_status_its_output_and_its_tools() {
    let checkout = checkout();
    let fault = |page: &str| run_block(checkout.path(), "127.0.0.1:9", &pages::blocks(page).unwrap()[0]).err();
    assert_eq!(fault("    $ printf 'a 1.0\\nb'\n    a …\n    b\n"), None);
    assert!(fault("    $ printf a\n    b\n").unwrap().contains("does not print what the page shows"));
    assert!(fault("    ls absent | cat\n").unwrap().contains("fails"));
    assert!(fault("    make --version\n").unwrap().contains("make: command not found"));
    assert!(fault("    curl -sS http://example.com/\n").unwrap().contains("127.0.0.1 port 9"));
    assert!(fault("    clipserve serve --model absent\n").unwrap().contains("absent"));
}
