//! The origins of other people's web pages that may call the service.
//!
//! Owns how an origin is spelt: as a browser sends it, since the two are compared as bytes. A spelling that no browser sends would
//! never match, so it is refused and not mended: who wrote it learns of it at the start.

/// Whose scripts a browser lets read our answers (`server.cors_origins`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Nobody's but our own.
    #[default]
    Own,
    /// Those of these origins.
    Listed(Vec<String>),
    /// Everybody's.
    Any,
}

/// What each scheme's port is when none is said.
const DEFAULT_PORTS: [(&str, u16); 2] = [("http", 80), ("https", 443)];

/// "" for none, "*" for all, else origins with commas between them; `None` where that is not so.
pub(super) fn parse_origins(text: &str) -> Option<CorsOrigins> {
    match text.trim() {
        "" => Some(CorsOrigins::Own),
        "*" => Some(CorsOrigins::Any),
        text => {
            let origins: Vec<&str> = text.split(',').map(str::trim).collect();
            let sound = origins.iter().all(|origin| is_origin(origin));
            sound.then(|| CorsOrigins::Listed(origins.into_iter().map(str::to_owned).collect()))
        }
    }
}

/// `scheme://host[:port]`. Any scheme, for there are those of browser extensions and of applications in a web view.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    is_scheme(scheme) && is_host(host) && port.is_none_or(|port| is_port(port, scheme))
}

fn is_scheme(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_lowercase()) && text.bytes().all(known)
}

fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address);
    }
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(known)
}

fn is_port(text: &str, scheme: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port.to_string() == text && !DEFAULT_PORTS.contains(&(scheme, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_some_and_all() {
        assert_eq!(parse_origins(""), Some(CorsOrigins::Own));
        assert_eq!(parse_origins("*"), Some(CorsOrigins::Any));
        let listed = parse_origins("https://app.example.com, http://localhost:3000");
        let expected = ["https://app.example.com", "http://localhost:3000"].map(str::to_owned).to_vec();
        assert_eq!(listed, Some(CorsOrigins::Listed(expected)));
    }

    #[test]
    fn what_browsers_send_is_an_origin() {
        for good in [
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "https://[2001:db8::1]",
            "https://xn--bcher-kva.example",
            "http://my_host",
            "chrome-extension://abcdefghijklmnop",
            "tauri://localhost",
            "http://a:443",
        ] {
            assert!(is_origin(good), "{good}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_none() {
        for bad in [
            "*",
            "null",
            "",
            "app.example.com",
            "https://",
            "https:///",
            "https://a/",
            "https://a/b",
            "https://a?b",
            "https://a#b",
            "HTTPS://a",
            "https://A",
            "https://a:443",
            "http://a:80",
            "http://a:",
            "http://a:080",
            "http://a:65536",
            "http://a:x",
            "https://u@a",
            "https://*.a",
            "https://bücher.example",
            "https://a b",
            "https://[::1",
            "https://[0::1]",
            "://a",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
        for bad in
            [",", "https://a,", "*,https://a", "https://a,,https://b", "https://a https://b", "https://a;https://b"]
        {
            assert_eq!(parse_origins(bad), None, "{bad}");
        }
    }
}
