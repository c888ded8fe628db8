//! The file of keys: `[[keys]]` in TOML.
//!
//! Owns its format and what is said of one that is wrong: one line that names the file, the key and what is allowed. Does not own what a
//! key is good for.
//!
//! Invariant: no error shows a key, a digest, or a line of the file.

use std::{collections::BTreeSet, path::Path};

use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use crate::{config::Secret, watched::contents};

/// The name of `server.api_key`.
pub(super) const OF_THE_CONFIGURATION: &str = "api_key";

/// The longest key, bytes.
pub(super) const MAX_KEY: usize = 1024;

/// Bytes of the file; a thousand keys have some two hundred thousand.
const MAX_FILE: u64 = 1 << 20;

/// Keys in it, each of which has series of metrics of its own.
const MAX_KEYS: usize = 1000;

/// Bytes of a name.
const MAX_NAME: usize = 64;

/// The most requests that a key may have at a time, as of `limits.max_inflight_requests`.
const MOST_REQUESTS: i64 = 1_000_000;

const FIELDS: [&str; 5] = ["name", "key", "sha256", "max_inflight_requests", "queue_share"];

/// A key as it stands in the file.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) name: String,
    /// Of the key.
    pub(super) sha256: [u8; 32],
    pub(super) max_inflight_requests: Option<usize>,
    pub(super) queue_share: Option<f64>,
}

/// The keys in the file at `path`, none of which is `own`, that of the configuration; warns where others can read them.
///
/// # Errors
/// One line.
pub(super) fn read(path: &Path, own: Option<&Secret>) -> Result<Vec<Listed>, String> {
    let fault =
        |reason: String| format!("server.api_keys_file {}: {reason}", path.display()).replace(['\n', '\r'], " ");
    let (bytes, mode) = contents(path, MAX_FILE).map_err(fault)?;
    let text = String::from_utf8(bytes).map_err(|_| fault("it is not UTF-8; save it as that".to_owned()))?;
    let (keys, has_plain) = parse(&text, own).map_err(fault)?;
    if has_plain && mode & 0o004 != 0 {
        tracing::warn!(
            "server.api_keys_file {} holds keys that every account of this machine can read (mode {:o}): take that away (chmod o-r), or \
             give their sha256 in place of them",
            path.display(),
            mode & 0o777
        );
    }
    Ok(keys)
}

/// The keys in `text`, and whether one of them stands there itself and not its digest.
fn parse(text: &str, own: Option<&Secret>) -> Result<(Vec<Listed>, bool), String> {
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: not valid TOML: {}", before.matches('\n').count() + 1, error.message())
    })?;
    let keys = match table.remove("keys") {
        Some(Value::Array(keys)) if !keys.is_empty() => keys,
        _ => return Err("it has no key: each is a table [[keys]] with a name and a key or its sha256".to_owned()),
    };
    // What stands where a name belongs may be a key.
    if !table.is_empty() {
        return Err("it has something beside [[keys]], which is all that there may be".to_owned());
    }
    if keys.len() > MAX_KEYS {
        return Err(format!("it has {} keys, the limit is {MAX_KEYS}", keys.len()));
    }
    let (mut names, mut digests, mut has_plain) = (BTreeSet::new(), BTreeSet::new(), false);
    let own: Option<[u8; 32]> = own.map(|own| Sha256::digest(own.expose()).into());
    let mut listed = Vec::with_capacity(keys.len());
    for (number, key) in (1..).zip(keys) {
        let fault = |what: String| format!("key {number}: {what}");
        let Value::Table(key) = key else { return Err(fault("it is no table [[keys]]".to_owned())) };
        has_plain |= key.contains_key("key");
        let key = entry(&key).map_err(fault)?;
        if !names.insert(key.name.clone()) {
            return Err(fault(format!("another key has the name {:?}, too", key.name)));
        }
        // Of two names and two limits one would count, and nobody said which.
        if own == Some(key.sha256) {
            return Err(fault(format!("{:?} is the same key as server.api_key", key.name)));
        }
        if !digests.insert(key.sha256) {
            return Err(fault(format!("{:?} is the same key as one before it", key.name)));
        }
        listed.push(key);
    }
    Ok((listed, has_plain))
}

fn entry(key: &Table) -> Result<Listed, String> {
    // Not repeated: what stands where a name belongs may be a key.
    if key.keys().any(|field| !FIELDS.contains(&field.as_str())) {
        return Err(format!("it has another field than these: {}", FIELDS.join(", ")));
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let is_name = |name: &&str| (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(known);
    let name = key.get("name").and_then(Value::as_str).filter(is_name);
    let name =
        name.ok_or_else(|| format!("name must be {MAX_NAME} letters, digits, \"_\", \"-\" and \".\" at most"))?;
    if name == OF_THE_CONFIGURATION {
        return Err(format!("the name {name:?} is that of server.api_key; give another"));
    }
    let fault = |field: &str, must: String| format!("{name:?}: {field} must be {must}");
    let sha256 = match (key.get("key"), key.get("sha256")) {
        (Some(plain), None) => plain
            .as_str()
            .and_then(digest_of)
            .ok_or_else(|| fault("key", format!("printable ASCII without blanks, 1 to {MAX_KEY} bytes")))?,
        (None, Some(hex)) => {
            let digest = hex.as_str().and_then(digest);
            digest.ok_or_else(|| fault("sha256", "the SHA-256 of the key, 64 hexadecimal digits".to_owned()))?
        }
        _ => return Err(format!("{name:?}: it must have a key or its sha256, one of them")),
    };
    let max_inflight_requests = match key.get("max_inflight_requests") {
        None => None,
        Some(value) => {
            let number = value.as_integer().filter(|number| (1..=MOST_REQUESTS).contains(number));
            let must = || fault("max_inflight_requests", format!("an integer from 1 to {MOST_REQUESTS}"));
            Some(number.and_then(|number| usize::try_from(number).ok()).ok_or_else(must)?)
        }
    };
    let queue_share = match key.get("queue_share") {
        None => None,
        Some(value) => {
            let share = value.as_float().or_else(|| value.as_integer().map(|share| share as f64));
            let must = || fault("queue_share", "a number above 0, at most 1".to_owned());
            Some(share.filter(|share| *share > 0.0 && *share <= 1.0).ok_or_else(must)?)
        }
    };
    Ok(Listed { name: name.to_owned(), sha256, max_inflight_requests, queue_share })
}

/// The digest of a key that stands there itself, where a header can carry it.
fn digest_of(key: &str) -> Option<[u8; 32]> {
    let fits = (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| Sha256::digest(key).into())
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 2 * digest.len() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `hunter2`.
    const SHA256: &str = "f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7";

    #[test]
    fn a_key_stands_there_itself_or_as_its_digest() {
        let text = format!(
            "[[keys]]\nname = \"search\"\nkey = \"hunter2\"\nmax_inflight_requests = 3\n\
             [[keys]]\nname = \"b-2_x.y\"\nsha256 = \"{}\"\nqueue_share = 1\n[[keys]]\nname = \"c\"\nkey = \"other\"\nqueue_share = 0.25\n",
            "0F".repeat(32)
        );
        let (keys, has_plain) = parse(&text, None).expect("valid");
        assert_eq!(keys[0].sha256, digest(SHA256).expect("hexadecimal"));
        assert_eq!((keys[0].max_inflight_requests, keys[0].queue_share), (Some(3), None));
        assert_eq!((keys[1].sha256, keys[1].queue_share), ([0x0f; 32], Some(1.0)));
        assert_eq!((keys[2].name.as_str(), keys[2].queue_share), ("c", Some(0.25)));
        assert!(has_plain);
        assert!(!parse(&format!("[[keys]]\nname = \"a\"\nsha256 = \"{SHA256}\"\n"), None).expect("valid").1);
    }

    #[test]
    fn what_is_wrong_is_one_line_that_shows_no_key() {
        let own = Secret::new("hunter22".to_owned());
        let same = format!("[[keys]]\nname = \"a\"\nkey = \"hunter2\"\n[[keys]]\nname = \"b\"\nsha256 = \"{SHA256}\"");
        let many: String = (0..1001).map(|n| format!("[[keys]]\nname = \"n{n}\"\nkey = \"hunter2{n}\"\n")).collect();
        let long = format!("[[keys]]\nname = \"a\"\nkey = \"{}\"", "hunter2".repeat(200));
        for (text, expected) in [
            ("", "no key"),
            ("keys = []", "no key"),
            ("keys = \"hunter2\"", "no key"),
            ("keys = [1]", "key 1: it is no table"),
            ("[[keys]]\nname = \"a\"\nkey = hunter2\n", "line 3: not valid TOML"),
            ("limit = 1\n[[keys]]\nname = \"a\"\nkey = \"hunter2\"", "something beside"),
            ("[[keys]]\nname = \"a\"\nkey = \"x\"\n[hunter2]", "something beside"),
            ("[[keys]]\nkey = \"hunter2\"", "key 1: name must be"),
            ("[[keys]]\nname = \"two words\"\nkey = \"hunter2\"", "key 1: name must be"),
            ("[[keys]]\nname = \"api_key\"\nkey = \"hunter2\"", "that of server.api_key"),
            ("[[keys]]\nname = \"a\"", "\"a\": it must have a key or"),
            ("[[keys]]\nname = \"a\"\nkey = \"\"", "\"a\": key must be"),
            ("[[keys]]\nname = \"a\"\nkey = \"hunter2 \"", "\"a\": key must be"),
            ("[[keys]]\nname = \"a\"\nkey = 5", "\"a\": key must be"),
            ("[[keys]]\nname = \"a\"\nsha256 = \"hunter2\"", "\"a\": sha256 must be"),
            ("[[keys]]\nname = \"a\"\nkey = \"hunter2\"\nlimit = 3", "another field than these: name, key"),
            ("[[keys]]\nname = \"a\"\nhunter2 = 3\nkey = \"x\"", "another field than these: name, key"),
            ("[[keys]]\nname = \"a\"\nkey = \"hunter2\"\nmax_inflight_requests = 0", "from 1 to 1000000"),
            ("[[keys]]\nname = \"a\"\nkey = \"hunter2\"\nqueue_share = 0", "above 0"),
            ("[[keys]]\nname = \"a\"\nkey = \"hunter2\"\nqueue_share = 1.5", "above 0"),
            ("[[keys]]\nname = \"a\"\nkey = \"hunter2\"\nqueue_share = nan", "above 0"),
            ("[[keys]]\nname = \"a\"\nkey = \"hunter2\"\n[[keys]]\nname = \"a\"\nkey = \"x\"", "key 2: another key"),
            (&same, "key 2: \"b\" is the same key as one before"),
            ("[[keys]]\nname = \"a\"\nkey = \"hunter22\"", "\"a\" is the same key as server.api_key"),
            (&many, "1001 keys, the limit is 1000"),
            (&long, "1 to 1024 bytes"),
        ] {
            let fault = parse(text, Some(&own)).expect_err(text);
            assert!(fault.contains(expected) && !fault.contains("hunter2") && !fault.contains(SHA256), "{fault}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_or_is_too_large_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.toml");
        let fault = read(&path, None).expect_err("missing");
        assert!(fault.starts_with("server.api_keys_file ") && fault.contains("keys.toml"), "{fault}");
        std::fs::write(&path, " ".repeat(1 << 20) + " ").expect("written");
        assert!(read(&path, None).expect_err("too large").contains("more than 1048576 bytes"));
    }
}
