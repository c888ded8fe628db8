//! The address of a picture: what can be said of it before anybody is asked.
//!
//! Owns the parsing, which is that of browsers (`url`), so that every spelling of a host comes out as one, and the refusals that follow from
//! the address and `web.allow_hosts` alone. Does not own which network addresses are dialled (`network`).
//!
//! Invariants: an address has a scheme of the two, a host that is allowed, and no credentials; what is dialled and sent is what has been
//! parsed, never the text that came; what is logged of it has no query.

use std::fmt;

use url::Url;

use crate::config::AllowedHosts;

/// Bytes of an address.
const MAX_BYTES: usize = 8192;

/// Bytes of an address in a line of the log.
const MAX_SHOWN: usize = 256;

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Url);

/// Why nothing is asked for an address. The texts are for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No URL.
    #[error(
        "the address of the picture is no URL, or has a blank or a control character in it; percent-encode what is not ASCII"
    )]
    Malformed,
    /// Of the text.
    #[error("the address of the picture has more than {MAX_BYTES} bytes, which is the limit")]
    TooLong,
    /// Neither `http` nor `https`.
    #[error("the address of the picture is neither http nor https")]
    Scheme,
    /// A user, a password, or the sign behind them.
    #[error("the address of the picture has a user or a password in it, which is never sent; leave it out")]
    Credentials,
    /// Not in `web.allow_hosts`.
    #[error(
        "pictures are not fetched from the host of this address; send the picture itself, as base64 or a data URL, or have the host, with \
         a port that is not its scheme's own, added to web.allow_hosts"
    )]
    Host,
    /// From `https` to `http`.
    #[error("the address leads from https to http")]
    Downgrade,
}

impl Address {
    /// Of a text that begins with `http://` or `https://`.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn parse(text: &str, hosts: &AllowedHosts) -> Result<Self, Unfit> {
        check_text(text)?;
        // Browsers drop an empty user, and undo percent-encoding in hosts: who writes so means to be read otherwise elsewhere.
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split(['/', '\\', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(Unfit::Credentials);
        }
        if authority.contains('%') {
            return Err(Unfit::Malformed);
        }
        Self::of(Url::parse(text).map_err(|_| Unfit::Malformed)?, hosts)
    }

    /// Where a redirect from here leads.
    ///
    /// # Errors
    /// [`Unfit`], as for an address of its own, and where it leads from `https` to `http`.
    pub(super) fn follow(&self, location: &str, hosts: &AllowedHosts) -> Result<Self, Unfit> {
        check_text(location)?;
        let next = Self::of(self.0.join(location).map_err(|_| Unfit::Malformed)?, hosts)?;
        if self.0.scheme() == "https" && next.0.scheme() != "https" {
            return Err(Unfit::Downgrade);
        }
        Ok(next)
    }

    fn of(mut url: Url, hosts: &AllowedHosts) -> Result<Self, Unfit> {
        if !["http", "https"].contains(&url.scheme()) {
            return Err(Unfit::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Unfit::Credentials);
        }
        // Not sent, and else one picture would be two.
        url.set_fragment(None);
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(Unfit::Malformed);
        };
        if !hosts.allow(host, port, url.port().is_none()) {
            return Err(Unfit::Host);
        }
        Ok(Self(url))
    }

    /// As it is asked for.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Its host, an address of IPv6 in brackets.
    pub(super) fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

fn check_text(text: &str) -> Result<(), Unfit> {
    if text.len() > MAX_BYTES {
        return Err(Unfit::TooLong);
    }
    // A parser of browsers passes over them, which no other reader of the same text does.
    if text.contains(|char: char| char <= ' ' || char == '\u{7f}') {
        return Err(Unfit::Malformed);
    }
    Ok(())
}

/// For the log: without the query, which may be a signature.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is parsed is ASCII.
        let text = self.0.as_str().split('?').next().unwrap_or_default();
        match text.get(..MAX_SHOWN) {
            Some(start) if text.len() > MAX_SHOWN => write!(f, "{start}…"),
            _ => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, load};

    fn hosts(list: &str) -> AllowedHosts {
        let set = vec!["model.path=m".to_owned(), format!("web.allow_hosts={list}")];
        load(&Overrides { set, ..Overrides::default() }, []).expect("valid").config.web.allow_hosts
    }

    fn parse(text: &str) -> Result<String, Unfit> {
        let hosts = hosts("cdn.example.com,*.images.example,minio:9000");
        Address::parse(text, &hosts).map(|address| address.as_str().to_owned())
    }

    #[test]
    fn an_address_is_read_as_browsers_read_it() {
        for (text, expected) in [
            ("http://cdn.example.com", "http://cdn.example.com/"),
            ("HTTPS://CDN.Example.COM:443/a/../b.png?x=1#f", "https://cdn.example.com/b.png?x=1"),
            ("https://a.images.example/%2e%2e/\u{e9}.png", "https://a.images.example/%C3%A9.png"),
            ("http://minio:9000/bucket/key", "http://minio:9000/bucket/key"),
            ("http:///cdn.example.com/a", "http://cdn.example.com/a"),
            ("http://cdn.example.com\\a", "http://cdn.example.com/a"),
            ("http://\u{ff43}dn.example.com/", "http://cdn.example.com/"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_odd_in_an_address_is_refused_before_anybody_is_asked() {
        use Unfit::{Credentials, Host, Malformed, TooLong};
        for (text, expected) in [
            ("https://cdn.example.com@evil.example/", Credentials),
            ("https://cdn.example.com:x@evil.example/", Credentials),
            ("https://@cdn.example.com/", Credentials),
            ("https://user:pass@cdn.example.com/", Credentials),
            ("https://cdn.example.com%2f@evil.example/", Credentials),
            ("https://evil.example\\@cdn.example.com/", Host),
            ("https://evil.example#@cdn.example.com/", Host),
            ("https://evil.example?@cdn.example.com/", Host),
            ("https://cdn.example.com.evil.example/", Host),
            ("https://cdn.example.com./", Host),
            ("https://evilcdn.example.com/", Host),
            ("https://images.example/", Host),
            ("http://cdn.example.com:443/", Host),
            ("http://cdn.example.com:8080/", Host),
            ("http://minio/", Host),
            ("http://cdn.ex%61mple.com/", Malformed),
            ("http://cdn.example.com%00.evil.example/", Malformed),
            ("http://cdn.example.com:99999/", Malformed),
            ("http://cdn.exa\tmple.com/", Malformed),
            ("http://cdn.example.com/a b", Malformed),
            ("http://cdn.example.com/\r\nHost: x", Malformed),
            ("http://", Malformed),
            ("http://[::1", Malformed),
            ("http://[fe80::1%25eth0]/", Malformed),
            ("http://1.2.3.4.5/", Malformed),
            ("http://0x7f.0.0.0x100000000/", Malformed),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
        let long = |len: usize| format!("http://minio:9000/{}", "a".repeat(len - 18));
        assert!(parse(&long(MAX_BYTES)).is_ok());
        assert_eq!(parse(&long(MAX_BYTES + 1)), Err(TooLong));
    }

    #[test]
    fn a_redirect_is_held_to_the_same_and_never_leaves_tls() {
        let hosts = hosts("cdn.example.com,other.example");
        let follow = |from: &str, location: &str| {
            let from = Address::parse(from, &hosts).expect(from);
            from.follow(location, &hosts).map(|address| address.as_str().to_owned())
        };
        let (secure, plain) = ("https://cdn.example.com/a/b", "http://cdn.example.com/a/b");
        for (from, location, expected) in [
            (secure, "/c", Ok("https://cdn.example.com/c")),
            (secure, "c?d", Ok("https://cdn.example.com/a/c?d")),
            (secure, "//other.example/c", Ok("https://other.example/c")),
            (plain, "https://other.example/c", Ok("https://other.example/c")),
            (secure, "http://cdn.example.com/c", Err(Unfit::Downgrade)),
            (secure, "http://other.example/c", Err(Unfit::Downgrade)),
            (plain, "http://other.example:8080/c", Err(Unfit::Host)),
            (plain, "http://127.0.0.1/", Err(Unfit::Host)),
            (plain, "//169.254.169.254/", Err(Unfit::Host)),
            (plain, "http://u:p@other.example/", Err(Unfit::Credentials)),
            (plain, "file:///etc/passwd", Err(Unfit::Scheme)),
            (plain, "gopher://other.example/_", Err(Unfit::Scheme)),
            (plain, "data:image/png;base64,QUJD", Err(Unfit::Scheme)),
            (plain, "http://other.example/\n", Err(Unfit::Malformed)),
        ] {
            assert_eq!(follow(from, location).as_deref(), expected.as_deref(), "{from} to {location}");
        }
    }

    #[test]
    fn the_log_has_no_query_and_is_short() {
        let shown = |text: &str| Address::parse(text, &hosts("a.example")).expect(text).to_string();
        assert_eq!(shown("https://a.example/p.png?X-Amz-Signature=secret#f"), "https://a.example/p.png");
        let long = shown(&format!("https://a.example/{}", "p".repeat(500)));
        assert!(long.len() < MAX_SHOWN + 4 && long.ends_with("p…"), "{long}");
    }
}
