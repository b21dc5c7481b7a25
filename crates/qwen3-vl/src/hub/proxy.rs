//! Proxies from environment variables, like in Hugging Face's tools (httpx:
//! `get_environment_proxies`): one for each scheme, else `ALL_PROXY`. Names in lower case win.
//!
//! A proxy that cannot be used is an error. Going on without it would reveal to the network which
//! hosts are asked and, with http, the token.

use ureq::Proxy;
use ureq::ProxyProtocol;
use ureq::http::Uri;

use super::error::HubError;

/// The proxy for each scheme.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Choice,
    https: Choice,
}

#[derive(Clone, Default)]
enum Choice {
    #[default]
    Direct,
    Via(Proxy),
    /// This variable names a proxy that cannot be used.
    Unusable(String),
}

impl Proxies {
    /// The proxies that the environment variables name.
    #[must_use]
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        // An empty variable in lower case hides the one in upper case.
        let either = |name: &str| {
            let lower = name.to_ascii_lowercase();
            let found = variable(&lower).map(|value| (lower, value));
            found.or_else(|| Some((name.to_owned(), variable(name)?)))
        };
        let exceptions = either("NO_PROXY").map_or(String::new(), |(_, value)| value);
        let choice = |name: &str| {
            let mut named = [name, "ALL_PROXY"].into_iter().filter_map(either);
            let found = named.find(|(_, value)| !value.trim().is_empty());
            found.map_or(Choice::Direct, |(name, value)| {
                proxy(value.trim(), &exceptions).map_or(Choice::Unusable(name), Choice::Via)
            })
        };
        Self {
            http: choice("HTTP_PROXY"),
            https: choice("HTTPS_PROXY"),
        }
    }

    /// The proxy for an address.
    ///
    /// # Errors
    ///
    /// [`HubError::Proxy`] if it cannot be used.
    pub(super) fn of(&self, uri: &Uri) -> Result<Option<&Proxy>, HubError> {
        let choice = match uri.scheme_str() {
            Some("http") => &self.http,
            _ => &self.https,
        };
        match choice {
            Choice::Direct => Ok(None),
            Choice::Via(proxy) => Ok(Some(proxy).filter(|proxy| !proxy.is_no_proxy(uri))),
            Choice::Unusable(variable) => Err(HubError::Proxy(variable.clone())),
        }
    }
}

/// Parses a proxy's address; none if it cannot be used.
fn proxy(text: &str, exceptions: &str) -> Option<Proxy> {
    let read = Proxy::new(text).ok()?;
    let known = matches!(read.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
    // The parser would ignore a port that is not a number.
    let authority = read.uri().authority()?.as_str();
    let address = authority.rsplit_once('@').map_or(authority, |(_, it)| it);
    let port = address.strip_prefix(read.host())?;
    let port = port.is_empty() || read.uri().port_u16().is_some();
    if !known || !port || read.host().is_empty() {
        return None;
    }
    let mut proxy = Proxy::builder(read.protocol())
        .host(read.host())
        .port(read.port());
    if let Some(name) = read.username() {
        proxy = proxy.username(name);
    }
    if let Some(password) = read.password() {
        proxy = proxy.password(password);
    }
    for host in exceptions.split(',').map(str::trim) {
        // A name also matches the hosts below it.
        proxy = proxy.no_proxy(host).no_proxy(&format!(".{host}"));
    }
    proxy.build().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Host and port of the proxy for an address, or the variable that cannot be used.
    fn chosen(variables: &[(&str, &str)], uri: &str) -> Result<Option<(String, u16)>, String> {
        let proxies = Proxies::from_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        });
        match proxies.of(&uri.parse().unwrap()) {
            Ok(proxy) => Ok(proxy.map(|proxy| (proxy.host().to_owned(), proxy.port()))),
            Err(HubError::Proxy(variable)) => Err(variable),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn each_scheme_has_its_own() {
        let of = |variables, uri| chosen(variables, uri).unwrap().map(|(host, _)| host);
        let both = &[("HTTP_PROXY", "http://a:1"), ("HTTPS_PROXY", "http://b:2")];
        assert_eq!(of(both, "http://hub/x").as_deref(), Some("a"));
        assert_eq!(of(both, "https://hub/x").as_deref(), Some("b"));
        assert_eq!(of(&both[1..], "http://hub/x"), None);
        let all = &[("ALL_PROXY", "c:3"), ("https_proxy", "b:2")];
        assert_eq!(of(all, "http://hub/x").as_deref(), Some("c"));
        assert_eq!(of(all, "https://hub/x").as_deref(), Some("b"));
        assert_eq!(of(&[], "https://hub/x"), None);
        let lower = &[("HTTPS_PROXY", "b:2"), ("https_proxy", "")];
        assert_eq!(of(lower, "https://hub/x"), None);
        let user = chosen(
            &[("ALL_PROXY", "http://me:pass%40word@c:3/")],
            "http://hub/",
        );
        assert_eq!(user, Ok(Some(("c".into(), 3))));
    }

    #[test]
    fn some_hosts_have_none() {
        let goes = |exceptions, uri| {
            let variables = [("ALL_PROXY", "http://a:1"), ("NO_PROXY", exceptions)];
            chosen(&variables, uri).unwrap().is_some()
        };
        assert!(goes("", "http://hub.example/"));
        assert!(goes("other.example,example.org", "http://hub.example/"));
        assert!(!goes("localhost, hub.example", "http://hub.example/"));
        assert!(!goes("example", "http://hub.example/"));
        assert!(!goes(".example", "http://hub.example/"));
        assert!(goes("ub.example", "http://hub.example/"));
        assert!(!goes("*", "http://hub.example/"));
    }

    #[test]
    fn an_unusable_proxy_is_not_bypassed() {
        for bad in [
            "socks5://127.0.0.1:1080",
            "socks5h://me:password@proxy:1080",
            "ftp://proxy:21",
            "http://a proxy:1",
            "http://proxy:99999",
            "http://proxy:port",
            "http://me:pass#word@proxy:1",
            "http://",
            "http://:8080",
        ] {
            for variable in ["ALL_PROXY", "HTTPS_PROXY", "https_proxy"] {
                let found = chosen(&[(variable, bad)], "https://hub/");
                assert_eq!(found, Err(variable.into()), "{bad}");
            }
            // The scheme's proxy comes first.
            let variables = [("ALL_PROXY", bad), ("HTTPS_PROXY", "http://a:1")];
            assert!(chosen(&variables, "https://hub/").is_ok());
        }
    }
}
