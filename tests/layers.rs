//! Compares the layers of the program with the dependencies of its files: no file uses a higher layer, and no files
//! form a cycle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility};

use crate::bounds::{root, sources};

/// The modules of `src/`, from the bottom up: each uses only those of its own layer and of lower ones.
const LAYERS: [&[&str]; 7] = [
    &["base"],
    &["capture", "record", "limits", "kafka", "files", "aggregate", "generate"],
    &["output", "metrics", "cluster"],
    &["computation"],
    &["source", "sink", "state", "runner"],
    &["http", "sniffer", "convert", "scenario"],
    &["cli"],
];

/// A module by its path below the crate.
type Module = Vec<String>;

/// The files of a crate, and their re-exports.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<Module, syn::File>,
    /// By module, the names that it re-exports, with their paths.
    reexports: BTreeMap<Module, BTreeMap<String, Module>>,
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut read = Crate::default();
        read.add(root, &root.join("lib.rs"), Module::new());
        read
    }

    /// Adds a file and its modules, but for tests.
    fn add(&mut self, directory: &Path, path: &Path, module: Module) {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        for item in &file.items {
            match item {
                Item::Mod(child) if child.content.is_none() && !is_test(&child.attrs) => {
                    let name = child.ident.to_string();
                    let below = directory.join(&name);
                    let paths = [directory.join(format!("{name}.rs")), below.join("mod.rs")];
                    let path: &PathBuf = paths.iter().find(|path| path.exists()).expect("its file");
                    self.add(&below, path, [&module[..], &[name]].concat());
                }
                Item::Use(item) if !matches!(item.vis, Visibility::Inherited) => {
                    let names = self.reexports.entry(module.clone()).or_default();
                    for path in paths_of(&item.tree) {
                        names.extend(path.last().cloned().map(|name| (name, path.clone())));
                    }
                }
                _ => {}
            }
        }
        self.modules.insert(module, file);
    }

    /// Returns the module that a path in module `from` refers to; `None` if it is in another crate.
    fn resolve(&self, from: &Module, path: &[String]) -> Option<Module> {
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (Module::new(), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => (from[..from.len().checked_sub(1)?].to_vec(), &path[1..]),
            child => {
                let child = [&from[..], &[child.to_owned()]].concat();
                self.modules.contains_key(&child).then_some((child, &path[1..]))?
            }
        };
        while let Some((name, behind)) = rest.split_first() {
            let child = [&at[..], std::slice::from_ref(name)].concat();
            if name == "super" {
                at.pop()?;
            } else if self.modules.contains_key(&child) {
                at = child;
            } else {
                let reexported = self.reexports.get(&at).and_then(|names| names.get(name));
                return match reexported {
                    Some(path) => self.resolve(&at, path).or(Some(at)),
                    None => Some(at),
                };
            }
            rest = behind;
        }
        Some(at)
    }

    /// Returns the other modules that each module uses.
    fn uses(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let of_module = |(module, file): (&Module, &syn::File)| {
            let mut paths = Paths::default();
            paths.visit_file(file);
            let used = paths.0.iter().filter_map(|path| self.resolve(module, path));
            (module.clone(), used.filter(|used| used != module).collect())
        };
        self.modules.iter().map(of_module).collect()
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// Returns the paths that a `use` names.
fn paths_of(tree: &UseTree) -> Vec<Module> {
    let below = |name: String, trees: Vec<Module>| -> Vec<Module> {
        trees.into_iter().map(|path| [std::slice::from_ref(&name), &path[..]].concat()).collect()
    };
    match tree {
        UseTree::Path(path) => below(path.ident.to_string(), paths_of(&path.tree)),
        UseTree::Group(group) => group.items.iter().flat_map(paths_of).collect(),
        UseTree::Name(name) if name.ident == "self" => vec![Module::new()],
        UseTree::Name(name) => vec![vec![name.ident.to_string()]],
        UseTree::Rename(renamed) => vec![vec![renamed.ident.to_string()]],
        UseTree::Glob(_) => vec![Module::new()],
    }
}

/// The paths that a file uses, without those of its tests and re-exports.
#[derive(Default)]
struct Paths(Vec<Module>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(ItemMod { attrs, .. }) => attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(ItemUse { attrs, .. }) => attrs,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if matches!(item.vis, Visibility::Inherited) {
            self.0.extend(paths_of(&item.tree));
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

fn name(module: &Module) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("::") }
}

/// Returns the cycles of modules that use each other, each by its members.
fn cycles(uses: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<BTreeSet<String>> {
    let reached = |from: &Module| -> BTreeSet<Module> {
        let (mut seen, mut ahead) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = ahead.pop() {
            for next in uses.get(&module).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    ahead.push(next.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<&Module, BTreeSet<Module>> =
        uses.keys().map(|module| (module, reached(module))).collect();
    let cycle = |module: &&Module| -> BTreeSet<String> {
        let members = all[*module].iter().filter(|other| all[other].contains(*module));
        members.map(name).collect()
    };
    let cycles: BTreeSet<BTreeSet<String>> = all.keys().map(cycle).collect();
    cycles.into_iter().filter(|members| !members.is_empty()).collect()
}

#[test]
fn modules_use_only_their_own_and_lower_layers() {
    let uses = Crate::read(&root().join("src")).uses();
    let layer = |module: &Module| {
        let top = module.first()?;
        let layer = LAYERS.iter().position(|layer| layer.contains(&top.as_str()));
        Some(layer.unwrap_or_else(|| panic!("the module {top} is in no layer")))
    };
    let up: Vec<String> = uses
        .iter()
        .flat_map(|(module, used)| used.iter().map(move |used| (module, used)))
        .filter(|(module, used)| layer(module) < layer(used) && layer(module).is_some())
        .map(|(module, used)| format!("{} uses {}", name(module), name(used)))
        .collect();
    assert!(up.is_empty(), "arrows that point up:\n{}", up.join("\n"));
    assert!(uses.len() > 100, "{} modules", uses.len());
}

#[test]
fn files_form_no_cycle() {
    for source in ["dataflows/src", "src"] {
        let uses = Crate::read(&root().join(source)).uses();
        let cycles = cycles(&uses);
        for cycle in &cycles {
            for module in uses.keys().filter(|module| cycle.contains(&name(module))) {
                let of_cycle = uses[module].iter().map(name).filter(|used| cycle.contains(used));
                println!("{} uses {}", name(module), of_cycle.collect::<Vec<_>>().join(", "));
            }
            println!();
        }
        assert!(cycles.is_empty(), "{} cycles in {source}", cycles.len());
    }
}

#[test]
fn clap_is_used_only_in_cli() {
    let cli = root().join("src/cli");
    for path in sources("src").iter().filter(|path| !path.starts_with(&cli)) {
        let code = fs::read_to_string(path).expect("a file");
        assert!(!code.contains("clap::"), "{} uses clap", path.display());
    }
}
