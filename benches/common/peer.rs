//! Programs in Python that do the same.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Whether and with what peers are measured.
#[derive(Debug, clap::Args)]
pub struct PeerArgs {
    /// Python with the packages of benches/peers/requirements.txt
    #[arg(long, env = "KVSCOPE_PEERS_PYTHON")]
    pub python: Option<PathBuf>,
    /// Leave the peers out
    #[arg(long)]
    pub no_peers: bool,
}

impl PeerArgs {
    /// The Python to start peers with; `None` where they are left out.
    pub fn python(&self) -> anyhow::Result<Option<&Path>> {
        if self.no_peers {
            return Ok(None);
        }
        let python = self.python.as_deref().context(
            "no Python for the peers: pass --python or set KVSCOPE_PEERS_PYTHON to one that has the packages of \
             benches/peers/requirements.txt, or pass --no-peers",
        )?;
        Ok(Some(python))
    }
}

/// A program of `benches/peers/` that answers one line of JSON with another.
pub struct Peer {
    script: String,
    /// What it says it is.
    pub name: String,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts the script and waits until it is ready.
    pub fn start(python: &Path, script: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(script);
        let mut child = Command::new(python)
            .arg(path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let requests = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut peer = Self { script: script.into(), name: String::new(), child, requests, answers };
        let name = peer.answer("name").with_context(|| {
            format!(
                "{script} did not start with {}; benches/peers/requirements.txt lists its packages",
                python.display()
            )
        })?;
        peer.name = name;
        Ok(peer)
    }

    /// Sends a request and waits for its answer: the value of that name.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Value, key: &str) -> anyhow::Result<T> {
        writeln!(self.requests, "{request}").and_then(|()| self.requests.flush()).context(self.script.clone())?;
        self.answer(key)
    }

    fn answer<T: DeserializeOwned>(&mut self, key: &str) -> anyhow::Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Value =
            serde_json::from_str(&line).with_context(|| format!("{} ended or answered {line:?}", self.script))?;
        T::deserialize(&answer[key]).with_context(|| format!("no {key} in {line}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A peer that is gone already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
