//! Where models come from that are not a directory: the variables of the Hugging Face Hub's own tools.
//!
//! Owns their names, defaults and precedence, which are those of `huggingface_hub`, so that a cache, a token or a mirror that
//! somebody has set up works here as it does there. They are not keys of the configuration: `model.path`, `model.vision` and
//! `model.text` say whether the hub is asked at all, so nothing here is an error before that.
//!
//! Invariant: reads the environment that it is handed, and no file.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Address, Secret};

/// The hub that is asked where `HF_ENDPOINT` names no other.
const ENDPOINT: &str = "https://huggingface.co";

/// How the hub is reached and where its files are kept.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: Address,
    /// `HF_HUB_CACHE`, else `hub` in the home; `None` where not even `HOME` is set.
    pub cache: Option<PathBuf>,
    /// `HF_TOKEN`.
    pub token: Option<Secret>,
    /// Where the token is when there is no `HF_TOKEN`: `HF_TOKEN_PATH`, else `token` in the home.
    pub token_file: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`: only the cache is looked at.
    pub offline: bool,
    /// `SSL_CERT_FILE`: the certificates that are trusted (PEM) in place of the bundled ones.
    pub certificates: Option<PathBuf>,
    /// `HTTPS_PROXY`, else `ALL_PROXY`, in upper or lower case.
    pub proxy: Option<Address>,
    /// `NO_PROXY`: hosts that are reached without it, with commas between them.
    pub no_proxy: String,
    /// The pause before the first retry of a request; each further one is twice as long.
    pub retry_delay: Duration,
}

impl HubConfig {
    pub(super) fn from_environment(environment: &BTreeMap<OsString, OsString>) -> Self {
        // An empty variable counts as unset, as in the hub's own tools.
        let get = |name: &str| environment.get(OsStr::new(name)).filter(|value| !value.is_empty());
        let text = |name: &str| Some(get(name)?.to_str()?.trim().to_owned()).filter(|value| !value.is_empty());
        let either = |name: &str| text(name).or_else(|| text(&name.to_ascii_lowercase()));
        let user = get("HOME").map(Path::new);
        let path = |name: &str| get(name).map(|value| expand(Path::new(value), user));
        let home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME").or_else(|| Some(user?.join(".cache")))?;
            Some(caches.join("huggingface"))
        });
        let in_home = |name: &str| Some(home.as_ref()?.join(name));
        Self {
            endpoint: Address::new(text("HF_ENDPOINT").as_deref().unwrap_or(ENDPOINT).trim_end_matches('/')),
            cache: path("HF_HUB_CACHE").or_else(|| in_home("hub")),
            token: text("HF_TOKEN").map(Secret::new),
            token_file: path("HF_TOKEN_PATH").or_else(|| in_home("token")),
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            certificates: path("SSL_CERT_FILE"),
            proxy: either("HTTPS_PROXY").or_else(|| either("ALL_PROXY")).map(Address::new),
            no_proxy: either("NO_PROXY").unwrap_or_default(),
            retry_delay: Duration::from_millis(500),
        }
    }
}

/// `~` at the start is the user's folder.
fn expand(path: &Path, user: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), user) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => path.to_owned(),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

/// Whether `text` can be a branch, a tag or a commit: it becomes part of a path in the cache.
pub(super) fn is_revision(text: &str) -> bool {
    let allowed = |c: char| !c.is_control() && !c.is_whitespace() && !r"\~^:?*[".contains(c);
    text.len() <= 255
        && text.chars().all(allowed)
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(environment: &[(&str, &str)]) -> HubConfig {
        HubConfig::from_environment(&environment.iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    fn cache(environment: &[(&str, &str)]) -> Option<String> {
        Some(hub(environment).cache?.to_str()?.to_owned())
    }

    #[test]
    fn the_cache_is_where_the_hubs_own_tools_have_it() {
        for (environment, expected) in [
            (&[][..], None),
            (&[("HOME", "/u")], Some("/u/.cache/huggingface/hub")),
            (&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")], Some("/x/huggingface/hub")),
            (&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")], Some("/h/hub")),
            (&[("HOME", "/u"), ("HF_HOME", "~/models")], Some("/u/models/hub")),
            (&[("HOME", "/u"), ("HF_HOME", "")], Some("/u/.cache/huggingface/hub")),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")], Some("/c")),
        ] {
            assert_eq!(cache(environment).as_deref(), expected, "{environment:?}");
        }
    }

    #[test]
    fn the_token_comes_from_its_variable_and_else_from_its_file() {
        assert_eq!(
            hub(&[("HF_TOKEN", " hf_x\n")]).token.map(|token| token.expose().to_owned()).as_deref(),
            Some("hf_x")
        );
        assert!(hub(&[("HF_TOKEN", "")]).token.is_none());
        assert_eq!(hub(&[("HF_HOME", "/h")]).token_file.as_deref(), Some(Path::new("/h/token")));
        let moved = hub(&[("HF_HOME", "/h"), ("HF_TOKEN_PATH", "/t")]);
        assert_eq!(moved.token_file.as_deref(), Some(Path::new("/t")));
        assert!(!format!("{:?}", hub(&[("HF_TOKEN", "hf_x")])).contains("hf_x"));
    }

    #[test]
    fn endpoint_offline_certificates_and_proxy_are_read_as_people_know_them() {
        assert_eq!(hub(&[]).endpoint.expose(), "https://huggingface.co");
        assert_eq!(hub(&[("HF_ENDPOINT", "http://mirror:1/hf/")]).endpoint.expose(), "http://mirror:1/hf");
        for (value, offline) in [("1", true), ("ON", true), ("True", true), ("yes", true), ("0", false), ("", false)] {
            assert_eq!(hub(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value:?}");
        }
        let proxied = hub(&[("all_proxy", "http://a"), ("HTTPS_PROXY", "http://b")]);
        assert_eq!(proxied.proxy, Some(Address::new("http://b")));
        assert_eq!(hub(&[("SSL_CERT_FILE", "/c.pem")]).certificates.as_deref(), Some(Path::new("/c.pem")));
        assert_eq!(hub(&[("all_proxy", "http://a"), ("no_proxy", "x,y")]).no_proxy, "x,y");
    }

    #[test]
    fn what_is_printed_of_it_holds_no_password() {
        let hub = hub(&[("HF_ENDPOINT", "https://user:hunter2@mirror/"), ("ALL_PROXY", "user:hunter2@proxy:1")]);
        assert!(hub.endpoint.expose().contains("hunter2"));
        assert!(!format!("{hub:?}").contains("hunter2"), "{hub:?}");
    }

    #[test]
    fn a_revision_is_a_name_of_git_and_never_a_way_out_of_the_cache() {
        for good in ["main", "refs/pr/1", "v1.0", "0123456789abcdef0123456789abcdef01234567", "a-b_c+d"] {
            assert!(is_revision(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "/main",
            "main/",
            "..",
            "a/../b",
            "a//b",
            ".hidden",
            "a b",
            "a\nb",
            r"a\b",
            "a:b",
            &"a".repeat(256),
        ] {
            assert!(!is_revision(bad), "{bad:?}");
        }
    }
}
