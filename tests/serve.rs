//! `kvscope report --serve`: who has the address may read, and nobody else is told anything.

mod kit {
    pub mod cli;
    pub mod tiny;
}

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use kit::cli::{command, done, ends, kvscope};
use kit::tiny::{MODEL, texts, write_prompts};
use serde_json::Value;

/// A server that is ended with the test.
struct Serving {
    child: Child,
    host: String,
    token: String,
}

impl Serving {
    fn start(dir: &Path, what: &str) -> Self {
        let mut child =
            command(dir, &["report", what, "--serve"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (host, token) = line.trim().strip_prefix("http://").unwrap().split_once('/').unwrap();
        let token = token.strip_suffix('/').unwrap();
        Self { child, host: host.into(), token: token.into() }
    }

    /// Status, head and body of the answer to a request as it is sent.
    fn ask(&self, request: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head, answer[end + 4..].to_vec())
    }

    fn get(&self, path: &str) -> (u16, String, Vec<u8>) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.host))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn only_the_address_that_was_told_answers() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(2));
    done(kvscope(dir, &["capture", "--model", MODEL, "--prompts", "prompts.jsonl", "--out", "dumps/run"]));
    done(kvscope(dir, &["analyze", "dumps/run", "--budgets", "none"]));
    ends(&kvscope(dir, &["report", "dumps/run", "--serve"]), 2, &["is a dump"]);
    let mut serving = Serving::start(dir, "reports/run");
    assert!(serving.host.starts_with("127.0.0.1:") && serving.token.len() == 32, "{}/{}", serving.host, serving.token);
    // Nothing is written.
    assert!(!dir.join("reports/run/report.html").exists() && !dir.join("figures").exists());

    let token = serving.token.clone();
    let (status, head, page) = serving.get(&format!("/{token}/"));
    let page = String::from_utf8(page).unwrap();
    assert_eq!(status, 200, "{head}");
    for header in
        ["Content-Type: text/html", "Cache-Control: no-store", "Referrer-Policy: no-referrer", "frame-ancestors 'none'"]
    {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert!(page.contains("default-src 'none'") && page.contains("connect-src 'self'"));
    // The document alone is in the page; a part tells its layout in a line, then its bytes.
    assert_eq!(page.matches("data-part=").count(), 1);
    let (status, head, part) = serving.get(&format!("/{token}/part/0.series.0"));
    assert!(status == 200 && head.contains("application/octet-stream"), "{head}");
    let end = part.iter().position(|byte| *byte == b'\n').unwrap();
    let layout: Vec<(String, String, usize)> = serde_json::from_slice(&part[..end]).unwrap();
    assert_eq!(layout[0].0, "link_order");
    assert_eq!(part.len() - end - 1, layout.iter().map(|(_, _, n)| 2 * n).sum::<usize>());
    let (status, _, body) =
        serving.ask(&format!("HEAD /{token}/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", serving.host));
    assert_eq!((status, body.len()), (200, 0));

    let port = serving.host.split(':').nth(1).unwrap().to_string();
    let local = format!("GET /{token}/ HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
    assert_eq!(serving.ask(&local).0, 200);
    let (last, other) = token.split_at(31);
    let wrong = format!("{last}{}", if other == "0" { "1" } else { "0" });
    for path in [
        "/",
        "/favicon.ico",
        &format!("/{wrong}/"),
        &format!("/{token}"),
        &format!("/{token}/part/9.texts"),
        &format!("/{token}/../"),
    ] {
        let (status, _, body) = serving.get(path);
        assert_eq!((status, body.len()), (404, 0), "{path}");
    }
    for host in [
        "evil.example",
        &format!("evil.example:{port}"),
        "127.0.0.1",
        "127.0.0.1:1",
        &format!("127.0.0.1:{port}\r\nHost: evil.example"),
    ] {
        let (status, _, body) =
            serving.ask(&format!("GET /{token}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert_eq!((status, body.len()), (404, 0), "{host}");
    }
    for request in [
        format!("GET /{token}/ HTTP/1.0\r\n\r\n"),
        format!("POST /{token}/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", serving.host),
    ] {
        let (status, _, body) = serving.ask(&request);
        assert_eq!((status, body.len()), (404, 0), "{request}");
    }

    // Who is slow keeps nobody waiting, and Ctrl-C ends it all the same.
    let slow: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(&serving.host).unwrap()).collect();
    assert_eq!(serving.get(&format!("/{token}/part/0.texts")).0, 200);
    let killed = std::process::Command::new("kill").args(["-INT", &serving.child.id().to_string()]).status().unwrap();
    assert!(killed.success() && serving.child.wait().unwrap().success());
    drop(slow);
}

#[test]
fn a_server_tells_its_address_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(2));
    done(kvscope(dir, &["capture", "--model", MODEL, "--prompts", "prompts.jsonl", "--out", "dumps/run"]));
    done(kvscope(dir, &["analyze", "dumps/run", "--budgets", "none", "--explore", "0"]));
    let mut child =
        command(dir, &["--json", "report", "reports/run", "--serve"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    assert!(told["url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{line}");
}

#[test]
fn a_page_without_an_analysis_is_served_too() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_prompts(dir, &texts(2));
    let policy = [
        "--policy",
        "h2o",
        "--budget",
        "0.5",
        "--raw",
        "--context",
        "24",
        "--continuation",
        "8",
        "--out",
        "reports/eval",
    ];
    done(kvscope(
        dir,
        &[&["eval", "--model", MODEL, "--prompts", "prompts.jsonl", "--task", "kl"][..], &policy].concat(),
    ));
    let serving = Serving::start(dir, "reports/eval");
    let (status, _, page) = serving.get(&format!("/{}/", serving.token));
    let page = String::from_utf8(page).unwrap();
    assert!(
        status == 200 && page.contains("<section id=\"evaluation\"") && !page.contains("id=\"explorer\""),
        "{page}"
    );
    assert_eq!(serving.get(&format!("/{}/part/0.texts", serving.token)).0, 404);
}
