//! kvscope: see how similar a language model's KV cache is, tune merge thresholds for it, and generate with the
//! compressed cache. Implements KVMerger (Wang, Jin, Yu, Zhang 2024, arXiv 2407.08454) and the baselines it is compared with.
//!
//! Stages meet at files, modules depend one way (`docs/ARCHITECTURE.md`, checked by `tests/tidy.rs`):
//!
//! ```text
//! weights ─▶ model ─prefill─▶ capture ─▶ dumps/*.safetensors ─▶ analyze ─▶ reports/*/analysis.json
//!              │                                                   │              │
//!              │                                                 tune             ▼
//!            decode                                                │           report ─▶ figures/*/*.png, *.svg
//!              │                                                   ▼              ▲      reports/*/report.html
//!              └───▶ runtime ◀── profile ◀──── reports/*/*.profile.json ─────────┘
//! ```

// Tests and benches fail by panicking; the library may not.
#![deny(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]

pub mod analyze;
pub mod capture;
pub mod cli;
pub mod dump;
pub mod files;
pub mod hub;
pub mod math;
pub mod merge;
pub mod model;
pub mod policy;
pub mod profile;
pub mod prompts;
pub mod report;
pub mod runtime;
pub mod tune;
