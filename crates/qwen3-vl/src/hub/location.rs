//! Parses addresses and resolves redirects.

use ureq::http::Uri;

use crate::quote::quoted;

/// Parses an absolute http or https address.
pub(super) fn parse(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?.as_str();
    let host = uri.host().filter(|host| !host.is_empty())?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    // The parsers would ignore a port that is not a number.
    let port = authority.strip_prefix(host)?;
    let port = port.is_empty() || uri.port_u16().is_some();
    (http && port).then_some(uri)
}

/// An address for display: without user, password and query, which may be secret.
pub(super) fn shown(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    quoted(&format!("{scheme}{rest}")).trim_matches('"').into()
}

/// Resolves a `Location` header; none if it must not be followed: not http or https, a user in the
/// address, or from https to http.
pub(super) fn follow(base: &Uri, location: &[u8]) -> Option<Uri> {
    let text = std::str::from_utf8(location).ok()?;
    let text = text.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    // RFC 3986, section 4.2: a reference with a colon before its first slash starts with a scheme.
    let first = text.split(['/', '?']).next().unwrap_or_default();
    let absolute = if first.contains(':') {
        text.to_owned()
    } else if let Some(rest) = text.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if text.starts_with('/') {
        format!("{scheme}://{authority}{text}")
    } else if text.starts_with('?') {
        format!("{scheme}://{authority}{}{text}", base.path())
    } else {
        let folder = base
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{text}")
    };
    let target = parse(&absolute)?;
    let downgrade = scheme == "https" && target.scheme_str() != Some("https");
    (!downgrade).then_some(target)
}

/// Whether two addresses have the same scheme, host and port.
pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or(match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_a_browser_would_go() {
        let base = parse("https://hub.example/a/b?c=d").unwrap();
        for (location, target) in [
            ("https://cdn.example/x?y=z", "https://cdn.example/x?y=z"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/x", "https://hub.example/x"),
            ("x", "https://hub.example/a/x"),
            ("?e=f", "https://hub.example/a/b?e=f"),
            (
                "/x?to=http://other/",
                "https://hub.example/x?to=http://other/",
            ),
            ("/x#part", "https://hub.example/x"),
        ] {
            let found = follow(&base, location.as_bytes()).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), Some(target), "{location}");
        }
        for location in [
            "http://hub.example/a",
            "http://cdn.example/x",
            "ftp://hub.example/x",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "https://me@cdn.example/x",
            "https://",
            "https:///x",
            "//",
            "/x y",
            "https://cdn.example:99999/x",
            "https://evil.example\\@hub.example/",
        ] {
            assert!(follow(&base, location.as_bytes()).is_none(), "{location}");
        }
        assert!(follow(&base, b"/\xff").is_none());
        // From http, a redirect to http is no downgrade.
        let plain = parse("http://hub.example/a").unwrap();
        assert!(follow(&plain, b"https://cdn.example/").is_some());
        assert!(follow(&plain, b"http://cdn.example/").is_some());
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        for (text, safe) in [
            ("https://hub.example/hf", "https://hub.example/hf"),
            ("https://me:secret@hub.example", "https://hub.example"),
            ("https://me:sec@ret@hub.example/x", "https://hub.example/x"),
            ("me:secret@hub.example:80", "hub.example:80"),
            ("http://hub.example/?key=secret", "http://hub.example/"),
            ("http://hub.example#secret", "http://hub.example"),
            ("http://\u{1b}[31m", "http://\\u{1b}[31m"),
        ] {
            assert_eq!(shown(text), safe);
        }
        assert!(shown(&"x".repeat(10_000)).len() < 300);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&parse(a).unwrap(), &parse(b).unwrap());
        let hub = "https://hub.example/models";
        assert!(same(hub, "https://hub.example/"));
        assert!(same(hub, "https://HUB.example:443/x"));
        for other in [
            "http://hub.example/models",
            "https://hub.example:8443/models",
            "https://cdn.hub.example/",
            "https://hub.example.evil.example/",
            "https://hubexample/",
        ] {
            assert!(!same(hub, other), "{other}");
        }
    }
}
