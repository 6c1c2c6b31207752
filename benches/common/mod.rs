//! What the benchmarks share: peers in Python, the machine's peak, medians.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use rayon::prelude::*;
use serde_json::Value;

/// Rest before each timing: threads of the last one stop spinning.
pub const PAUSE: Duration = Duration::from_millis(300);

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

/// The engines' prompt; `benches/peers/peer.py` has the same rule.
pub fn prompt(n_tokens: usize) -> Vec<u32> {
    (0..n_tokens as u32).map(|i| (i * 7919 + 13) % 49_000 + 100).collect()
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

/// GFLOP/s of loops of independent multiply-adds on `threads` threads: what no product can exceed here.
pub struct Peak {
    pub f32: f64,
    /// Of 16-bit integers into sums of 32 bits.
    pub fixed16: f64,
}

impl Peak {
    /// The best of several loops with the instructions that this processor has.
    pub fn measure(threads: usize) -> Self {
        const STEPS: usize = 5_000_000;
        let best = |operations: fn(usize) -> usize| {
            let rate = |_| {
                let start = Instant::now();
                let n: usize = (0..threads).into_par_iter().with_max_len(1).map(|_| operations(STEPS)).sum();
                n as f64 / start.elapsed().as_secs_f64() / 1e9
            };
            (0..5).map(rate).fold(0.0, f64::max)
        };
        Self { f32: best(loops::f32), fixed16: best(loops::fixed16) }
    }
}

/// Loops that do nothing but multiply and add; each returns its number of operations.
#[cfg(target_arch = "x86_64")]
mod loops {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Sums in flight: more than the latency of an instruction times their number a cycle.
    const N: usize = 12;

    macro_rules! repeat {
        ($name:ident, $features:literal, $n_steps:ident, $first:expr, $step:expr, $per_step:literal) => {
            #[target_feature(enable = $features)]
            fn $name($n_steps: usize) -> usize {
                let mut sums = std::hint::black_box([$first; N]);
                for _ in 0..$n_steps {
                    for sum in &mut sums {
                        *sum = $step(*sum);
                    }
                }
                black_box(sums);
                $n_steps * N * $per_step
            }
        };
    }

    repeat!(
        f32_512,
        "avx512f",
        n_steps,
        _mm512_set1_ps(1.0),
        |x| _mm512_fmadd_ps(x, _mm512_set1_ps(0.999), _mm512_set1_ps(1e-3)),
        32
    );
    repeat!(
        f32_256,
        "avx2,fma",
        n_steps,
        _mm256_set1_ps(1.0),
        |x| _mm256_fmadd_ps(x, _mm256_set1_ps(0.999), _mm256_set1_ps(1e-3)),
        16
    );
    repeat!(
        fixed16_256,
        "avx2",
        n_steps,
        _mm256_set1_epi16(3),
        |x| _mm256_add_epi32(x, _mm256_madd_epi16(x, _mm256_set1_epi16(5))),
        32
    );

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn fixed16_512(n_steps: usize) -> usize {
        let factor = _mm512_set1_epi16(5);
        let mut sums = black_box([_mm512_set1_epi16(3); N]);
        for _ in 0..n_steps {
            for sum in &mut sums {
                // In assembly: the compiler would take the instruction apart.
                #[expect(unsafe_code, reason = "the instruction was asked for, and touches these registers only")]
                unsafe {
                    std::arch::asm!(
                        "vpdpwssd {sum}, {factor}, {factor}",
                        sum = inout(zmm_reg) *sum,
                        factor = in(zmm_reg) factor,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
            }
        }
        black_box(sums);
        n_steps * N * 64
    }

    #[expect(unsafe_code, reason = "the instructions were asked for")]
    pub fn f32(n_steps: usize) -> usize {
        if is_x86_feature_detected!("avx512f") {
            unsafe { f32_512(n_steps) }
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            unsafe { f32_256(n_steps) }
        } else {
            0
        }
    }

    #[expect(unsafe_code, reason = "the instructions were asked for")]
    pub fn fixed16(n_steps: usize) -> usize {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            unsafe { fixed16_512(n_steps) }
        } else if is_x86_feature_detected!("avx2") {
            unsafe { fixed16_256(n_steps) }
        } else {
            0
        }
    }
}

/// Unknown elsewhere.
#[cfg(not(target_arch = "x86_64"))]
mod loops {
    pub fn f32(_n_steps: usize) -> usize {
        0
    }

    pub fn fixed16(_n_steps: usize) -> usize {
        0
    }
}
