//! Requests to a hub, with bounds on time, redirects and the bytes of an answer.
//!
//! The token is sent only to the hub's own origin (scheme, host and port), wherever the hub
//! redirects to. Compressed answers are refused: a few bytes can expand to gigabytes.

use std::io::Read;
use std::ops::Range;
use std::time::{Duration, Instant};

use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, LOCATION, RANGE,
};
use ureq::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use ureq::{Agent, Body};

use super::error::HubError;
use super::pace::{Deadline, Pace};
use super::{Hub, Proxies, location};
use crate::quote::quoted_bytes;

/// Most redirects of one request.
pub(super) const MAX_REDIRECTS: usize = 5;

/// Longest time to resolve a host, and to connect to it. Neither can be interrupted.
const CONNECT: Duration = Duration::from_secs(10);

/// A client of a hub. Clones share connections and shutdown.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<HeaderValue>,
    proxies: Proxies,
    stall_timeout: Duration,
    deadline: Deadline,
}

impl Client {
    /// A client that has not sent a request yet.
    ///
    /// # Errors
    ///
    /// [`HubError::Endpoint`] or [`HubError::Token`] if they are invalid.
    pub(super) fn new(hub: &Hub) -> Result<Self, HubError> {
        let stall_timeout = hub.stall_timeout;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // `get` and `head` follow redirects, so that the token stays with the hub.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Each request sets the proxy of its address.
            .proxy(None)
            .user_agent(concat!("qwen3-vl/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT.min(stall_timeout)))
            .timeout_connect(Some(CONNECT.min(stall_timeout)))
            .timeout_send_request(Some(stall_timeout))
            .timeout_recv_response(Some(stall_timeout))
            .timeout_per_read(Some(stall_timeout))
            .build()
            .new_agent();
        let endpoint = location::parse(&hub.endpoint).filter(|uri| uri.query().is_none());
        let endpoint = endpoint.ok_or(HubError::Endpoint)?;
        let token = hub.token.as_ref().map(|token| {
            // A header may hold other bytes, but ureq sends only ASCII.
            let token = Some(token).filter(|token| token.is_ascii())?;
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Ok(Self {
            agent,
            endpoint,
            token: token
                .map(|token| token.ok_or(HubError::Token))
                .transpose()?,
            proxies: hub.proxies.clone(),
            stall_timeout,
            deadline: Deadline::new(stall_timeout),
        })
    }

    /// Ends other threads' reads and writes with this client, and all later requests.
    pub(super) fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// Ends a read that is over its deadline. The waiting thread calls it.
    pub(super) fn end_overdue(&self) {
        if self.deadline.is_over(Instant::now()) {
            self.shut_down();
        }
    }

    /// Sends GET for `path`, which starts with a slash, from byte `from` on if given.
    pub(super) fn get(&self, path: &str, from: Option<u64>) -> Result<Response<Body>, HubError> {
        self.get_range(path, from.map(|from| format!("bytes={from}-")))
    }

    /// Sends GET for these bytes of `path`, which are not none.
    pub(super) fn get_part(
        &self,
        path: &str,
        part: Range<u64>,
    ) -> Result<Response<Body>, HubError> {
        let last = part.end.saturating_sub(1);
        self.get_range(path, Some(format!("bytes={}-{last}", part.start)))
    }

    fn get_range(&self, path: &str, range: Option<String>) -> Result<Response<Body>, HubError> {
        let mut uri = self.address(path)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(Method::GET, &uri, range.as_deref())?;
            match location(&response, &uri)? {
                Some(next) => uri = next,
                None => return success(response),
            }
        }
        Err(HubError::Redirects)
    }

    /// Sends HEAD for a file; see [`Head`].
    pub(super) fn head(&self, path: &str) -> Result<Head, HubError> {
        let mut uri = self.address(path)?;
        let mut head = Head::default();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(Method::HEAD, &uri, None)?;
            let at_home = location::same_origin(&uri, &self.endpoint);
            let next = location(&response, &uri)?;
            if next.is_none() && !response.status().is_success() {
                return Err(HubError::Status(response.status().as_u16()));
            }
            head.add(response.headers(), next.is_some(), at_home)?;
            match next {
                Some(next) if !head.is_complete() => uri = next,
                _ => return Ok(head),
            }
        }
        Err(HubError::Redirects)
    }

    /// Passes the pieces of a body to `each`, at most `limit` + 1 bytes, so that a longer body is
    /// noticed.
    pub(super) fn read(
        &self,
        body: Body,
        limit: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), HubError>,
    ) -> Result<(), HubError> {
        let mut body = body.into_reader().take(limit.saturating_add(1));
        let mut buffer = vec![0; 128 * 1024];
        let mut pace = Pace::new(self.stall_timeout);
        loop {
            let read = match self.deadline.during(|| body.read(&mut buffer))? {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(e) => return Err(HubError::Request(e.into())),
            };
            each(&buffer[..read])?;
            pace.count(read)?;
        }
    }

    fn address(&self, path: &str) -> Result<Uri, HubError> {
        let endpoint = self.endpoint.to_string();
        location::parse(&format!("{}{path}", endpoint.trim_end_matches('/')))
            .ok_or_else(|| HubError::Protocol(format!("{path} cannot be part of an address")))
    }

    fn send(
        &self,
        method: Method,
        uri: &Uri,
        range: Option<&str>,
    ) -> Result<Response<Body>, HubError> {
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.token
            && location::same_origin(uri, &self.endpoint)
        {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let request = request.body(()).map_err(ureq::Error::from)?;
        let proxy = self.proxies.of(uri)?;
        let request = self.agent.configure_request(request);
        let request = request.proxy(proxy.cloned()).build();
        let response = self.agent.run(request).map_err(|source| match proxy {
            Some(proxy) => HubError::Proxied {
                proxy: format!("{}:{}", proxy.host(), proxy.port()),
                source,
            },
            None => source.into(),
        })?;
        match response.headers().get(CONTENT_ENCODING) {
            Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
                let encoding = quoted_bytes(encoding.as_bytes());
                Err(HubError::Protocol(format!(
                    "it sends the encoding {encoding}, which was not asked for"
                )))
            }
            _ => Ok(response),
        }
    }
}

/// The target of an answer that redirects.
fn location(response: &Response<Body>, from: &Uri) -> Result<Option<Uri>, HubError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let target = response
        .headers()
        .get(LOCATION)
        .ok_or_else(|| HubError::Protocol("it redirects to nowhere".into()))?;
    location::follow(from, target.as_bytes())
        .map(Some)
        .ok_or_else(|| HubError::Redirect(quoted_bytes(target.as_bytes())))
}

fn success(response: Response<Body>) -> Result<Response<Body>, HubError> {
    match response.status() {
        status if status.is_success() => Ok(response),
        status => Err(HubError::Status(status.as_u16())),
    }
}

/// A hub's metadata of a file.
///
/// As in `get_hf_file_metadata` of huggingface_hub, headers about the linked file go before those
/// about the answer. If a hub does not give the size of a linked file, its host is asked.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub etag: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub commit: Option<Vec<u8>>,
}

impl Head {
    fn add(
        &mut self,
        headers: &HeaderMap,
        is_redirect: bool,
        at_home: bool,
    ) -> Result<(), HubError> {
        let get = |name: &str| headers.get(name);
        let bytes = |value: &HeaderValue| value.as_bytes().to_vec();
        if at_home {
            self.etag = self.etag.take().or(get("x-linked-etag").map(bytes));
            self.commit = self.commit.take().or(get("x-repo-commit").map(bytes));
            self.size = self.size.or(number(get("x-linked-size"))?);
        }
        if !is_redirect {
            self.etag = self.etag.take().or(get("etag").map(bytes));
            self.size = self.size.or(number(headers.get(CONTENT_LENGTH))?);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.etag.is_some() && self.size.is_some() && self.commit.is_some()
    }
}

/// Parses a header that is a number, if present.
pub(super) fn number(value: Option<&HeaderValue>) -> Result<Option<u64>, HubError> {
    let Some(value) = value else { return Ok(None) };
    let digits = value.to_str().ok();
    let number = digits.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match number.and_then(|text| text.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => Err(HubError::Protocol(format!(
            "it gives the size {}",
            quoted_bytes(value.as_bytes())
        ))),
    }
}
