//! From the host of an address to the network addresses that are dialled.
//!
//! Owns the one place where names become addresses, which is asked for each connection: what it checks is what is dialled, whatever a name
//! server says the next time. Does not own the ranges (`network`).
//!
//! Invariant: when one address of a host may not be dialled, none is.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Instant,
};

use ureq::{
    Error, Timeout,
    config::Config,
    http::{Uri, uri::Scheme},
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};

use super::network::Networks;

/// Who knows the addresses of hosts.
pub trait Names: fmt::Debug + Send + Sync {
    /// The addresses of `host`. May block.
    ///
    /// # Errors
    /// When it has none, or nobody says.
    fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNames;

impl Names for SystemNames {
    fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
    }
}

/// Says for the client that dials where a host is, if that may be dialled.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) names: Arc<dyn Names>,
    pub(super) networks: Networks,
}

/// An address of the host is one that is never dialled.
#[derive(Debug, thiserror::Error)]
#[error("an address of the host is not dialled")]
pub(super) struct Forbidden;

impl Checked {
    /// The addresses of `host`, which may itself be one.
    fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Error> {
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let addresses = match literal.parse() {
            Ok(address) => vec![address],
            Err(_) => self.names.addresses(host).map_err(|_| Error::HostNotFound)?,
        };
        if addresses.is_empty() {
            return Err(Error::HostNotFound);
        }
        if !addresses.iter().all(|&address| self.networks.permit(address)) {
            return Err(Error::Io(io::Error::other(Forbidden)));
        }
        Ok(addresses)
    }
}

impl Resolver for Checked {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let started = Instant::now();
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let addresses = self.addresses(host)?;
        // Nobody waits any more for what a name server has said too late.
        if started.elapsed() >= *timeout.after {
            return Err(Error::Timeout(Timeout::Resolve));
        }
        let mut resolved = self.empty();
        // As many as the client takes; each is permitted.
        for address in addresses.into_iter().take(16) {
            resolved.push(SocketAddr::new(address, port));
        }
        Ok(resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::AllowedHosts, web::network::tests::embeddings};

    #[derive(Debug)]
    struct Fixed(Vec<IpAddr>);

    impl Names for Fixed {
        fn addresses(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            Ok(self.0.clone())
        }
    }

    fn checked(addresses: &[&str]) -> Checked {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        Checked { names: Arc::new(Fixed(addresses)), networks: Networks::new(Vec::new()) }
    }

    fn is_forbidden(error: &Error) -> bool {
        matches!(error, Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Forbidden>()))
    }

    #[test]
    fn one_address_that_is_not_dialled_forbids_all() {
        let public = ["93.184.216.34", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"];
        assert_eq!(checked(&public).addresses("a.example").expect("public").len(), 2);
        for forbidden in ["127.0.0.1", "::1", "10.0.0.1", "::ffff:169.254.169.254", "fd00:ec2::254"] {
            for list in [vec![forbidden], vec![public[0], forbidden], vec![forbidden, public[1]]] {
                assert!(is_forbidden(&checked(&list).addresses("a.example").expect_err(forbidden)), "{list:?}");
            }
        }
        assert!(matches!(checked(&[]).addresses("a.example"), Err(Error::HostNotFound)));
    }

    /// Every way in which browsers, and `inet_aton` before them, let an address of IPv4 be written.
    fn spellings(address: [u8; 4]) -> Vec<String> {
        let number = u32::from_be_bytes(address);
        let [a, b, c, d] = address;
        let (low16, low24) = (u16::from_be_bytes([c, d]), number & 0xff_ffff);
        let mut all = vec![
            format!("{a}.{b}.{c}.{d}"),
            format!("{a}.{b}.{low16}"),
            format!("{a}.{low24}"),
            format!("{number}"),
            format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
            format!("0X{a:02X}.0X{b:02X}.0X{c:02X}.0X{d:02X}"),
            format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
            format!("000{a:o}.000{b:o}.000{c:o}.000{d:o}"),
            format!("0x{a:x}.{b}.0{c:o}.{d}"),
            format!("0x{a:x}.0x{low24:x}"),
            format!("0{a:o}.0{b:o}.0{low16:o}"),
            format!("0x{number:x}"),
            format!("0x{number:08X}"),
            format!("0{number:o}"),
            format!("{a}.{b}.{c}.{d}."),
            format!("{number}."),
        ];
        // Digits of other alphabets, and dots.
        let wide = |text: &str| {
            let digit = |char: char| char.to_digit(10).and_then(|digit| char::from_u32(0xff10 + digit)).unwrap_or(char);
            text.chars().map(digit).collect::<String>()
        };
        let circled = |text: &str| {
            let digit = |char: char| match char.to_digit(10) {
                Some(0) => '\u{24ea}',
                Some(digit) => char::from_u32(0x245f + digit).unwrap_or(char),
                None => char,
            };
            text.chars().map(digit).collect::<String>()
        };
        let plain = all[0].clone();
        all.extend([wide(&plain), circled(&plain), plain.replace('.', "\u{3002}"), plain.replace('.', "\u{ff0e}")]);
        all
    }

    #[test]
    fn no_spelling_of_an_address_that_is_not_dialled_is() {
        let nobody = checked(&[]);
        let mut tried = 0;
        for address in [[127, 0, 0, 1], [10, 0, 0, 1], [169, 254, 169, 254], [100, 64, 0, 1]] {
            let v6 = embeddings(address.into());
            let hosts = spellings(address).into_iter().chain(v6.iter().map(|address| format!("[{address}]"))).chain(
                v6.iter().map(|address| {
                    let parts = address.segments().map(|part| format!("{part:04X}"));
                    format!("[{}]", parts.join(":"))
                }),
            );
            for host in hosts {
                let url = url::Url::parse(&format!("http://{host}/")).expect(&host);
                let parsed = url.host_str().expect("a host");
                let Err(error) = nobody.addresses(parsed) else { panic!("{host} is dialled as {parsed}") };
                assert!(is_forbidden(&error), "{host}, that is {parsed}: {error}");
                // And whatever it is, it is on no list.
                let listed = crate::web::Address::parse(url.as_str(), &AllowedHosts::default());
                assert!(listed.is_err(), "{host}");
                tried += 1;
            }
        }
        assert!(tried > 150, "{tried}");
    }
}
