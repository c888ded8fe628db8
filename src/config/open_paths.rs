//! The paths that want no key.
//!
//! Owns how they are spelt. Does not own which paths there are (`http`), which refuses those that are none.

/// Paths that want no key (`server.open_paths`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenPaths(Vec<String>);

/// Stands for all paths.
const ALL: &str = "*";

impl OpenPaths {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is all there are.
    pub fn are_all(&self) -> bool {
        self.0.iter().any(|path| path == ALL)
    }

    /// Each, as it was given; none where it is all.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).filter(|path| *path != ALL)
    }
}

/// Paths with commas between them, or what is wrong with one.
pub(super) fn parse_open_paths(text: &str) -> Result<OpenPaths, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(OpenPaths::default());
    }
    let paths: Vec<String> = text.split(',').map(|path| path.trim().to_owned()).collect();
    if paths.len() > 1 && paths.iter().any(|path| path == ALL) {
        return Err("\"*\" is all paths and stands alone".to_owned());
    }
    let is_path = |path: &str| path == ALL || path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    match paths.iter().find(|path| !is_path(path)) {
        Some(path) => Err(format!("{path:?} is no path: it begins with a slash")),
        None => Ok(OpenPaths(paths)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_with_a_slash_and_a_star_stands_alone() {
        let paths = parse_open_paths(" /predict, /v2/models/*").expect("valid");
        assert_eq!(paths.iter().collect::<Vec<_>>(), ["/predict", "/v2/models/*"]);
        assert!(!paths.are_all() && !paths.is_empty());
        let all = parse_open_paths("*").expect("valid");
        assert!(all.are_all() && all.iter().next().is_none());
        assert!(parse_open_paths(" ").expect("none").is_empty());
        for (bad, expected) in [("predict", "slash"), ("/a,,/b", "slash"), ("/a b", "slash"), ("*,/a", "alone")] {
            let fault = parse_open_paths(bad).expect_err(bad);
            assert!(fault.contains(expected), "{bad}: {fault}");
        }
    }
}
