//! `clipserve embed` as a process, and what it says of itself.
//!
//! Owns its command line and reading its two outputs: the first line of progress is its first row, the last line of the summary its rate.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result,
    arithmetic::Arithmetic,
    services::{self, Places},
};

/// What every run of a measurement shares.
pub(super) struct Embed<'a> {
    pub(super) places: &'a Places,
    pub(super) model: &'a Path,
    pub(super) arithmetic: Arithmetic,
    pub(super) set: &'a [String],
}

impl Embed<'_> {
    /// The command, into a folder that is new.
    pub(super) fn command(&self, arguments: &[&str]) -> Result<Command> {
        let out = self.out()?;
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        let mut command = services::dying_with_us(Path::new(env!("CARGO_BIN_EXE_clipserve")));
        command.current_dir(&self.places.root).arg("embed").args(arguments).arg("--out").arg(out);
        command.arg("--model").arg(self.model).arg("--cache-dir").arg(self.places.cache());
        command.args(["--set", "telemetry.log_level=warn"]);
        self.arithmetic.flags(&mut command);
        self.set.iter().for_each(|pair| {
            command.args(["--set", pair]);
        });
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Where it writes.
    pub(super) fn out(&self) -> Result<PathBuf> {
        Ok(super::folder(self.places)?.join("out"))
    }

    /// Items per second of a run over `source`, from the first that is read to the last that is on disk; the start of the model is not in it.
    pub(super) fn rate(&self, source: &Path) -> Result<f64> {
        let source = source.to_str().ok_or("a path in UTF-8")?;
        let output = self.command(&[source])?.output()?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(format!("{}: {stdout}{stderr}", output.status).into());
        }
        rate_in(&stdout).ok_or_else(|| format!("no rate in: {stdout}").into())
    }

    /// From the start of the process to the first row.
    pub(super) fn first(&self, source: &Path) -> Result<Duration> {
        let source = source.to_str().ok_or("a path in UTF-8")?;
        let mut command = self.command(&[source])?;
        let started = Instant::now();
        let mut child = Ends(command.spawn()?);
        let log = BufReader::new(child.0.stderr.take().ok_or("the log is piped")?);
        let mut all = String::new();
        for line in log.lines() {
            let line = line?;
            if line.contains(" items, ") {
                return Ok(started.elapsed());
            }
            all += &line;
            all.push('\n');
        }
        Err(format!("no row: {all}").into())
    }

    /// Starts a run whose outputs nobody reads; its end says how it went.
    pub(super) fn start(&self, arguments: &[&str]) -> Result<Ends> {
        let mut child = self.command(arguments)?.spawn()?;
        // Never more than a pipe holds of the one, and a line in ten seconds of the other.
        let log = child.stderr.take().ok_or("the log is piped")?;
        thread::spawn(move || BufReader::new(log).lines().map_while(std::result::Result::ok).for_each(drop));
        Ok(Ends(child))
    }
}

/// The rate in the last line of a summary: `12.3 s, 81.2 items/s, decode ...`.
fn rate_in(summary: &str) -> Option<f64> {
    summary.lines().last()?.split(", ").find_map(|part| part.strip_suffix(" items/s"))?.parse().ok()
}

/// A process that ends with its value.
pub(super) struct Ends(Child);

impl Ends {
    /// Bytes that are resident: all, and without what is mapped from files.
    pub(super) fn resident(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let bytes = |name: &str| -> Option<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? * 1024.0)
        };
        bytes("VmRSS:").zip(bytes("RssAnon:")).ok_or_else(|| "the process is gone".into())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When it has ended otherwise than well.
    pub(super) fn runs(&mut self) -> Result<bool> {
        let Some(status) = self.0.try_wait()? else { return Ok(true) };
        if status.success() {
            return Ok(false);
        }
        let mut text = String::new();
        if let Some(stdout) = &mut self.0.stdout {
            stdout.read_to_string(&mut text)?;
        }
        Err(format!("{status}: {text}").into())
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
