//! The peers of bulk embedding as one Python process that does one thing at a time: `benches/bulk/peers.py`.
//!
//! Owns the process and its lines. It has loaded everything when it exists, and rests between two questions.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::{Result, services::Places};

/// The running process.
pub(super) struct Peers {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    versions: String,
}

impl Peers {
    /// Starts it.
    ///
    /// # Errors
    /// When it is not installed, or does not load the checkpoint.
    pub(super) fn start(places: &Places) -> Result<Self> {
        let python = places.made().join("bulk/bin/python");
        if !python.is_file() {
            return Err("not installed: `make bench-bulk` installs it".into());
        }
        let mut command = Command::new(python);
        command.arg("-B").arg(places.root.join("benches/bulk/peers.py")).arg(places.checkpoint());
        command.arg(super::folder(places)?.join("peer-out"));
        for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"] {
            command.env(name, "1");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("the input is piped")?;
        let output = BufReader::new(child.stdout.take().ok_or("the output is piped")?);
        let mut peers = Self { child, input, output, versions: String::new() };
        peers.versions = peers.answer()?;
        Ok(peers)
    }

    /// What runs.
    pub(super) fn versions(&self) -> &str {
        &self.versions
    }

    /// Pictures per second of clip-retrieval over a folder, its model loaded.
    pub(super) fn pictures(&mut self, folder: &Path) -> Result<f64> {
        self.rate("pictures", folder)
    }

    /// Texts per second of sentence-transformers over the lines of a file.
    pub(super) fn texts(&mut self, file: &Path) -> Result<f64> {
        self.rate("texts", file)
    }

    fn rate(&mut self, what: &str, path: &Path) -> Result<f64> {
        writeln!(self.input, "{what} {}", path.display())?;
        let answer = self.answer()?;
        answer.parse().map_err(|_| format!("{what}: {answer}").into())
    }

    /// The next line that is for us; libraries print lines of their own.
    fn answer(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                return Err("the peers' Python ended: see above".into());
            }
            if let Some(answer) = line.strip_prefix("answer: ") {
                return Ok(answer.trim().to_owned());
            }
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
