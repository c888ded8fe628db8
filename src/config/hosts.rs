//! The hosts that pictures may be fetched from, and the networks that may be dialled for it.
//!
//! Owns how an entry is spelt, and which hosts it means. Does not own what an address looks like (`web`), nor which networks are never
//! dialled without an entry.
//!
//! A spelling that no address has once it is parsed would never match, so it is refused and not mended: who wrote it learns of it at
//! the start.
//!
//! Invariant: a host is compared whole and parsed, never by how an address begins.

use ipnet::IpNet;
use url::Host;

/// Hosts that pictures may be fetched from (`web.allow_hosts`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// As addresses have it once they are parsed.
    host: String,
    /// Whether it is what stands behind `*.`.
    is_suffix: bool,
    /// `None`: that of the scheme.
    port: Option<u16>,
}

impl AllowedHosts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `host` is one of them, as `url` writes it, on `port`, which is or is not the one that its scheme has by itself.
    pub fn allow(&self, host: &str, port: u16, is_of_scheme: bool) -> bool {
        self.0.iter().any(|entry| entry.allows(host, port, is_of_scheme))
    }
}

impl Entry {
    fn allows(&self, host: &str, port: u16, is_of_scheme: bool) -> bool {
        let is_host = match host.strip_suffix(&*self.host) {
            Some("") => !self.is_suffix,
            Some(below) => self.is_suffix && below.len() > 1 && below.ends_with('.'),
            None => false,
        };
        is_host && self.port.map_or(is_of_scheme, |allowed| allowed == port)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let fault = |what: &str| Err(format!("{text:?}: {what}"));
        if text.contains("://") {
            return fault("a host is given without its scheme: http and https are both allowed");
        }
        if text.contains(['/', '?', '#', '@', '%', '\\']) {
            return fault("a host is given without a path, a user or anything else but a port");
        }
        if text == "*" || text == "*." {
            return fault(
                "whoever may call the service could make it ask any host; name the hosts, or what they are below",
            );
        }
        let (host, port) = match text.rsplit_once(':') {
            // The colons of an IPv6 address stand in brackets.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return fault("a port is a number from 1 to 65535"),
        };
        let (name, is_suffix) = match host.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (host, false),
        };
        let parsed = match Host::parse(name) {
            Ok(Host::Domain(domain)) if domain.ends_with('.') || domain.contains('*') => None,
            // An address has many spellings, and stands in a URL in one.
            Ok(Host::Domain(domain)) => Some(domain),
            Ok(address) => Some(address.to_string()).filter(|address| *address == name && !is_suffix),
            Err(_) => None,
        };
        match parsed {
            Some(host) => Ok(Self { host, is_suffix, port }),
            None => fault(
                "this is no host: an IPv6 address stands in brackets, \"*.\" may stand once, at the start, and no dot at the end",
            ),
        }
    }
}

/// Hosts with commas between them, or what is wrong with one.
pub(super) fn parse_hosts(text: &str) -> Result<AllowedHosts, String> {
    entries(text).map(Entry::parse).collect::<Result<_, _>>().map(AllowedHosts)
}

/// Networks with commas between them, or what is wrong with one.
pub(super) fn parse_networks(text: &str) -> Result<Vec<IpNet>, String> {
    let parse = |text: &str| match text.parse::<IpNet>() {
        Ok(network) if network.trunc() == network => Ok(network),
        Ok(network) => Err(format!("{text:?} has bits behind its prefix; write \"{}\"", network.trunc())),
        Err(_) => Err(format!("{text:?} is no network: an address, a slash and the bits of its prefix")),
    };
    entries(text).map(parse).collect()
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    // One empty entry is none, several are a mistake that the parsers refuse.
    let text = text.trim();
    text.split(',').map(str::trim).filter(move |_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_allowed_whole_on_its_port_and_below_a_star() {
        let hosts =
            parse_hosts("images.example.com, MinIO:9000,*.cdn.example,[2001:db8::1]:80,192.0.2.7,b\u{fc}cher.example")
                .expect("valid");
        for (host, port, of_scheme, expected) in [
            ("images.example.com", 443, true, true),
            ("images.example.com", 80, true, true),
            ("images.example.com", 443, false, false),
            ("images.example.com", 8080, false, false),
            ("images.example.com.", 443, true, false),
            ("images.example.com.evil.example", 443, true, false),
            ("evil-images.example.com", 443, true, false),
            ("x.images.example.com", 443, true, false),
            ("minio", 9000, false, true),
            ("minio", 80, true, false),
            ("a.cdn.example", 443, true, true),
            ("a.b.cdn.example", 80, true, true),
            ("cdn.example", 443, true, false),
            (".cdn.example", 443, true, false),
            ("acdn.example", 443, true, false),
            ("[2001:db8::1]", 80, true, true),
            ("192.0.2.7", 80, true, true),
            ("xn--bcher-kva.example", 443, true, true),
        ] {
            assert_eq!(hosts.allow(host, port, of_scheme), expected, "{host}:{port} {of_scheme}");
        }
        assert!(parse_hosts(" ").expect("none").is_empty());
    }

    #[test]
    fn what_would_never_match_or_match_all_is_refused_with_the_way_out() {
        for (bad, expected) in [
            ("*", "any host"),
            ("a.example,*", "any host"),
            ("https://a.example", "without its scheme"),
            ("a.example/images", "without a path"),
            ("user@a.example", "without a path, a user"),
            ("a%2eexample", "anything else"),
            ("a.example:0", "from 1 to 65535"),
            ("a.example:65536", "from 1 to 65535"),
            ("a.example:http", "from 1 to 65535"),
            ("2001:db8::1", "in brackets"),
            ("a.*.example", "no host"),
            ("*.*.example", "no host"),
            ("a.example.", "no dot at the end"),
            ("a b", "no host"),
            ("0x7f.1", "no host"),
            ("2130706433", "no host"),
            ("127.1", "no host"),
            ("*.127.0.0.1", "no host"),
            ("[0:0::1]", "no host"),
            ("a.example,,b.example", "no host"),
            (",", "no host"),
        ] {
            let fault = parse_hosts(bad).expect_err(bad);
            assert!(fault.contains(expected), "{bad}: {fault}");
        }
    }

    #[test]
    fn a_network_has_a_prefix_and_nothing_behind_it() {
        let networks = parse_networks("10.1.0.0/16, fd00:1::/64,127.0.0.1/32").expect("valid");
        assert_eq!(
            networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.1.0.0/16", "fd00:1::/64", "127.0.0.1/32"]
        );
        assert_eq!(parse_networks(""), Ok(Vec::new()));
        for (bad, expected) in [
            ("10.1.2.3/16", "write \"10.1.0.0/16\""),
            ("10.1.2.3", "no network"),
            ("10/8", "no network"),
            (",", "no network"),
        ] {
            let fault = parse_networks(bad).expect_err(bad);
            assert!(fault.contains(expected), "{bad}: {fault}");
        }
    }
}
