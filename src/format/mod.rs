//! Every saved file, described once: its types, its reader, its writer and what can be wrong with it.
//!
//! A leaf: knows no stage. Stages compute documents; whoever reads one needs no stage. Layouts in `docs/FORMATS.md`.

pub mod dump;
pub mod profile;
