//! An address on the network that may hold a user and a password.
//!
//! Owns what of it may be shown. Does not own whether it is one: whoever connects finds out.
//!
//! Invariant: neither `Display` nor `Debug` shows a user or a password, also where the text is no proper address; only
//! [`Address::expose`] does.

use std::fmt;

/// An address as it was given; shown without its user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// Takes any text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The whole text, for a connection.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// This address with `rest` after it.
    pub fn join(&self, rest: &str) -> Self {
        Self(format!("{}{rest}", self.0))
    }

    /// Where a redirect from here to `location` leads, with the user and the password of this address, if that is on the same
    /// scheme, host and port.
    pub fn on_same_host(&self, location: &str) -> Option<Self> {
        let here = Parts::of(&self.0)?;
        let path = if location.starts_with('/') && !location.starts_with("//") {
            location
        } else {
            let there = Parts::of(location).filter(|there| (there.scheme, there.host) == (here.scheme, here.host))?;
            there.path
        };
        path.starts_with('/').then(|| Self(format!("{}{}{}{path}", here.scheme, here.user, here.host)))
    }
}

/// `text` of somebody else's, with every word in it that may be an address shown as one.
pub fn without_passwords(text: &str) -> String {
    text.split(' ').map(|word| Address::new(word).to_string()).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.find("://").map_or(0, |at| at + 3);
        // The last one, wherever it is: a password may hold an `@`, or a `/` that should have been escaped.
        match self.0.rfind('@').filter(|at| *at >= scheme) {
            Some(at) => {
                let (scheme, rest) = (self.0.get(..scheme), self.0.get(at..));
                write!(f, "{}[redacted]{}", scheme.unwrap_or_default(), rest.unwrap_or_default())
            }
            None => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// `https://`, `user:password@`, `host:port`, and what follows.
struct Parts<'a> {
    scheme: &'a str,
    user: &'a str,
    host: &'a str,
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn of(address: &'a str) -> Option<Self> {
        let (scheme, rest) = address.split_at_checked(address.find("://")? + 3)?;
        let (authority, path) = rest.split_at_checked(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()))?;
        let (user, host) = authority.split_at_checked(authority.rfind('@').map_or(0, |at| at + 1))?;
        Some(Self { scheme, user, host, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_user_and_password_however_badly_it_is_written() {
        for (text, shown) in [
            ("https://mirror/hf", "https://mirror/hf"),
            ("https://user:secret@mirror:1/hf", "https://[redacted]@mirror:1/hf"),
            ("https://secret@mirror", "https://[redacted]@mirror"),
            ("socks5://user:se@cret@proxy:1080", "socks5://[redacted]@proxy:1080"),
            ("http://user:sec/ret@proxy", "http://[redacted]@proxy"),
            ("http://user:1/secret@proxy", "http://[redacted]@proxy"),
            ("user:secret@proxy:3128", "[redacted]@proxy:3128"),
            ("http://user:sec ret@[::1]:1/", "http://[redacted]@[::1]:1/"),
            ("a@b://c", "a@b://c"),
            ("", ""),
        ] {
            let address = Address::new(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(format!("{address:?}"), format!("{shown:?}"));
            assert_eq!(address.expose(), text);
        }
    }

    #[test]
    fn the_addresses_in_a_text_of_others_are_shown_so_too() {
        let text = "bad uri: user:secret@mirror/api is missing scheme";
        assert_eq!(without_passwords(text), "bad uri: [redacted]@mirror/api is missing scheme");
        assert_eq!(without_passwords("http: invalid  format"), "http: invalid  format");
    }

    #[test]
    fn a_redirect_stays_on_the_host_only_when_it_says_so() {
        let url = Address::new("https://hub:1/a/b/resolve/main/x");
        for (location, expected) in [
            ("/api/x", Some("https://hub:1/api/x")),
            ("https://hub:1/api/x", Some("https://hub:1/api/x")),
            ("https://hub:12/api/x", None),
            ("http://hub:1/api/x", None),
            ("https://hub:1.evil/x", None),
            ("https://hub:1@evil/x", None),
            ("https://hub:1?@evil/x", None),
            ("https://hub:1\\@evil/x", None),
            ("https://hub:1", None),
            ("//evil/x", None),
            ("x", None),
        ] {
            assert_eq!(url.on_same_host(location).as_ref().map(Address::expose), expected, "{location}");
        }
    }

    #[test]
    fn a_redirect_on_the_host_keeps_the_user_and_the_password() {
        let url = Address::new("https://user:secret@hub:1/a");
        for location in ["/b", "https://hub:1/b", "https://user:secret@hub:1/b", "https://other:one@hub:1/b"] {
            let next = url.on_same_host(location).expect(location);
            assert_eq!(
                (next.expose(), &*next.to_string()),
                ("https://user:secret@hub:1/b", "https://[redacted]@hub:1/b")
            );
        }
        assert_eq!(url.on_same_host("https://user:secret@hub:2/b"), None);
        assert_eq!(url.on_same_host("https://user:secret@hub:1@evil/b"), None);
    }
}
