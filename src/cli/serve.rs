//! A report's page on this machine's own address, for maps too large to embed: who has the address may read, and nobody else.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::RngExt;
use serde_json::json;

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::{Context, Result};
use crate::cli::options::stop_flag;
use crate::cli::output::{emit, emit_json_line, note};
use crate::report::Served;

/// Connections that are open at a time; browsers keep some that ask for nothing.
const MOST_CONNECTIONS: usize = 64;
/// Bytes and headers of a request, at most.
const MOST_BYTES: usize = 1 << 14;
const MOST_HEADERS: usize = 64;
/// How long a request may take to come, and an answer to go.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a stop may go unnoticed.
const WAIT: Duration = Duration::from_millis(100);
/// What every page and part tells a browser beside its type: keep nothing, guess nothing, send the address nowhere, be shown in no
/// other page.
const HEADERS: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\nCross-Origin-Opener-Policy: same-origin\r\n\
    Content-Security-Policy: frame-ancestors 'none'\r\n";
const NOTHING: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What is asked of a page by who knows the port and the token.
struct Door {
    served: Served,
    port: u16,
    token: String,
    n_open: AtomicUsize,
}

/// Answers on a free port of the loopback address until Ctrl-C; with `open`, a browser is started.
pub(crate) fn serve(served: Served, open: bool, common: &Common) -> Result<Outcome> {
    let stop = stop_flag()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
    let port = listener.local_addr()?.port();
    let token: String = rand::rng().random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
    let url = format!("http://127.0.0.1:{port}/{token}/");
    let door = Arc::new(Door { served, port, token, n_open: AtomicUsize::new(0) });
    thread::spawn(move || {
        // An error is one of a connection, and the next may do.
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => Door::open(&door, stream),
                Err(_) => thread::sleep(WAIT),
            }
        }
    });
    if common.json {
        emit_json_line(&json!({ "schema": "kvscope.report/1", "files": [], "url": url }))?;
    } else {
        emit(&format!("{url}\n"))?;
        note(common, "Ctrl-C ends it; whoever has this address can read the page on this machine");
    }
    if open {
        open_browser(&url, common);
    }
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(WAIT);
    }
    Ok(Outcome::Done)
}

impl Door {
    /// Answers one request on a thread of its own.
    fn open(door: &Arc<Self>, stream: TcpStream) {
        let own = Arc::clone(door);
        if door.n_open.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
            door.n_open.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        thread::spawn(move || {
            // Whoever asked may be gone.
            let _ = own.answer(stream);
            own.n_open.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Nothing is said to who lacks the token, names another host or asks for what there is not.
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = read_request(&mut stream)?;
        let found = self.asked(&request).and_then(|(address, is_whole)| Some((self.served.get(address)?, is_whole)));
        let Some(((kind, body), is_whole)) = found else { return stream.write_all(NOTHING.as_bytes()) };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n{HEADERS}\r\n"
        )?;
        if is_whole { stream.write_all(&body) } else { Ok(()) }
    }

    /// The address below the page's that a request asks for, and whether its body is wanted; `None` of a request that is not answered.
    fn asked<'a>(&self, request: &'a [u8]) -> Option<(&'a str, bool)> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(request).ok()?;
        let is_whole = match parsed.method? {
            "GET" => true,
            "HEAD" => false,
            _ => return None,
        };
        // A name that leads here from a page elsewhere is another host to its browser, and not to us.
        let mut named = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
        let (host, other) = (named.next()?.value, named.next());
        let hosts = [format!("127.0.0.1:{}", self.port), format!("localhost:{}", self.port)];
        let is_here = other.is_none() && hosts.iter().any(|own| own.as_bytes() == host);
        Some((address(parsed.path?, &self.token)?, is_whole)).filter(|_| is_here)
    }
}

/// The head of a request.
///
/// - Errors: one that is longer, or takes longer, than it may
fn read_request(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let (end, mut request, mut buffer) = (Instant::now() + PATIENCE, Vec::new(), [0; 1024]);
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let left = end.saturating_duration_since(Instant::now());
        if request.len() >= MOST_BYTES || left.is_zero() {
            return Err(ErrorKind::InvalidData.into());
        }
        stream.set_read_timeout(Some(left))?;
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        request.extend(&buffer[..n]);
    }
    Ok(request)
}

/// What stands behind the token in an address; `None` where it is another one.
fn address<'a>(url: &'a str, token: &str) -> Option<&'a str> {
    let path = url.split(['?', '#']).next()?.strip_prefix('/')?;
    let (given, rest) = path.split_once('/')?;
    // As long for a token that is nearly right as for any other of its length.
    let differs = given.bytes().zip(token.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
    (given.len() == token.len() && differs == 0).then_some(rest)
}

/// Starts a browser on an address; says so where there is none.
fn open_browser(url: &str, common: &Common) {
    let (program, args): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("cmd", &["/C", "start", ""]),
        _ => ("xdg-open", &[]),
    };
    let started = Command::new(program).args(args).arg(url).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Err(error) = started {
        note(common, &format!("no browser was started: {program}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_the_token() {
        let of = |url| address(url, "abc");
        assert_eq!([of("/abc/"), of("/abc/part/0.texts?x"), of("/abc/#x")], [Some(""), Some("part/0.texts"), Some("")]);
        for url in ["/", "/abc", "/abd/", "/ab/", "/abcd/", "//abc/", "abc/", "*", "http://127.0.0.1/abc/"] {
            assert_eq!(of(url), None, "{url}");
        }
    }
}
