//! One file over HTTP, resumed where it broke off.
//!
//! Own code rather than the downloads of the hf-hub crate, which publishes a file before anything was checked, appends
//! a whole body to a partial file when a server ignores `Range`, and cannot finish a file whose last byte already came.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use ureq::Body;
use ureq::http::{HeaderMap, Response, Uri};

use crate::files::{FileError, create_dir, lock, open_to_append};
use crate::hub::{HubError, Progress, Token};

/// A server that says nothing for this long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// Longest pause before a broken transfer is taken up again.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Redirects that are followed one after another.
const MAX_REDIRECTS: usize = 8;

/// Largest JSON answer that is read, in bytes.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Makes requests to one hub. The token goes to the endpoint's origin (scheme, host and port) and, after a redirect, to no
/// other.
pub(crate) struct Client {
    agent: ureq::Agent,
    token: Option<Token>,
    retries: u32,
}

/// What is fetched, and where it is collected.
pub(crate) struct Transfer<'a> {
    /// Name for people.
    pub(crate) what: &'a str,
    /// Address.
    pub(crate) url: &'a str,
    /// Page of the repository, for messages.
    pub(crate) page: &'a str,
    /// Announced size, in bytes.
    pub(crate) size: u64,
    /// File that keeps what arrived.
    pub(crate) part: PathBuf,
}

/// How a stretch of a transfer ended.
enum Stretch {
    Done,
    /// Worth another try.
    Broken(HubError),
}

impl Client {
    pub(crate) fn new(token: Option<Token>, retries: u32) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Followed here: the library compares hosts, not origins.
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_per_read(Some(SILENCE))
            // A compressed answer would have another length than the file.
            .accept_encoding("identity")
            .user_agent(crate::files::TOOL_VERSION.replace(' ', "/"));
        Self { agent: config.build().into(), token, retries }
    }

    /// Headers of a file without its redirect to another origin, which would lose the hub's own headers.
    pub(crate) fn head(&self, what: &str, url: &str, page: &str) -> Result<HeaderMap, HubError> {
        let response = self.request(true, url, 0)?;
        match response.status().as_u16() {
            status if status < 400 => Ok(response.headers().clone()),
            status => Err(self.refusal(status, what, url, page)),
        }
    }

    /// The bytes of a short answer.
    pub(crate) fn get(&self, what: &str, url: &str, page: &str) -> Result<Vec<u8>, HubError> {
        let mut response = self.request(false, url, 0)?;
        match response.status().as_u16() {
            200..300 => {}
            status => return Err(self.refusal(status, what, url, page)),
        }
        let mut bytes = Vec::new();
        let body = response.body_mut().as_reader().take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes);
        body.map_err(|e| HubError::Network { url: url.into(), why: e.to_string() })?;
        if bytes.len() as u64 > MAX_JSON_BYTES {
            let what = format!("it has more than {MAX_JSON_BYTES} bytes");
            return Err(HubError::BadAnswer { url: url.into(), what });
        }
        Ok(bytes)
    }

    /// The answer to HEAD or GET from byte `from` on. Redirects are followed, HEAD's within the origin only.
    fn request(&self, is_head: bool, url: &str, from: u64) -> Result<Response<Body>, HubError> {
        let bad = |address: &str, what: &str| HubError::BadAnswer { url: address.into(), what: what.into() };
        let home = origin(url).ok_or_else(|| bad(url, "its address is not valid"))?;
        let mut address = url.to_string();
        for _ in 0..MAX_REDIRECTS {
            let mut request = if is_head { self.agent.head(&address) } else { self.agent.get(&address) };
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin(&address).as_ref() == Some(&home)) {
                request = request.header("Authorization", format!("Bearer {}", token.secret()));
            }
            let response = request.call().map_err(|e| network(&address, &e))?;
            let location = header(response.headers(), "location");
            let Some(location) = location.filter(|_| matches!(response.status().as_u16(), 301..=303 | 307 | 308))
            else {
                return Ok(response);
            };
            let next = target(&address, location);
            let there = origin(&next).ok_or_else(|| bad(&address, "it redirects to what is no address"))?;
            if is_head && there != home {
                return Ok(response);
            }
            if home.scheme == "https" && there.scheme != "https" {
                return Err(bad(&address, "it redirects to an address without encryption"));
            }
            address = next;
        }
        Err(bad(url, "too many redirects"))
    }

    /// The error for a status that is no success.
    pub(crate) fn refusal(&self, status: u16, what: &str, url: &str, page: &str) -> HubError {
        let with_token = self.token.is_some();
        match status {
            401 => HubError::Unauthorized { what: what.into(), with_token },
            403 => HubError::Forbidden { what: what.into(), page: page.into(), with_token },
            404 => HubError::NotFound(what.into()),
            _ => HubError::Status { url: url.into(), status },
        }
    }

    /// Completes the part file: keeps what an earlier attempt left, asks for the rest, tries again when it breaks off.
    pub(crate) fn fetch(&self, transfer: &Transfer, progress: &mut dyn Progress) -> Result<(), HubError> {
        let io = |action, e| HubError::from(FileError::io(action, &transfer.part, e));
        if let Some(folder) = transfer.part.parent() {
            create_dir(folder)?;
        }
        let mut part = open_to_append(&transfer.part)?;
        if !lock(&part).map_err(|e| io("lock", e))? {
            return Err(HubError::Busy { what: transfer.what.into(), path: transfer.part.clone() });
        }
        let mut have = part.metadata().map_err(|e| io("read", e))?.len();
        if have > transfer.size {
            part.set_len(0).map_err(|e| io("write", e))?;
            have = 0;
        }
        progress.start(transfer.what, Some(transfer.size));
        progress.advance(have);
        let result = self.fetch_all(transfer, &mut part, have, progress);
        progress.finish();
        result?;
        part.sync_all().map_err(|e| io("write", e))
    }

    fn fetch_all(
        &self,
        transfer: &Transfer,
        part: &mut File,
        mut have: u64,
        progress: &mut dyn Progress,
    ) -> Result<(), HubError> {
        let mut failures = 0;
        while have < transfer.size {
            match self.stretch(transfer, part, &mut have, progress)? {
                Stretch::Done => {}
                Stretch::Broken(error) if failures >= self.retries => return Err(error),
                Stretch::Broken(error) => {
                    tracing::info!("{error}; trying again");
                    std::thread::sleep(Duration::from_millis(250 << failures.min(6)).min(LONGEST_PAUSE));
                    failures += 1;
                }
            }
        }
        Ok(())
    }

    fn stretch(
        &self,
        transfer: &Transfer,
        part: &mut File,
        have: &mut u64,
        progress: &mut dyn Progress,
    ) -> Result<Stretch, HubError> {
        let io = |e| HubError::from(FileError::io("write", &transfer.part, e));
        let mut response = match self.request(false, transfer.url, *have) {
            Ok(response) => response,
            Err(error @ HubError::Network { .. }) => return Ok(Stretch::Broken(error)),
            Err(error) => return Err(error),
        };
        match response.status().as_u16() {
            206 if range_start(&response) == Some(*have) => {}
            // The server knows no ranges, or another file: begin again.
            200 | 206 | 416 if *have > 0 => {
                part.set_len(0).map_err(io)?;
                *have = 0;
                progress.finish();
                progress.start(transfer.what, Some(transfer.size));
                if response.status().as_u16() != 200 {
                    let what = "the requested range was not given".into();
                    return Ok(Stretch::Broken(HubError::BadAnswer { url: transfer.url.into(), what }));
                }
            }
            200 => {}
            status => {
                let error = self.refusal(status, transfer.what, transfer.url, transfer.page);
                return if status >= 500 { Ok(Stretch::Broken(error)) } else { Err(error) };
            }
        }
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0u8; 1 << 18];
        loop {
            let broken = |got, why| {
                let (what, expected) = (transfer.what.into(), transfer.size);
                Ok(Stretch::Broken(HubError::Interrupted { what, got, expected, why }))
            };
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(error) => return broken(*have, error.to_string()),
            };
            if n == 0 && *have < transfer.size {
                return broken(*have, "the server closed the connection".into());
            }
            if n == 0 {
                return Ok(Stretch::Done);
            }
            let total = have.saturating_add(n as u64);
            if total > transfer.size {
                part.set_len(0).map_err(io)?;
                return Err(HubError::WrongSize { what: transfer.what.into(), expected: transfer.size, got: total });
            }
            part.write_all(&buffer[..n]).map_err(io)?;
            *have = total;
            progress.advance(n as u64);
        }
    }
}

/// Text of a header, if there is one and it is text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The error for a request without any answer.
pub(crate) fn network(url: &str, error: &ureq::Error) -> HubError {
    HubError::Network { url: url.into(), why: error.to_string() }
}

fn range_start<B>(response: &Response<B>) -> Option<u64> {
    let range = header(response.headers(), "content-range")?.strip_prefix("bytes ")?;
    range.split('-').next()?.trim().parse().ok()
}

/// Where an address leads: what may see the token.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

/// The origin of an address; `None` if it is none, or of another kind than http and https.
fn origin(url: &str) -> Option<Origin> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let usual = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    Some(Origin { host: uri.host()?.to_ascii_lowercase(), port: uri.port_u16().unwrap_or(usual), scheme })
}

/// The address that a redirect from `url` names, whole or in part.
fn target(url: &str, location: &str) -> String {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let path = url[authority..].find('/').map_or(url.len(), |at| authority + at);
    let is_whole = location.split_once("://").is_some_and(|(scheme, _)| scheme.chars().all(char::is_alphanumeric));
    if is_whole {
        location.to_string()
    } else if location.starts_with("//") {
        format!("{}{location}", &url[..authority.saturating_sub(2)])
    } else if location.starts_with('/') {
        format!("{}{location}", &url[..path])
    } else {
        let folder = url[path..].rfind('/').map_or(url.len(), |at| path + at);
        format!("{}/{location}", &url[..folder])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_scheme_host_and_port() {
        assert_eq!(origin("https://Host/a/b"), origin("HTTPS://host:443"));
        for other in ["http://host", "https://host:444/a", "https://host.b/a", "https://host@b/a"] {
            assert_ne!(origin("https://host/a"), origin(other), "{other}");
        }
        for none in ["file:///etc/passwd", "host/a", "", "/a", "https://", "https://a\\b/"] {
            assert_eq!(origin(none), None, "{none}");
        }
    }

    #[test]
    fn redirects_may_name_a_part_of_an_address() {
        let url = "http://host:1/a/b";
        assert_eq!(target(url, "https://other/c"), "https://other/c");
        assert_eq!(target(url, "//other/c"), "http://other/c");
        assert_eq!(target(url, "/c?d://e"), "http://host:1/c?d://e");
        assert_eq!(target(url, "/c"), "http://host:1/c");
        assert_eq!(target(url, "c"), "http://host:1/a/c");
        assert_eq!(target("http://host", "c"), "http://host/c");
    }

    #[test]
    fn ranges_are_read() {
        let answer = |text: &str| Response::builder().header("Content-Range", text).body(()).unwrap();
        assert_eq!(range_start(&answer("bytes 17-20/21")), Some(17));
        assert_eq!(range_start(&answer("bytes */21")), None);
        assert_eq!(range_start(&answer("lines 1-2/3")), None);
    }
}
