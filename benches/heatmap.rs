//! A heat map to PNG beside matplotlib's `imshow` and `savefig`, in one run on one machine.
//!
//! `cargo bench --bench heatmap -- --python VENV/bin/python` prints medians and ratios. The peer (`benches/peers/heatmap_peer.py`) draws
//! the same number of values twice: as a figure of its usual size, and with one pixel a value, as kvscope does.

mod common {
    pub mod median;
    pub mod peer;
}

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use serde_json::json;

use common::median::median;
use common::peer::{Peer, PeerArgs};
use kvscope::report::heatmap_png;
use kvscope::runtime::start_threads;

/// A heat map to PNG beside matplotlib
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    peers: PeerArgs,
    /// Values a side
    #[arg(long, default_value_t = 4096)]
    side: usize,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads of kvscope
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    start_threads(Some(args.threads))?;
    let values = cosines(args.side);
    let python = args.peers.python()?;
    let mut peer = python.map(|python| Peer::start(python, "heatmap_peer.py", &[])).transpose()?;
    let (mut ours, mut usual, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=args.rounds {
        let start = Instant::now();
        let png = heatmap_png(&values, args.side, (0.0, 1.0))?;
        let secs = start.elapsed().as_secs_f64();
        ensure!(png.len() > args.side, "the picture is empty");
        eprintln!("round {round}: kvscope {secs:.4} s, {} bytes", png.len());
        let mut ask =
            |op: &str| peer.as_mut().map(|peer| peer.ask(&json!({ "op": op, "side": args.side }), "secs")).transpose();
        let theirs: [Option<f64>; 2] = [ask("figure")?, ask("pixels")?];
        // The first round warms all up.
        if round > 0 {
            ours.push(secs);
            usual.extend(theirs[0]);
            whole.extend(theirs[1]);
        }
    }
    println!("{0} x {0} values, medians of {1} rounds, {2} threads", args.side, args.rounds, args.threads);
    println!("kvscope, a pixel a value: {:.4} s", median(&ours));
    if let Some(peer) = peer {
        for (what, theirs) in [("a figure of its usual size", usual), ("a pixel a value", whole)] {
            let ratio = median(&ours) / median(&theirs);
            println!("matplotlib {}, {what}: {:.4} s, ratio {ratio:.3}", peer.name, median(&theirs));
        }
    }
    Ok(())
}

/// What a map of cosines looks like: a bright diagonal, blocks, and noise.
fn cosines(side: usize) -> Vec<f32> {
    let mut noise = 1u32;
    let mut cells = Vec::with_capacity(side * side);
    for row in 0..side {
        for column in 0..side {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let near = 1.0 / (1.0 + row.abs_diff(column) as f32 / 64.0);
            let block = if row / 300 == column / 300 { 0.2 } else { 0.0 };
            cells.push(0.3 + 0.4 * near + block + 0.1 * (noise >> 8) as f32 / (1 << 24) as f32);
        }
    }
    cells
}
