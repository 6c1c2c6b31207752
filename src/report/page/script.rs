//! The page's script, put together from its modules when the program is built.

/// What every page runs.
const PAGE: &str = include_str!("page.js");
/// The explorer's modules, each behind those that it imports from.
const EXPLORER: [&str; 11] = [
    include_str!("explorer/words.js"),
    include_str!("explorer/payload.js"),
    include_str!("explorer/fates.js"),
    include_str!("explorer/vectors.js"),
    include_str!("explorer/look.js"),
    include_str!("explorer/map.js"),
    include_str!("explorer/heads.js"),
    include_str!("explorer/prose.js"),
    include_str!("explorer/pair.js"),
    include_str!("explorer/address.js"),
    include_str!("explorer/main.js"),
];
/// Bytes of the explorer's part of the script, at most.
pub(super) const EXPLORER_BYTES: usize = {
    let (mut bytes, mut module) = (0, 0);
    while module < EXPLORER.len() {
        bytes += EXPLORER[module].len() + 1;
        module += 1;
    }
    bytes + 64
};

/// The script of a page.
pub(super) fn of_page(has_explorer: bool) -> String {
    if has_explorer { format!("{PAGE}{}", joined(&EXPLORER)) } else { PAGE.into() }
}

/// Modules as one script in a scope of its own, without `import` lines and the word `export`.
fn joined(modules: &[&str]) -> String {
    let mut script = String::from("(() => {\n\"use strict\";\n");
    for line in modules.iter().flat_map(|module| module.lines()).filter(|line| !line.starts_with("import ")) {
        script.push_str(line.strip_prefix("export ").unwrap_or(line));
        script.push('\n');
    }
    script + "})();\n"
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn modules_share_a_scope_without_sharing_names() {
        assert_eq!(
            joined(&["import { a } from \"./a.js\";\nexport const b = a;\n", "let c;"]),
            "(() => {\n\"use strict\";\nconst b = a;\nlet c;\n})();\n"
        );
        let mut names = HashSet::new();
        for line in EXPLORER.iter().flat_map(|module| module.lines()) {
            let line = line.strip_prefix("export ").unwrap_or(line);
            let kinds = ["const ", "let ", "class ", "async function ", "function "];
            let Some(name) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) else { continue };
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || "_$".contains(*c)).collect();
            assert!(name.is_empty() || names.insert(name.clone()), "two modules have {name}");
        }
        assert!(names.len() > 50, "{} names", names.len());
        // What the lines above leave behind would be a fault.
        let script = joined(&EXPLORER);
        assert!(!script.contains("\nimport ") && !script.contains("\nexport ") && !script.contains("</script"));
    }
}
