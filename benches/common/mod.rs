//! What the benchmarks share: peers in Python, the machine's peak, medians.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use anyhow::Context;
use multiversion::multiversion;
use rayon::prelude::*;
use serde_json::Value;

/// A program of `benches/peers/` that answers one line of JSON with another.
pub struct Peer {
    script: String,
    /// What it says it is.
    pub name: String,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// A peer's answer.
pub struct Answer(Value);

impl Answer {
    /// Seconds that it took.
    pub fn secs(&self) -> anyhow::Result<f64> {
        self.0["secs"].as_f64().with_context(|| format!("no seconds in {}", self.0))
    }

    /// Numbers under a name.
    pub fn numbers(&self, key: &str) -> anyhow::Result<Vec<f64>> {
        let numbers = self.0[key].as_array().map(|values| values.iter().filter_map(Value::as_f64).collect());
        numbers.with_context(|| format!("no {key} in {}", self.0))
    }

    /// The token of the highest logit.
    pub fn token(&self) -> anyhow::Result<u32> {
        Ok(u32::try_from(self.0["token"].as_u64().with_context(|| format!("no token in {}", self.0))?)?)
    }
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
        let ready = peer.answer().with_context(|| {
            format!(
                "{script} did not start with {}; benches/peers/requirements.txt lists its packages",
                python.display()
            )
        })?;
        peer.name = ready.0["name"].as_str().context("a peer without a name")?.to_string();
        Ok(peer)
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, request: &Value) -> anyhow::Result<Answer> {
        writeln!(self.requests, "{request}").and_then(|()| self.requests.flush()).context(self.script.clone())?;
        self.answer()
    }

    fn answer(&mut self) -> anyhow::Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).map(Answer).with_context(|| format!("{} ended or answered {line:?}", self.script))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A peer that is gone already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The middle value, the higher one of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// f32 GFLOP/s of a loop of independent fused multiply-adds on `threads` threads: the machine's limit for any product.
pub fn peak_gflops(threads: usize) -> f64 {
    const STEPS: usize = 10_000_000;
    let timings: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            let lanes: usize = (0..threads).into_par_iter().with_max_len(1).map(|_| multiply_add(STEPS)).sum();
            2.0 * (STEPS * lanes) as f64 / start.elapsed().as_secs_f64() / 1e9
        })
        .collect();
    median(&timings)
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn multiply_add(n_steps: usize) -> usize {
    multiply_add_lanes::<8, 12>(n_steps)
}

/// Twelve registers of eight lanes hide the latency of an FMA on every machine with AVX2. Returns the number of lanes.
#[inline(always)]
fn multiply_add_lanes<const WIDTH: usize, const N: usize>(n_steps: usize) -> usize {
    let (factor, term) = (std::hint::black_box(0.999f32), std::hint::black_box(1e-3f32));
    let mut lanes = [[1f32; WIDTH]; N];
    for _ in 0..n_steps {
        for lane in lanes.iter_mut().flatten() {
            *lane = lane.mul_add(factor, term);
        }
    }
    std::hint::black_box(lanes);
    WIDTH * N
}
