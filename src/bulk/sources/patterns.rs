//! Patterns, such as `a/**/*.jpg`: what they match.
//!
//! Owns the walk and which names fit; the crate `glob` says whether one name fits one part of a pattern, and is given no other work, since
//! its own walk panics at names that are not UTF-8. `**` is any folders, none included; hidden names fit what begins with a dot alone.
//! Links to folders are followed by every part but `**`, as in a shell: it may go in a circle.
//!
//! Invariants: what matches comes in the order of code points; a folder that cannot be listed is among it, with the reason.

use std::{
    fs,
    path::{Path, PathBuf},
};

use glob::{MatchOptions, Pattern};
use walkdir::{DirEntry, Error, WalkDir};

use super::own::Own;

/// What makes a name a pattern.
const META: [char; 3] = ['*', '?', '['];

const HIDDEN_STAY_OUT: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: false, require_literal_leading_dot: true };

/// What a pattern leads to.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) path: PathBuf,
    /// Why it cannot be read, where that is known already.
    pub(super) fault: Option<String>,
}

/// Whether `name` is a pattern.
pub(super) fn is_pattern(name: &str) -> bool {
    name.contains(META)
}

/// All that `pattern` matches, but for what is the run's own.
///
/// # Errors
/// One line: it is no pattern, or where it begins cannot be listed or is the run's own.
pub(super) fn matches(pattern: &str, own: &Own) -> Result<Vec<Match>, String> {
    let wanted = Wanted::new(pattern).map_err(|error| format!("{pattern}: {error}"))?;
    own.must_not_have(wanted.start())?;
    let mut found = Vec::new();
    for entry in wanted.walk(own) {
        match entry {
            Ok(entry) => found.extend(wanted.take(&entry)),
            Err(error) if error.depth() == 0 => {
                let is_absent = error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
                if !is_absent {
                    return Err(format!("{pattern}: {error}"));
                }
            }
            Err(error) => found.extend(wanted.faulty(&error)),
        }
    }
    found.sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    Ok(found)
}

/// A pattern, taken apart.
struct Wanted {
    /// What is in front of its first part that is a pattern.
    root: PathBuf,
    parts: Vec<Pattern>,
    /// The first `**`.
    deep: Option<usize>,
    folders_alone: bool,
}

impl Wanted {
    fn new(pattern: &str) -> Result<Self, String> {
        let mut root = PathBuf::from(if pattern.starts_with('/') { "/" } else { "" });
        let mut names = pattern.split('/').filter(|name| !name.is_empty() && *name != ".").peekable();
        while let Some(name) = names.next_if(|name| !is_pattern(name)) {
            root.push(name);
        }
        let part = |part: &str| {
            // Within one part, of which the crate says how far it came.
            Pattern::new(part).map_err(|error| {
                format!(
                    "`{part}` is no pattern from character {} on: `**` stands alone, and `[` has its `]`",
                    error.pos + 1
                )
            })
        };
        let parts = names.map(part).collect::<Result<Vec<_>, _>>()?;
        let deep = parts.iter().position(is_deep);
        let folders_alone = pattern.ends_with('/') || parts.last().is_some_and(is_deep);
        Ok(Self { root, parts, deep, folders_alone })
    }

    fn start(&self) -> &Path {
        if self.root.as_os_str().is_empty() { Path::new(".") } else { &self.root }
    }

    fn walk(&self, own: &Own) -> impl Iterator<Item = Result<DirEntry, Error>> {
        let depth = self.deep.map_or(self.parts.len(), |_| usize::MAX);
        let walk = WalkDir::new(self.start()).max_depth(depth).follow_links(self.deep.is_none());
        walk.into_iter().filter_entry(|entry| self.leads_on(entry) && !own.has_entry(entry))
    }

    /// Whether what matches may be there or below it.
    fn leads_on(&self, entry: &DirEntry) -> bool {
        let Some(at) = entry.depth().checked_sub(1) else { return true };
        let name = entry.file_name().to_string_lossy();
        match self.deep {
            Some(deep) if at >= deep => {
                let names_hidden = self.parts[deep..].iter().any(|part| part.as_str().starts_with('.'));
                names_hidden || !name.starts_with('.')
            }
            _ => self.parts.get(at).is_some_and(|part| fits_one(part, &name)),
        }
    }

    fn below(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.start()).unwrap_or(path).to_owned()
    }

    /// Whether the whole pattern fits.
    fn fits(&self, below: &Path) -> bool {
        let names: Vec<_> = below.iter().map(|name| name.to_string_lossy()).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        fit(&self.parts, &names)
    }

    fn take(&self, entry: &DirEntry) -> Option<Match> {
        let below = self.below(entry.path());
        let is_wanted = self.fits(&below) && (!self.folders_alone || entry.path().is_dir());
        is_wanted.then(|| Match { path: self.root.join(below), fault: None })
    }

    /// What cannot be listed or looked at: a folder, a link that leads nowhere.
    fn faulty(&self, error: &Error) -> Option<Match> {
        let below = self.below(error.path()?);
        let path = self.root.join(&below);
        // A link that leads back to where it is has nothing that is not found otherwise.
        let is_known = error.loop_ancestor().is_none();
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|file| file.is_dir());
        if !is_known || !(is_folder || self.fits(&below)) {
            return None;
        }
        let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
        let fault = if is_folder { unlisted(&path, &reason) } else { format!("{}: {reason}", path.display()) };
        Some(Match { path, fault: Some(fault) })
    }
}

/// Why a row stands for a whole folder.
pub(super) fn unlisted(path: &Path, reason: &str) -> String {
    format!("{}: the folder cannot be listed, and nothing below it is embedded: {reason}", path.display())
}

fn is_deep(part: &Pattern) -> bool {
    part.as_str() == "**"
}

fn fits_one(part: &Pattern, name: &str) -> bool {
    part.matches_with(name, HIDDEN_STAY_OUT)
}

/// Whether all of `names` fit all of `parts`: by how many parts may fit the names so far, so that several `**` do not multiply.
fn fit(parts: &[Pattern], names: &[&str]) -> bool {
    let mut fitting = vec![false; parts.len() + 1];
    fitting[0] = true;
    pass_deep(parts, &mut fitting);
    for name in names {
        let mut next = vec![false; fitting.len()];
        for (at, part) in parts.iter().enumerate().filter(|(at, _)| fitting[*at]) {
            if !is_deep(part) {
                next[at + 1] |= fits_one(part, name);
            } else if !name.starts_with('.') {
                next[at] = true;
            }
        }
        pass_deep(parts, &mut next);
        fitting = next;
    }
    fitting[parts.len()]
}

/// A `**` fits no name, too.
fn pass_deep(parts: &[Pattern], fitting: &mut [bool]) {
    for (at, _) in parts.iter().enumerate().filter(|(_, part)| is_deep(part)) {
        fitting[at + 1] |= fitting[at];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_names_and_two_stars_any_folders() {
        for (pattern, path, expected) in [
            ("a/**/*.png", "x.png", true),
            ("a/**/*.png", "b/c/x.png", true),
            ("a/**/*.png", "b/.c/x.png", false),
            ("a/**/.c/*.png", "b/.c/x.png", true),
            ("a/**/*.png", "b/.x.png", false),
            ("a/*/x.png", "x.png", false),
            ("a/*/x.png", "b/c/x.png", false),
            ("a/[bc]?/*", "b1/x", true),
            ("**", "", true),
            ("**/b/**/*.png", "a/b/c/b/d.png", true),
        ] {
            assert_eq!(Wanted::new(pattern).unwrap().fits(Path::new(path)), expected, "{pattern} {path}");
        }
        let deep = format!("{}x.png", "**/a/".repeat(30));
        let path = format!("{}x.jpg", "a/".repeat(200));
        assert!(!Wanted::new(&deep).unwrap().fits(Path::new(&path)), "and says so within this age");
        assert!(Wanted::new(&deep).unwrap().fits(Path::new(&path.replace("jpg", "png"))));
        let elsewhere = Own::new(Path::new("/absent"));
        assert!(matches("a/x**", &elsewhere).unwrap_err().starts_with("a/x**: "));
        assert_eq!(Wanted::new("./a//b/*.png").unwrap().root, Path::new("a/b"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_but_by_two_stars() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("real/sub")).unwrap();
        fs::write(root.path().join("real/a.png"), "").unwrap();
        std::os::unix::fs::symlink("real", root.path().join("link")).unwrap();
        std::os::unix::fs::symlink("..", root.path().join("real/circle")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("real/b.png")).unwrap();
        let found = |pattern: &str| {
            let own = Own::new(&root.path().join("out"));
            let found = matches(&root.path().join(pattern).display().to_string(), &own).unwrap();
            let name = |found: Match| found.path.strip_prefix(root.path()).unwrap().display().to_string();
            found.into_iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(found("*/*.png"), ["link/a.png", "link/b.png", "real/a.png", "real/b.png"]);
        assert_eq!(found("**/*.png"), ["real/a.png", "real/b.png"]);
        assert_eq!(found("*/"), ["link", "real"]);
        assert!(found("absent/*").is_empty());
    }
}
