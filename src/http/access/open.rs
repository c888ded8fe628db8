//! What is open without a key: by path, and from where by network.
//!
//! Owns the matching. Does not own how paths and networks are spelt (`config`).
//!
//! Invariant: a path is compared as the router has matched it, so no spelling of it is open that leads elsewhere.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::ServerConfig;

/// A path of `server.open_paths` that no route has; one line.
#[derive(Debug, thiserror::Error)]
#[error(
    "server.open_paths has {path:?}, which is no path of this service; those that vary behind a slash are {varying}"
)]
pub struct UnknownPath {
    path: String,
    varying: String,
}

/// The paths, and from where.
#[derive(Debug, Default)]
pub(super) struct Open {
    all: bool,
    /// Templates of routes.
    routes: Vec<String>,
    /// None: from everywhere.
    networks: Vec<IpNet>,
}

impl Open {
    /// As configured. `templates` are those of all routes.
    ///
    /// # Errors
    /// [`UnknownPath`].
    pub(super) fn new<'a>(
        server: &ServerConfig,
        templates: impl Iterator<Item = &'a str>,
    ) -> Result<Self, UnknownPath> {
        let templates: Vec<&str> = templates.collect();
        let route = |path: &str| {
            let found = templates.iter().find(|template| spelt(template) == path);
            found.map(|template| (*template).to_owned()).ok_or_else(|| {
                let varying = templates.iter().filter(|template| template.contains('{'));
                let varying: Vec<String> = varying.map(|template| spelt(template)).collect();
                UnknownPath { path: path.to_owned(), varying: varying.join(", ") }
            })
        };
        let routes = server.open_paths.iter().map(route).collect::<Result<_, _>>()?;
        Ok(Self { all: server.open_paths.are_all(), routes, networks: server.open_networks.clone() })
    }

    /// Whether a request for the route `template` from `address` wants no key.
    pub(super) fn is_open(&self, template: Option<&str>, address: Option<IpAddr>) -> bool {
        let is_path = self.all || template.is_some_and(|template| self.routes.iter().any(|route| route == template));
        // A client of IPv4 at a listener of IPv6 has an address that is mapped into that.
        let address = address.map(|address| address.to_canonical());
        let is_from = |address: IpAddr| self.networks.iter().any(|network| network.contains(&address));
        is_path && (self.networks.is_empty() || address.is_some_and(is_from))
    }
}

/// A template as an operator writes it: `/v2/models/*`.
fn spelt(template: &str) -> String {
    match template.split_once('{') {
        Some((fixed, _)) => format!("{fixed}*"),
        None => template.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides, load};

    const ROUTES: [&str; 3] = ["/predict", "/meta", "/v2/models/{*path}"];

    fn config(set: &[&str]) -> Config {
        let set = [&["model.path=m", "server.api_key=k"], set].concat().iter().map(ToString::to_string).collect();
        load(&Overrides { set, ..Overrides::default() }, []).expect("valid").config
    }

    fn open(paths: &str, networks: &str) -> Result<Open, UnknownPath> {
        let (paths, networks) = (format!("server.open_paths={paths}"), format!("server.open_networks={networks}"));
        Open::new(&config(&[&paths, &networks]).server, ROUTES.into_iter())
    }

    #[test]
    fn a_path_is_open_from_its_networks_and_no_other() {
        let address = |text: &str| Some(text.parse().expect("an address"));
        let open_to = open("/predict,/v2/models/*", "10.1.0.0/16,fd00:1::/64").expect("valid");
        for (template, from, expected) in [
            ("/predict", "10.1.2.3", true),
            ("/predict", "::ffff:10.1.2.3", true),
            ("/predict", "fd00:1::7", true),
            ("/predict", "10.2.0.1", false),
            ("/predict", "::ffff:10.2.0.1", false),
            ("/v2/models/{*path}", "10.1.2.3", true),
            ("/meta", "10.1.2.3", false),
        ] {
            assert_eq!(open_to.is_open(Some(template), address(from)), expected, "{template} from {from}");
        }
        assert!(!open_to.is_open(Some("/predict"), None), "an address that is not known is in no network");
        assert!(!open_to.is_open(None, address("10.1.2.3")), "what is no route is not open");
        let to_all = open("/predict", "").expect("valid");
        assert!(to_all.is_open(Some("/predict"), None) && !to_all.is_open(Some("/meta"), address("10.1.2.3")));
        let all = open("*", "127.0.0.0/8").expect("valid");
        assert!(all.is_open(Some("/meta"), address("127.0.0.1")) && !all.is_open(Some("/meta"), address("::1")));
        assert!(!Open::default().is_open(Some("/predict"), address("10.1.2.3")), "nothing is open by itself");
    }

    #[test]
    fn a_path_that_is_no_route_is_refused() {
        for bad in ["/predcit", "/predict/", "/v2/models/{*path}", "/v2/*", "/PREDICT"] {
            let fault = open(bad, "").expect_err(bad).to_string();
            assert!(fault.contains(bad) && fault.contains("/v2/models/*") && fault.lines().count() == 1, "{fault}");
        }
    }
}
