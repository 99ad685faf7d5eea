//! Which files of a crate use which, and their circles: files that use one another, directly or through other files.
//!
//! A file uses the files whose items its paths name. A `pub use` does not count: a file which names
//! the item uses the file which defines the item.

use std::collections::{BTreeMap, BTreeSet};

use crate::code::{UsedPath, used_paths};

/// A file of the crate.
struct Source<'a> {
    file: &'a str,
    /// The path of its module from the crate's root.
    module: Vec<String>,
    paths: Vec<UsedPath>,
}

/// The files by their modules.
type Modules<'a> = BTreeMap<Vec<String>, Source<'a>>;

/// How many re-exports of one item are followed.
const MAX_EXPORTS: usize = 8;

/// The files of the crate in `folder`, and the files that each of them uses.
pub fn uses<'a>(files: &'a [(String, String)], folder: &str) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let modules: Modules<'a> = files
        .iter()
        .filter_map(|(file, text)| {
            let module = module_of(file.strip_prefix(folder)?)?;
            // A file that cannot be read as Rust breaks another rule.
            let source = Source { file, module: module.clone(), paths: used_paths(text).unwrap_or_default() };
            Some((module, source))
        })
        .collect();
    modules.values().map(|source| (source.file, used_files(&modules, source))).collect()
}

/// The circles of the crate whose files are in `folder`, each with its files in order.
pub fn circles(files: &[(String, String)], folder: &str) -> BTreeSet<Vec<String>> {
    let uses = uses(files, folder);
    let reached: BTreeMap<&str, BTreeSet<&str>> = uses.keys().map(|file| (*file, reachable(&uses, file))).collect();
    let is_reached = |from: &str, to: &str| reached.get(from).is_some_and(|reached| reached.contains(to));
    let in_circles = reached.keys().filter(|file| is_reached(file, file));
    in_circles
        .map(|file| {
            let circle = reached.keys().filter(|other| is_reached(file, other) && is_reached(other, file));
            circle.map(|other| (*other).to_owned()).collect()
        })
        .collect()
}

/// The path of the module in a file, from the crate's root.
fn module_of(inner: &str) -> Option<Vec<String>> {
    let mut names: Vec<String> = inner.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    if names == ["lib"] || names.last().is_some_and(|name| name == "mod") {
        names.pop();
    }
    Some(names)
}

fn used_files<'a>(modules: &Modules<'a>, source: &Source<'a>) -> BTreeSet<&'a str> {
    let named = source.paths.iter().filter(|path| !path.exported);
    let used = named.filter_map(|path| defining_file(modules, &absolute(modules, source, path)?, MAX_EXPORTS));
    used.filter(|file| *file != source.file).collect()
}

/// The path from the crate's root; none if it is a path of another crate, or of a name in the file itself.
fn absolute(modules: &Modules<'_>, source: &Source<'_>, path: &UsedPath) -> Option<Vec<String>> {
    let supers = path.segments.iter().take_while(|segment| *segment == "super").count();
    let root: &[String] = &[];
    let (base, rest) = match path.segments.first()?.as_str() {
        "crate" => (root, &path.segments[1..]),
        "self" => (&source.module[..], &path.segments[1..]),
        "super" => (&source.module[..source.module.len().checked_sub(supers)?], &path.segments[supers..]),
        _ => (&source.module[..], &path.segments[..]),
    };
    let absolute = [base, rest].concat();
    let has_root = rest.len() < path.segments.len();
    let is_child = rest.len() > 1 && modules.contains_key(&absolute[..=base.len()]);
    (!rest.is_empty() && (has_root || is_child)).then_some(absolute)
}

/// The file that defines the item, or whose module it is.
fn defining_file<'a>(modules: &Modules<'a>, item: &[String], exports: usize) -> Option<&'a str> {
    let length = (0..=item.len()).rev().find(|length| modules.contains_key(&item[..*length]))?;
    let source = modules.get(&item[..length])?;
    let (Some(name), true) = (item.get(length), exports > 0) else { return Some(source.file) };
    let imports = source.paths.iter().filter(|path| path.imported && path.segments.last() == Some(name));
    let imported = imports.filter_map(|path| absolute(modules, source, path)).find(|other| other != &item[..=length]);
    match imported {
        Some(other) => defining_file(modules, &[&other[..], &item[length + 1..]].concat(), exports - 1),
        None => Some(source.file),
    }
}

/// The files that a file uses, directly or through other files.
fn reachable<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>, file: &str) -> BTreeSet<&'a str> {
    let (mut reached, mut waiting) = (BTreeSet::new(), vec![file]);
    while let Some(file) = waiting.pop() {
        for used in uses.get(file).into_iter().flatten() {
            if reached.insert(*used) {
                waiting.push(used);
            }
        }
    }
    reached
}
