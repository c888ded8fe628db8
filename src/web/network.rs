//! Which addresses are dialled.
//!
//! Owns the ranges that never are: what the registries of special addresses (IANA, RFC 6890) do not call globally reachable, and the
//! addresses under which clouds serve their secrets. IPv6 that carries an IPv4 address leads where that one does, so both are looked at.
//! Does not own how an address is written in a URL (`address`), nor who is asked for it (`dial`).
//!
//! Invariant: of IPv6 only what is known to be public is, so a range that comes to be is refused until it is known here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What may be dialled: the public internet, and what the operator has listed.
#[derive(Clone, Debug)]
pub(super) struct Networks {
    listed: Vec<IpNet>,
}

impl Networks {
    /// The public internet, and `listed`.
    pub(super) fn new(listed: Vec<IpNet>) -> Self {
        Self { listed }
    }

    /// Whether `address` may be dialled.
    pub(super) fn permit(&self, address: IpAddr) -> bool {
        // To the system a mapped address is the IPv4 one itself.
        let address = address.to_canonical();
        if self.listed.iter().any(|network| network.contains(&address)) {
            return true;
        }
        match address {
            IpAddr::V4(address) => is_public_v4(address),
            IpAddr::V6(address) => {
                is_public_v6(address) && carried(address).is_none_or(|carried| self.permit(carried.into()))
            }
        }
    }
}

/// Ranges of IPv4 that are not public, with the bits of their prefixes.
const SPECIAL_V4: [([u8; 4], u32); 16] = [
    ([0, 0, 0, 0], 8),        // this network
    ([10, 0, 0, 0], 8),       // private
    ([100, 64, 0, 0], 10),    // shared by carriers; Alibaba's metadata
    ([127, 0, 0, 0], 8),      // this machine
    ([168, 63, 129, 16], 32), // Azure's agent, by which a machine is told its secrets
    ([169, 254, 0, 0], 16),   // this link; the metadata of most clouds
    ([172, 16, 0, 0], 12),    // private
    ([192, 0, 0, 0], 24),     // protocols; Oracle's metadata
    ([192, 0, 2, 0], 24),     // documentation
    ([192, 88, 99, 0], 24),   // relays of 6to4
    ([192, 168, 0, 0], 16),   // private
    ([198, 18, 0, 0], 15),    // benchmarks
    ([198, 51, 100, 0], 24),  // documentation
    ([203, 0, 113, 0], 24),   // documentation
    ([224, 0, 0, 0], 4),      // multicast
    ([240, 0, 0, 0], 4),      // reserved
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    let within = |(network, prefix): ([u8; 4], u32)| (bits ^ u32::from_be_bytes(network)) >> (32 - prefix) == 0;
    !SPECIAL_V4.into_iter().any(within)
}

/// Whether it is global unicast (2000::/3) or a translator's (64:ff9b::/96), and in no special range of these. So `::/96` (unspecified,
/// loopback, compatible), 64:ff9b:1::/48 (a translator's own), 100::/64 (discard), fc00::/7 (private), fe80::/10 (link), fec0::/10 (site) and
/// ff00::/8 (multicast) are refused without being named.
fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => true,
        // Protocols, Teredo, ORCHID: 2001::/23.
        [0x2001, second, ..] if second < 0x200 => false,
        // Documentation.
        [0x2001, 0xdb8, ..] => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// The IPv4 address that an address of IPv6 leads to, of those that [`is_public_v6`] lets pass.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // NAT64.
        [0x64, 0xff9b, .., high, low] => Some(v4(high, low)),
        // 6to4.
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // ISATAP, below any prefix.
        [_, _, _, _, 0 | 0x200 | 0x100 | 0x300, 0x5efe, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn v4(address: &str) -> Ipv4Addr {
        address.parse().expect("IPv4")
    }

    /// `address` in every way in which IPv6 carries it.
    pub(in crate::web) fn embeddings(address: Ipv4Addr) -> Vec<Ipv6Addr> {
        let [a, b, c, d] = address.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let new = |s: [u16; 8]| Ipv6Addr::from_bits(s.iter().fold(0, |bits, part| bits << 16 | u128::from(*part)));
        vec![
            address.to_ipv6_mapped(),
            new([0, 0, 0, 0, 0, 0, high, low]),
            // Translated, as SIIT has it.
            new([0, 0, 0, 0, 0xffff, 0, high, low]),
            new([0x64, 0xff9b, 0, 0, 0, 0, high, low]),
            new([0x64, 0xff9b, 1, 0, 0, 0, high, low]),
            new([0x64, 0xff9b, 1, high, u16::from(c), u16::from(d) << 8, 0, 0]),
            new([0x2002, high, low, 0, 0, 0, 0, 1]),
            new([0x2002, high, low, 1, 2, 3, 4, 5]),
            new([0x2001, 0, 0x4136, 0xe378, 0x8000, 0x63bf, !high, !low]),
            new([0x2a00, 1, 2, 3, 0, 0x5efe, high, low]),
            new([0x2a00, 1, 2, 3, 0x200, 0x5efe, high, low]),
            new([0xfe80, 0, 0, 0, 0, 0x5efe, high, low]),
        ]
    }

    #[test]
    fn the_edges_of_every_special_range() {
        let networks = Networks::new(Vec::new());
        let permit = |address: &str| networks.permit(address.parse().expect(address));
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("168.63.129.16", "168.63.129.16"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "255.255.255.255"),
        ] {
            assert!(!permit(first) && !permit(last), "{first} to {last}");
            let before = v4(first).to_bits().checked_sub(1).map(Ipv4Addr::from_bits);
            let behind = v4(last).to_bits().checked_add(1).map(Ipv4Addr::from_bits);
            for outside in [before, behind].into_iter().flatten() {
                assert!(permit(&outside.to_string()), "{outside}");
                for carrying in [outside.to_ipv6_mapped(), embeddings(outside)[3], embeddings(outside)[6]] {
                    assert!(networks.permit(carrying.into()), "{carrying} is {outside}");
                }
            }
        }
        for forbidden in [
            "::",
            "::1",
            "::2",
            "::ffff:0:0",
            "64:ff9b:1::",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            "100::",
            "100::ffff:ffff:ffff:ffff",
            "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001::",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff::",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            "4000::",
            "5f00::1",
            "fc00::",
            "fd00:ec2::254",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "feff::1",
            "ff00::",
            "ff02::1",
        ] {
            assert!(!permit(forbidden), "{forbidden}");
        }
        for public in
            ["2000::", "2001:200::", "2001:db7::1", "2001:db9::1", "2606:4700::1111", "3ffe::1", "3fff:1000::"]
        {
            assert!(permit(public), "{public}");
        }
    }

    #[test]
    fn what_is_listed_is_permitted_and_what_leads_there_with_it() {
        let networks =
            Networks::new(vec!["10.1.0.0/16".parse().expect("a network"), "fd00:1::/64".parse().expect("one")]);
        for (address, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("64:ff9b::10.1.2.3", true),
            ("10.2.0.1", false),
            ("::ffff:10.2.0.1", false),
            ("64:ff9b::10.2.0.1", false),
            ("fd00:1::7", true),
            ("fd00:2::7", false),
            ("::10.1.2.3", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(networks.permit(address.parse().expect(address)), expected, "{address}");
        }
    }
}
