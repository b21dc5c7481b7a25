//! The token is sent only to the hub.

use std::sync::atomic::AtomicBool;

use qwen3_vl::hub::Proxies;

use crate::support::hub_case::*;
use crate::support::hub_server::{ID, Server, send};

fn got_the_token(server: &Server) -> bool {
    let seen = server.seen();
    assert!(!seen.is_empty(), "no request arrived");
    let secret = |value: &String| value.contains("secret");
    seen.iter()
        .any(|request| request.headers.values().any(secret) || request.path.contains("secret"))
}

#[test]
fn the_token_stays_with_the_hub() {
    // The host of large files: another port is another host.
    let cdn = stranger();
    let case = Case::new(Server::start(model()));
    case.server.state().token = Some("hf_secret".into());
    case.server.state().cdn = Some(cdn.endpoint.clone());
    case.fetch().unwrap();
    case.check();
    assert!(got_the_token(&case.server));
    assert!(!got_the_token(&cdn));

    // Whatever is redirected, with whatever status, in whatever spelling.
    for kind in ["/api/", CONFIG, WEIGHTS] {
        for status in ["301", "302", "303", "307", "308"] {
            for method in ["HEAD", "GET"] {
                if kind == "/api/" && method == "HEAD" {
                    continue;
                }
                let other = stranger();
                let target = other.endpoint.clone();
                let localhost = target.replace("127.0.0.1", "localhost");
                let target = if status == "307" { localhost } else { target };
                let case = Case::hostile(move |request, stream| {
                    let asked = request.path.contains(kind) && request.method == method;
                    if asked {
                        let target = match status {
                            "308" => target.trim_start_matches("http:").to_string(),
                            _ => target.clone(),
                        };
                        let head = format!("location: {target}{}\r\n", request.path);
                        send(stream, &format!("{status} Moved"), &head, b"");
                    }
                    asked
                });
                // Some of these requests are served, and some refused.
                let _ = case.fetch();
                case.check();
                assert!(!got_the_token(&other), "{method} {kind} {status}");
            }
        }
    }
}

#[test]
fn the_token_follows_a_redirect_at_home() {
    // A renamed model: the hub redirects to itself, in both spellings.
    for absolute in [false, true] {
        let case = Case::hostile(move |request, stream| {
            if let Some(name) = request.path.strip_prefix("/old") {
                let host = request.header("host").unwrap();
                let host = format!("http://{host}");
                let host = if absolute { host.as_str() } else { "" };
                let head = format!("location: {host}{name}\r\n");
                send(stream, "307 Temporary Redirect", &head, b"");
                return true;
            }
            false
        });
        case.server.state().token = Some("hf_secret".into());
        let mut old = case.hub.clone();
        old.endpoint = format!("{}/old", case.hub.endpoint);
        let never = AtomicBool::new(false);
        old.fetch(ID, None, &mut |_| {}, &never).unwrap();
        case.check();
    }
}

#[test]
fn a_token_that_is_no_header_is_refused_and_not_shown() {
    let mut case = Case::new(Server::start(model()));
    for bad in ["hf_secret\r\nx-evil: 1", "hf_secret\u{7f}", "hf_secreté"] {
        case.hub.token = Some(bad.into());
        assert!(case.refused().contains("HF_TOKEN"));
    }
    assert!(case.server.seen().is_empty());
}

/// An address may have a password, as that of a proxy may.
#[test]
fn passwords_are_not_shown() {
    let mut case = Case::new(Server::start(model()));
    let host = case.server.endpoint.replace("http://", "");
    for endpoint in [
        format!("http://me:hf_secret@{host}"),
        format!("me:hf_secret@{host}"),
        format!("http://{host}/?key=hf_secret"),
    ] {
        case.hub.endpoint = endpoint;
        assert!(!format!("{:?}", case.hub).contains("hf_secret"));
        assert!(case.refused().contains("HF_ENDPOINT must be"));
    }

    case.hub.endpoint = case.server.endpoint.clone();
    let through = |value: &str| {
        let value = value.to_owned();
        Proxies::from_variables(move |name| (name == "ALL_PROXY").then(|| value.clone()))
    };
    for (proxy, words) in [
        // SOCKS is not supported: going on without the proxy would reveal what it hides.
        (
            "socks5://me:hf_secret@127.0.0.1:9",
            &["ALL_PROXY", "SOCKS is not"][..],
        ),
        ("http://me:hf_secret@127.0.0.1:99999", &["ALL_PROXY"]),
        (
            "http://me:hf_secret@127.0.0.1:9",
            &["through the proxy 127.0.0.1:9"],
        ),
    ] {
        case.hub.proxies = through(proxy);
        assert!(!format!("{:?}", case.hub).contains("hf_secret"));
        let error = case.refused();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    assert!(case.server.seen().is_empty());
}
