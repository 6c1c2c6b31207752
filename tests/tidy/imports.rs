//! What every source file of the crate names of the others, read by a parser.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// A path from the crate's root, such as `[merge, HeadPlan]`.
pub type CratePath = Vec<String>;

/// A source file.
#[derive(Debug, Default)]
pub struct Module {
    /// Where it is.
    pub file: PathBuf,
    /// What it names, tests included.
    pub names: BTreeSet<CratePath>,
    /// What it names outside its tests, but for what it only hands on.
    pub needs: BTreeSet<CratePath>,
    /// What stands here under another path: by name, the path.
    aliases: BTreeMap<String, CratePath>,
}

/// All modules of the crate, by path.
pub struct Crate(pub BTreeMap<CratePath, Module>);

impl Crate {
    pub fn read(src: &Path) -> Self {
        let (mut files, mut modules) = (Vec::new(), BTreeMap::new());
        super::rust_files(src, &mut files);
        for file in files {
            let relative = file.strip_prefix(src).unwrap().with_extension("");
            let mut path: CratePath = relative.iter().map(|part| part.to_str().unwrap().to_string()).collect();
            if path.last().is_some_and(|name| name == "mod") {
                path.pop();
            }
            modules.insert(path, Module { file, ..Module::default() });
        }
        let paths: BTreeSet<CratePath> = modules.keys().cloned().collect();
        for (path, module) in &mut modules {
            let text = fs::read_to_string(&module.file).unwrap();
            let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", module.file.display()));
            let mut reader = Reader { paths: &paths, here: path, module, in_tests: false };
            reader.visit_file(&parsed);
        }
        Self(modules)
    }

    /// The file that defines what a path leads to.
    fn home(&self, path: &[String]) -> Option<&CratePath> {
        let mut path = path.to_vec();
        // A name that is handed on leads to another path; a few times at most.
        for _ in 0..8 {
            let n = (1..=path.len()).rev().find(|n| self.0.contains_key(&path[..*n]))?;
            let (key, module) = self.0.get_key_value(&path[..n])?;
            match path.get(n).and_then(|name| module.aliases.get(name)) {
                Some(alias) if *alias != path => path = [alias, &path[n + 1..]].concat(),
                _ => return Some(key),
            }
        }
        None
    }

    /// For each file of a room, the files of that room that it needs. A folder's `mod.rs` is its table of contents: what it names
    /// below itself does not count.
    pub fn edges(&self, room: &str) -> BTreeMap<&CratePath, BTreeSet<&CratePath>> {
        let of_room = |path: &&CratePath| path[0] == room;
        let mut edges = BTreeMap::new();
        for (path, module) in self.0.iter().filter(|(path, _)| of_room(path)) {
            let needed = module.needs.iter().filter_map(|name| self.home(name)).filter(of_room);
            let needed = needed.filter(|other| !other.starts_with(path)).collect();
            edges.insert(path, needed);
        }
        edges
    }
}

/// A circle in a graph, if there is one.
pub fn circle<'a>(edges: &BTreeMap<&'a CratePath, BTreeSet<&'a CratePath>>) -> Option<Vec<&'a CratePath>> {
    fn walk<'a>(
        at: &'a CratePath,
        edges: &BTreeMap<&'a CratePath, BTreeSet<&'a CratePath>>,
        way: &mut Vec<&'a CratePath>,
        done: &mut BTreeSet<&'a CratePath>,
    ) -> Option<Vec<&'a CratePath>> {
        if let Some(start) = way.iter().position(|other| *other == at) {
            return Some(way[start..].to_vec());
        }
        if !done.insert(at) {
            return None;
        }
        way.push(at);
        let found = edges.get(at).into_iter().flatten().find_map(|next| walk(next, edges, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|start| walk(start, edges, &mut Vec::new(), &mut done))
}

struct Reader<'a> {
    paths: &'a BTreeSet<CratePath>,
    here: &'a CratePath,
    module: &'a mut Module,
    in_tests: bool,
}

impl Reader<'_> {
    /// The path from the root, if it leads into this crate.
    fn absolute(&self, path: &[String]) -> Option<CratePath> {
        let (first, rest) = path.split_first()?;
        let below = |base: &[String], rest: &[String]| Some([base, rest].concat());
        match first.as_str() {
            "crate" => Some(rest.to_vec()).filter(|rest| !rest.is_empty()),
            "self" => below(self.here, rest),
            "super" => below(&self.here[..self.here.len() - 1], rest),
            _ => below(self.here, path).filter(|path| self.paths.contains(&path[..=self.here.len()])),
        }
    }

    fn add(&mut self, path: &[String]) {
        let Some(path) = self.absolute(path) else { return };
        if !self.in_tests {
            self.module.needs.insert(path.clone());
        }
        self.module.names.insert(path);
    }

    fn use_tree(&mut self, tree: &syn::UseTree, mut path: CratePath, is_handed_on: bool) {
        let (name, seen_as) = match tree {
            syn::UseTree::Path(next) => {
                path.push(next.ident.to_string());
                return self.use_tree(&next.tree, path, is_handed_on);
            }
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.use_tree(tree, path.clone(), is_handed_on));
            }
            syn::UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
            syn::UseTree::Rename(name) => (name.ident.to_string(), name.rename.to_string()),
            syn::UseTree::Glob(_) => return,
        };
        if name != "self" {
            path.push(name);
        }
        let Some(absolute) = self.absolute(&path) else { return };
        if !self.in_tests {
            self.module.aliases.insert(seen_as, absolute.clone());
        }
        if is_handed_on {
            self.module.names.insert(absolute);
        } else {
            self.add(&path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let before = self.in_tests;
        self.in_tests |= item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
        });
        syn::visit::visit_item_mod(self, item);
        self.in_tests = before;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&item.tree, Vec::new(), !matches!(item.vis, syn::Visibility::Inherited));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: CratePath = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 {
            self.add(&names);
        }
        syn::visit::visit_path(self, path);
    }

    /// What stands in a macro is no syntax tree: its words are read as they come.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let text = call.tokens.to_string().replace(" :: ", "::");
        for found in text.split("crate::").skip(1) {
            let path = found.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').next().unwrap_or_default();
            let path = path.split("::").filter(|name| !name.is_empty()).map(str::to_string);
            self.add(&std::iter::once("crate".to_string()).chain(path).collect::<CratePath>());
        }
        syn::visit::visit_macro(self, call);
    }
}
