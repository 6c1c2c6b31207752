//! Repository invariants that the compiler cannot check.

mod imports;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use imports::Crate;

/// For each module of `src/`, the modules it may name, in order of dependency. Anything else is an error.
const MAY_USE: &[(&str, &[&str])] = &[
    ("hint", &[]),
    ("math", &[]),
    ("say", &["math"]),
    ("files", &["hint", "math"]),
    ("checkpoint", &[]),
    ("hub", &["checkpoint", "files", "hint"]),
    ("prompts", &["files", "hint"]),
    ("merge", &["hint", "math"]),
    ("format", &["files", "hint", "math", "merge", "say"]),
    ("policy", &["format", "hint", "math", "merge"]),
    ("model", &["checkpoint", "files", "hint", "math"]),
    ("capture", &["files", "format", "hint", "math", "model"]),
    ("fates", &["format", "hint", "math", "merge", "policy"]),
    ("analyze", &["fates", "files", "format", "hint", "math", "merge", "policy", "say"]),
    ("tune", &["files", "format", "hint", "math", "merge", "policy", "say"]),
    ("runtime", &["format", "hint", "math", "merge", "model", "policy"]),
    ("eval", &["files", "format", "hint", "math", "merge", "model", "policy", "prompts", "runtime", "say"]),
    ("learn", &["capture", "files", "format", "hint", "math", "merge", "model", "policy", "runtime", "tune"]),
    ("report", &["files", "format", "hint", "math", "policy", "say"]),
    ("choose", &["eval", "files", "format", "hint", "math", "model", "prompts", "runtime", "say", "tune"]),
    (
        "cli",
        &[
            "analyze", "capture", "choose", "eval", "fates", "files", "format", "hint", "hub", "learn", "math",
            "merge", "model", "policy", "prompts", "report", "runtime", "say", "tune",
        ],
    ),
];
const MAX_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn modules_depend_one_way() {
    let src = root().join("src");
    let mut faults = Vec::new();
    let mut n_names = 0;
    for (path, module) in &Crate::read(&src).0 {
        let relative = module.file.strip_prefix(&src).unwrap().display();
        let text = fs::read_to_string(&module.file).unwrap();
        let mut fault = |what: String| faults.push(format!("{relative}: {what}"));
        if !text.starts_with("//!") {
            fault("no module doc".into());
        }
        if text.lines().count() > MAX_LINES {
            fault(format!("over {MAX_LINES} lines"));
        }
        if text.contains("super::super") {
            fault("write `crate::…`: `super::super` hides an edge".into());
        }
        if path[0] == "lib" || path[0] == "main" {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(room, _)| *room == path[0]) else {
            fault("module has no row in MAY_USE".into());
            continue;
        };
        n_names += module.names.len();
        let others: BTreeSet<&String> = module.names.iter().map(|name| &name[0]).collect();
        for other in others.into_iter().filter(|other| **other != path[0] && !allowed.contains(&other.as_str())) {
            fault(format!("may not use `{other}`"));
        }
    }
    assert!(n_names > 1000, "the scan saw {n_names} names: it is looking in the wrong place");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn no_room_has_a_circle() {
    let all = Crate::read(&root().join("src"));
    let mut n_edges = 0;
    for (room, _) in MAY_USE {
        let edges = all.edges(room);
        n_edges += edges.values().map(BTreeSet::len).sum::<usize>();
        if let Some(circle) = imports::circle(&edges) {
            let names: Vec<String> = circle.iter().map(|path| path.join("/")).collect();
            panic!("these files need each other: {}", names.join(" -> "));
        }
    }
    assert!(n_edges > 300, "the scan saw {n_edges} edges: it is looking in the wrong place");
}

#[test]
fn the_table_has_no_cycle_and_no_stale_row() {
    let rank = |module: &str| MAY_USE.iter().position(|(name, _)| *name == module).expect(module);
    for (module, uses) in MAY_USE {
        assert!(root().join("src").join(module).is_dir(), "{module} is in the table but not in src/");
        for used in *uses {
            assert!(rank(used) < rank(module), "{module} -> {used} points forward");
        }
    }
}

#[test]
fn architecture_has_an_invariant_for_every_module() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    for (module, _) in MAY_USE {
        let line = text.lines().find(|line| line.starts_with(&format!("- `{module}`")));
        let line = line.unwrap_or_else(|| panic!("docs/ARCHITECTURE.md has no line for {module}"));
        assert!(line.contains("**Invariant:**"), "{module}: {line}");
    }
}

#[test]
fn formats_document_names_every_schema() {
    let text = fs::read_to_string(root().join("docs/FORMATS.md")).unwrap();
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let mut found = 0;
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        for part in source.split("\"kvscope.").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || "_-".contains(*c)).collect();
            if name.starts_with("toy") {
                continue;
            }
            found += 1;
            assert!(text.contains(&format!("kvscope.{name}")), "docs/FORMATS.md does not name kvscope.{name}");
        }
    }
    assert!(found >= 5, "found {found} schema names: the scan is looking in the wrong place");
}

/// Every `kvscope ...` line of the README's code blocks is a command that this program understands.
#[test]
fn readme_commands_parse() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let mut in_block = false;
    let mut seen = Vec::new();
    let mut joined = String::new();
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if !in_block {
            continue;
        }
        if let Some(part) = line.strip_suffix('\\') {
            joined.push_str(part);
            continue;
        }
        joined.push_str(line);
        let line = std::mem::take(&mut joined);
        let command = line.trim().trim_start_matches("$ ");
        if !command.starts_with("kvscope ") {
            continue;
        }
        let words = shlex::split(command).unwrap_or_else(|| panic!("README: a quote is not closed in {command}"));
        kvscope::cli::command().try_get_matches_from(&words).unwrap_or_else(|e| panic!("README: {command}\n{e}"));
        seen.push(words[1].clone());
    }
    for command in ["demo", "capture", "analyze", "tune", "report", "generate"] {
        assert!(seen.iter().any(|name| name == command), "the README shows no `kvscope {command}`");
    }
}
