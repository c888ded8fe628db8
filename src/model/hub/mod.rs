//! Models that are named by their id on the Hugging Face Hub: downloaded once, into the cache that the hub's own tools share.
//!
//! Owns the way from `model.path` to a directory. `select` chooses the files, `client` speaks the protocol, `download` brings
//! one file, `cache` knows the layout. Written here because no crate does it: `hf-hub` 1.0 neither resumes a transfer nor checks
//! what arrived, and 0.5 resumes without a check.
//!
//! Invariants: a directory of this name goes before the hub; with `HF_HUB_OFFLINE` nothing is asked; what is in the cache
//! serves when the hub cannot be reached, and the log says so.

mod cache;
mod client;
mod download;
mod etag;
mod progress;
mod select;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::layout::suffixes;
use crate::config::{HubConfig, ModelConfig, Precision};
use cache::RepoCache;
use client::{Client, Listing, RemoteFile};
use progress::Progress;

/// Why a model cannot be had from the hub, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Neither a directory nor an id.
    #[error("model directory {path}: No such file or directory, and no id on the hub (owner/name) either", path = .0.display())]
    NotAModel(PathBuf),
    /// No folder for the cache.
    #[error("there is no folder to download to: set HF_HOME or HF_HUB_CACHE")]
    NoCache,
    /// A variable of the environment.
    #[error("{variable}: {reason}")]
    Setting {
        /// Its name.
        variable: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A folder or file of the cache.
    #[error("{path}: {reason}; HF_HOME or HF_HUB_CACHE says where the cache is", path = .path.display())]
    Storage {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A write of contents: the disk is full, most often.
    #[error(
        "{file}: cannot write {path} after {done} of {size} bytes: {reason}; make room, or set HF_HOME or HF_HUB_CACHE to a folder \
         that has some",
        path = .path.display()
    )]
    Write {
        /// The file in the repository.
        file: String,
        /// The partial file.
        path: PathBuf,
        /// Bytes that are there.
        done: u64,
        /// Bytes it has in all.
        size: u64,
        /// What the system says.
        reason: String,
    },
    /// Offline, and not in the cache.
    #[error("{repo} at revision {revision} is not in the cache {cache}, and HF_HUB_OFFLINE is set", cache = .cache.display())]
    Offline {
        /// The model.
        repo: RepoId,
        /// Its revision.
        revision: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// No answer, or one that may be different the next time.
    #[error("cannot download {url}: {reason}")]
    Unavailable {
        /// What was asked for.
        url: String,
        /// What came instead.
        reason: String,
    },
    /// Not there.
    #[error(
        "{repo}{} is neither a directory nor a model on {endpoint}",
        .revision.as_ref().map(|revision| format!(" (revision {revision})")).unwrap_or_default()
    )]
    NotFound {
        /// The model.
        repo: RepoId,
        /// The hub.
        endpoint: String,
        /// The revision, where that may be what is not there.
        revision: Option<String>,
    },
    /// The model is there, the revision is not.
    #[error("{repo} has no revision {revision}")]
    NoRevision {
        /// The model.
        repo: RepoId,
        /// The revision.
        revision: String,
    },
    /// No access.
    #[error("{endpoint} refuses {repo} ({status}): {why}")]
    Refused {
        /// The model.
        repo: RepoId,
        /// The hub.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// What to do.
        why: &'static str,
    },
    /// An answer that is not of the hub's protocol.
    #[error("{url}: {reason}; is HF_ENDPOINT right?")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The model has nothing that can be served.
    #[error("{repo} cannot be served: {reason}")]
    Unusable {
        /// The model.
        repo: RepoId,
        /// What it lacks.
        reason: String,
    },
    /// Other contents than announced.
    #[error("{file}: what was downloaded is not what the hub announces (etag {etag}); it was thrown away")]
    Corrupt {
        /// The file.
        file: String,
        /// The hash that it should have.
        etag: String,
    },
}

impl HubError {
    fn storage(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Storage { path: path.to_owned(), reason: error.to_string() }
    }
}

/// `owner/name`, in the hub's own rules for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoId(String);

impl RepoId {
    /// `None` for a text that cannot be an id.
    fn parse(text: &str) -> Option<Self> {
        let part = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !part.is_empty()
                && part.bytes().all(allowed)
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
        };
        let (owner, name) = text.split_once('/')?;
        let whole = text.len() <= 96 && !text.contains("--") && !text.contains("..");
        (part(owner) && part(name) && whole).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The same model with a path that is a directory, downloaded if need be; from the hub, its name is its id unless it has one.
/// Blocks for as long as that takes.
///
/// # Errors
/// When the path is neither there nor an id, and whatever can stand in the way of a download.
pub fn local(config: &ModelConfig, precision: Precision) -> Result<ModelConfig, HubError> {
    let mut local = config.clone();
    // A path that may not be looked at is not an id either: whoever opens it says what is wrong. None at all: the towers have
    // places of their own.
    if config.path.as_os_str().is_empty() || config.path.try_exists().unwrap_or(true) {
        return Ok(local);
    }
    let Some(repo) = config.path.to_str().and_then(RepoId::parse) else {
        return Err(HubError::NotAModel(config.path.clone()));
    };
    local.path = snapshot(&repo, &config.revision, suffixes(precision), &config.hub)?;
    local.name.get_or_insert_with(|| repo.to_string());
    Ok(local)
}

/// The folder that holds `revision` of `repo`, as far as it is needed.
fn snapshot(repo: &RepoId, revision: &str, suffixes: &[&str], hub: &HubConfig) -> Result<PathBuf, HubError> {
    let root = hub.cache.as_ref().ok_or(HubError::NoCache)?;
    let cache = RepoCache::of(root, repo);
    let cached = || {
        let commit = cache.commit(revision)?;
        select::select(&cache.files(&commit), suffixes).is_ok().then(|| cache.snapshot(&commit))
    };
    if hub.offline {
        let (repo, revision) = (repo.clone(), revision.to_owned());
        return cached().ok_or_else(|| HubError::Offline { repo, revision, cache: root.clone() });
    }
    match download(repo, revision, suffixes, hub, &cache) {
        Err(error @ HubError::Unavailable { .. }) => {
            let Some(path) = cached() else { return Err(error) };
            tracing::warn!(%error, "the hub cannot be reached; serving what is in the cache");
            Ok(path)
        }
        outcome => outcome,
    }
}

fn download(
    repo: &RepoId,
    revision: &str,
    suffixes: &[&str],
    hub: &HubConfig,
    cache: &RepoCache,
) -> Result<PathBuf, HubError> {
    let client = Client::new(hub, repo, revision)?;
    let Listing { commit, files } = client.list()?;
    let unusable = |reason| HubError::Unusable { repo: repo.clone(), reason };
    let chosen = select::select(&files, suffixes).map_err(unusable)?;
    // A commit never changes: what is in its snapshot needs no question.
    let there = cache.files(&commit);
    let missing = chosen.iter().filter(|name| !there.contains(*name));
    let missing: Vec<RemoteFile> = missing.map(|name| client.describe(&commit, name)).collect::<Result<_, _>>()?;
    if !missing.is_empty() {
        let total = missing.iter().map(|file| file.size).sum();
        tracing::info!(model = %repo, revision, commit, files = missing.len(), bytes = total, "downloading");
        let mut progress = Progress::new(total);
        for file in &missing {
            download::fetch(&client, cache, &commit, file, &mut progress)?;
        }
        drop(progress);
        cache.link(&commit, missing.iter().map(|file| (file.name.as_str(), file.etag.as_str())))?;
        tracing::info!(model = %repo, commit, "downloaded");
    }
    cache.write_ref(revision, &commit)?;
    Ok(cache.snapshot(&commit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_owner_and_name_and_never_a_path() {
        for good in ["openai/clip-vit-base-patch32", "a/b", "Xenova/clip.v1_x", "0/1"] {
            assert!(RepoId::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "a",
            "/a",
            "a/",
            "/a/b",
            "a/b/c",
            "./b",
            "../b",
            "a/..",
            "a/b..c",
            "~/b",
            "a b/c",
            "a/b--c",
            "-a/b",
            "a/b.",
            "a\\b/c",
            "ä/b",
            &format!("a/{}", "b".repeat(95)),
        ] {
            assert_eq!(RepoId::parse(bad), None, "{bad}");
        }
    }
}
