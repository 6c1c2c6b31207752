//! One file over HTTP, resumed where it broke off.
//!
//! Own code rather than the downloads of the hf-hub crate, which publishes a file before anything was checked, appends
//! a whole body to a partial file when a server ignores `Range`, and cannot finish a file whose last byte already came.

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::HeaderMap;
use ureq::http::Response;

use crate::files::FileError;
use crate::files::create_dir;
use crate::hub::HubError;
use crate::hub::Progress;
use crate::hub::Token;

/// A server that says nothing for this long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// Longest pause before a broken transfer is taken up again.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Makes requests to one hub. The token goes to the endpoint's host and, after a redirect, to no other.
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
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_per_read(Some(SILENCE))
            // A compressed answer would have another length than the file.
            .accept_encoding("identity")
            .user_agent(crate::files::TOOL_VERSION.replace(' ', "/"));
        Self { agent: config.build().into(), token, retries }
    }

    /// Headers of a file without its redirect to another host, which would lose the hub's own headers.
    pub(crate) fn head(&self, what: &str, url: &str, page: &str) -> Result<HeaderMap, HubError> {
        let mut url = url.to_string();
        // A renamed repository answers with a relative redirect.
        for _ in 0..5 {
            let request = self.authorized(self.agent.head(&url)).config().max_redirects(0).build();
            let response = request.call().map_err(|e| network(&url, &e))?;
            let status = response.status().as_u16();
            let location = header(response.headers(), "location");
            match location {
                Some(path) if (300..400).contains(&status) && path.starts_with('/') && !path.starts_with("//") => {
                    url = origin(&url).to_string() + path;
                }
                _ if status < 400 => return Ok(response.headers().clone()),
                _ => return Err(self.refusal(status, what, &url, page)),
            }
        }
        Err(HubError::BadAnswer { url, what: "too many redirects".into() })
    }

    /// The error for a status that is no success.
    pub(crate) fn refusal(&self, status: u16, what: &str, url: &str, page: &str) -> HubError {
        let with_token = self.token.is_some();
        match status {
            401 => HubError::Unauthorized { what: what.into(), with_token },
            403 => HubError::Forbidden { what: what.into(), page: page.into(), with_token },
            404 => HubError::NotFound { what: what.into() },
            _ => HubError::Status { url: url.into(), status },
        }
    }

    /// Completes the part file: keeps what an earlier attempt left, asks for the rest, tries again when it breaks off.
    pub(crate) fn fetch(&self, transfer: &Transfer, progress: &mut dyn Progress) -> Result<(), HubError> {
        let io = |action, e| HubError::from(FileError::io(action, &transfer.part, e));
        if let Some(folder) = transfer.part.parent() {
            create_dir(folder)?;
        }
        let mut part = File::options().create(true).append(true).open(&transfer.part).map_err(|e| io("open", e))?;
        if part.try_lock().is_err() {
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
        let mut request = self.authorized(self.agent.get(transfer.url));
        if *have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let mut response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Stretch::Broken(network(transfer.url, &error))),
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

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {}", token.secret())),
            None => request,
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

/// Scheme and host of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_ends_before_the_path() {
        assert_eq!(origin("https://host:1/a/b"), "https://host:1");
        assert_eq!(origin("https://host"), "https://host");
    }

    #[test]
    fn ranges_are_read() {
        let answer = |text: &str| Response::builder().header("Content-Range", text).body(()).unwrap();
        assert_eq!(range_start(&answer("bytes 17-20/21")), Some(17));
        assert_eq!(range_start(&answer("bytes */21")), None);
        assert_eq!(range_start(&answer("lines 1-2/3")), None);
    }
}
