//! Models that are named by their id on the Hugging Face Hub: downloaded once, into the cache that the hub's own tools share.
//!
//! Owns the way from `model.path`, `model.vision` and `model.text` to directories. `select` chooses the files, `client` speaks the
//! protocol, `download` brings one file, `cache` knows the layout. Written here because no crate does it: `hf-hub` 1.0 neither
//! resumes a transfer nor checks what arrived, and 0.5 resumes without a check.
//!
//! Invariants: a file or directory of this name goes before the hub; one revision is that of every place; with `HF_HUB_OFFLINE`
//! nothing is asked; what is in the cache serves when the hub cannot be reached, and the log says so.

mod cache;
mod client;
mod download;
mod etag;
mod progress;
mod select;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{
    clip_config::ClipConfig,
    search,
    tower::{Suffixes, Tower},
};
use crate::config::{Address, ModelConfig, Precision};
use cache::RepoCache;
pub use client::network;
use client::{Client, Listing, RemoteFile};
use progress::Progress;
use select::{Selection, Wanted, select};

/// Why a model cannot be had from the hub, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Neither a place on this machine nor an id.
    #[error("model directory or graph {path}: No such file or directory, and no id on the hub (owner/name) either", path = shown(.0))]
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
        /// What was asked for, as [`Address`] shows it.
        url: String,
        /// What came instead.
        reason: String,
    },
    /// Not there.
    #[error(
        "{repo}{} is neither a file or directory nor a model on {endpoint}",
        .revision.as_ref().map(|revision| format!(" (revision {revision})")).unwrap_or_default()
    )]
    NotFound {
        /// The model.
        repo: RepoId,
        /// The hub.
        endpoint: Address,
        /// The revision, where that may be what is not there.
        revision: Option<String>,
    },
    /// Not had, and perhaps never meant.
    #[error("{error}; if it was meant as a path: the folder {} is here, and {} in it", .folder.display(), .names)]
    Mistyped {
        /// Why it cannot be had from the hub.
        error: Box<HubError>,
        /// The folder that is called like the owner.
        folder: PathBuf,
        /// The folders in it.
        names: String,
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
        endpoint: Address,
        /// 401 or 403.
        status: u16,
        /// What to do.
        why: &'static str,
    },
    /// An answer that is not of the hub's protocol.
    #[error("{url}: {reason}; is HF_ENDPOINT right?")]
    Answer {
        /// What was asked for, as [`Address`] shows it.
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
    /// With what is in the folder here that is called like the owner of `repo`, which was meant as a path then, perhaps.
    fn if_mistyped(self, repo: &RepoId) -> Self {
        const MOST: usize = 5;
        let owner = repo.0.split_once('/').map_or(&*repo.0, |(owner, _)| owner);
        let could_be_path = matches!(self, Self::NotFound { .. } | Self::Unavailable { .. } | Self::Offline { .. });
        let Some(entries) = could_be_path.then(|| fs::read_dir(owner).ok()).flatten() else { return self };
        let mut names: Vec<String> = entries
            .flatten()
            .take(1000)
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().escape_debug().to_string())
            .collect();
        names.sort();
        let more = if names.len() > MOST { ", and more" } else { "" };
        names.truncate(MOST);
        let names = if names.is_empty() { "no folder".to_owned() } else { format!("{}{more}", names.join(", ")) };
        Self::Mistyped { error: Box::new(self), folder: PathBuf::from(owner), names }
    }

    fn storage(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Storage { path: path.to_owned(), reason: error.to_string() }
    }
}

/// A place that is nowhere may be an address, which clipserve does not take, with a password in it.
fn shown(place: &Path) -> String {
    let text = place.display().to_string();
    if text.contains("://") { Address::new(text).to_string() } else { text }
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

/// A model whose places are all on this machine.
#[derive(Clone, Debug)]
pub struct LocalModel {
    /// The configuration with files and directories for its places.
    pub config: ModelConfig,
    /// Whether `config.path` came from the hub as a checkpoint. Graphs that lie in its folder as well, from another start or of
    /// another tool, are then not this model.
    pub is_checkpoint: bool,
}

/// The same model with every place on this machine, downloaded if need be. Its name is the id on the hub where its first place
/// is one, unless it has a name. Blocks for as long as that takes.
///
/// # Errors
/// When a place is neither there nor an id, and whatever can stand in the way of a download.
pub fn local(config: &ModelConfig, precision: Precision) -> Result<LocalModel, HubError> {
    let mut local = LocalModel { config: config.clone(), is_checkpoint: false };
    if let Some(repo) = repo_at(search::source(config))? {
        local.config.name.get_or_insert_with(|| repo.to_string());
    }
    let wanted =
        |towers: Vec<Tower>, checkpoint| Wanted { towers, checkpoint, suffixes: Suffixes::of(config, precision) };
    if let Some(repo) = repo_at(&config.path)? {
        let own = [(Tower::Vision, &config.vision), (Tower::Text, &config.text)];
        let towers: Vec<Tower> = own.into_iter().filter(|(_, place)| place.is_none()).map(|(tower, _)| tower).collect();
        if towers.is_empty() {
            // Nothing is left to take from it.
            local.config.path = PathBuf::new();
        } else {
            let checkpoint = towers == Tower::BOTH && config.variant.is_none();
            let snapshot =
                Snapshot::get(&repo, config, &wanted(towers, checkpoint)).map_err(|error| error.if_mistyped(&repo))?;
            local.config.path = snapshot.path;
            local.is_checkpoint = snapshot.is_checkpoint;
        }
    }
    for (place, tower) in [(&mut local.config.vision, Tower::Vision), (&mut local.config.text, Tower::Text)] {
        if let Some(repo) = place.as_deref().map(repo_at).transpose()?.flatten() {
            *place = Some(Snapshot::get(&repo, config, &wanted(vec![tower], false))?.path);
        }
    }
    Ok(local)
}

/// The id that `place` is, unless it is on this machine, or there is none.
fn repo_at(place: &Path) -> Result<Option<RepoId>, HubError> {
    // A path that may not be looked at is not an id either: whoever opens it says what is wrong.
    if place.as_os_str().is_empty() || place.try_exists().unwrap_or(true) {
        return Ok(None);
    }
    match place.to_str().and_then(RepoId::parse) {
        Some(repo) => Ok(Some(repo)),
        None => Err(HubError::NotAModel(place.to_owned())),
    }
}

/// The folder that holds a revision of a repository, as far as it is wanted.
struct Snapshot {
    path: PathBuf,
    is_checkpoint: bool,
}

impl Snapshot {
    /// From the hub of `model`, else from the cache.
    fn get(repo: &RepoId, model: &ModelConfig, wanted: &Wanted) -> Result<Self, HubError> {
        let root = model.hub.cache.as_ref().ok_or(HubError::NoCache)?;
        let cache = RepoCache::of(root, repo);
        if model.hub.offline {
            let (repo, revision) = (repo.clone(), model.revision.clone());
            return Self::cached(&cache, &model.revision, wanted).ok_or_else(|| HubError::Offline {
                repo,
                revision,
                cache: root.clone(),
            });
        }
        match Self::download(repo, model, wanted, &cache) {
            Err(error @ HubError::Unavailable { .. }) => {
                let Some(cached) = Self::cached(&cache, &model.revision, wanted) else { return Err(error) };
                tracing::warn!(%error, "the hub cannot be reached; serving what is in the cache");
                Ok(cached)
            }
            outcome => outcome,
        }
    }

    fn cached(cache: &RepoCache, revision: &str, wanted: &Wanted) -> Option<Self> {
        let commit = cache.commit(revision)?;
        let (path, selection) = (cache.snapshot(&commit), select(&cache.files(&commit), wanted).ok()?);
        // Half a model may be there because somebody wanted that tower only; its configuration tells that from one that has no
        // other half.
        let whole = selection.absent.is_none_or(|tower| !describes(&path, tower));
        whole.then_some(Self { path, is_checkpoint: selection.checkpoint })
    }

    fn download(repo: &RepoId, model: &ModelConfig, wanted: &Wanted, cache: &RepoCache) -> Result<Self, HubError> {
        let revision = &*model.revision;
        let client = Client::new(&model.hub, repo, revision)?;
        let Listing { commit, files } = client.list()?;
        let unusable = |reason| HubError::Unusable { repo: repo.clone(), reason };
        let Selection { files: chosen, checkpoint: is_checkpoint, .. } = select(&files, wanted).map_err(unusable)?;
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
        Ok(Self { path: cache.snapshot(&commit), is_checkpoint })
    }
}

/// Whether the configuration in `directory` has this tower, or cannot be understood.
fn describes(directory: &Path, tower: Tower) -> bool {
    let config = fs::read_to_string(directory.join("config.json")).ok();
    let Some(config) = config.and_then(|text| ClipConfig::from_json(&text).ok()) else { return true };
    match tower {
        Tower::Vision => config.vision.is_some(),
        Tower::Text => config.text.is_some(),
    }
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
