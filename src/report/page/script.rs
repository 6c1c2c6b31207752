//! The page's script, put together from its modules when the program is built.

/// What every page runs: niceties only, everything is on the page without them.
const PAGE: [&str; 4] = [
    include_str!("script/tables.js"),
    include_str!("script/variants.js"),
    include_str!("script/heads.js"),
    include_str!("script/rasters.js"),
];
/// The explorer's modules, each behind those that it imports from.
const EXPLORER: [&str; 15] = [
    include_str!("explorer/words.js"),
    include_str!("explorer/payload.js"),
    include_str!("explorer/fates.js"),
    include_str!("explorer/solve.js"),
    include_str!("explorer/vectors.js"),
    include_str!("explorer/look.js"),
    include_str!("explorer/map.js"),
    include_str!("explorer/heads.js"),
    include_str!("explorer/prose.js"),
    include_str!("explorer/pair.js"),
    include_str!("explorer/told.js"),
    include_str!("explorer/load.js"),
    include_str!("explorer/controls.js"),
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
    let page = joined(&PAGE);
    if has_explorer { page + &joined(&EXPLORER) } else { page }
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
        assert!(names(&EXPLORER) > 50 && names(&PAGE) > 10);
        // What the lines above leave behind would be a fault.
        let script = of_page(true);
        assert!(!script.contains("\nimport ") && !script.contains("\nexport ") && !script.contains("</script"));
    }

    /// How many names modules have, no two of them the same.
    fn names(modules: &[&str]) -> usize {
        let mut names = HashSet::new();
        for line in modules.iter().flat_map(|module| module.lines()) {
            let line = line.strip_prefix("export ").unwrap_or(line);
            let kinds = ["const ", "let ", "class ", "async function ", "function "];
            let Some(name) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) else { continue };
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || "_$".contains(*c)).collect();
            assert!(name.is_empty() || names.insert(name.clone()), "two modules have {name}");
        }
        names.len()
    }
}
