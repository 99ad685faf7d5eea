//! The rules that a compiler does not check: which module may use which, what pure code must not use, the length of a file,
//! and the vocabulary of `STYLE.md`.
//!
//! The arrows are those of the diagram in `src/lib.rs`. Code under `#[cfg(test)]` and test files may use every module.

#[path = "architecture/circles.rs"]
mod circles;
#[path = "architecture/code.rs"]
mod code;
#[path = "architecture/events.rs"]
mod events;
#[path = "architecture/vocabulary.rs"]
mod vocabulary;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use circles::{circles, uses};
use code::{UsedPath, used_paths};
use events::unprinted_fields;
use vocabulary::avoided_terms;

/// The crates of the workspace that `src/lib.rs` names like modules. What they may use is in their `Cargo.toml`.
const LIBRARIES: &[&str] = &["model", "stream", "recognise", "repository"];

/// Each module of the library, and the modules and crates it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("annotations", &["model"]),
    ("api", &["model"]),
    ("plan", &["model", "annotations", "api"]),
    ("inject", &["model", "annotations", "api", "plan"]),
    ("watchdog", &["model", "annotations", "api", "plan", "inject"]),
    ("resources", &["model", "annotations", "api", "plan"]),
    ("seal", &["model"]),
    ("exec", &["model", "stream", "seal"]),
    ("cluster", &["model", "api"]),
    ("telemetry", &["model"]),
    (
        "runner",
        &[
            "model",
            "stream",
            "annotations",
            "api",
            "seal",
            "plan",
            "exec",
            "cluster",
            "repository",
            "recognise",
            "telemetry",
        ],
    ),
    ("controller", &["model", "annotations", "api", "plan", "watchdog", "resources", "cluster", "telemetry"]),
    ("webhook", &["model", "annotations", "api", "plan", "inject", "resources", "cluster", "telemetry"]),
    (
        "cli",
        &[
            "model",
            "stream",
            "annotations",
            "api",
            "seal",
            "plan",
            "inject",
            "resources",
            "repository",
            "exec",
            "cluster",
            "telemetry",
            "runner",
            "controller",
            "webhook",
        ],
    ),
    ("main", &["cli"]),
];

/// Modules without clients, async, clocks, files or random numbers.
const PURE: &[&str] = &[
    "annotations",
    "api",
    "plan",
    "inject",
    "watchdog",
    "resources",
    "seal",
    "stowaway_model",
    "stowaway_protocol",
    "stowaway_recognise",
    "webhook_certs",
];

/// Pure files of other modules: a path, or a prefix of several paths.
const PURE_FILES: &[&str] = &["src/webhook/decision.rs", "src/webhook/review.rs", "src/webhook/validate"];

/// Other crates of the workspace, whose files follow the rules of a module of this name.
const CRATES: &[(&str, &str)] = &[
    ("helper/src/", "stowaway_helper"),
    ("model/src/", "stowaway_model"),
    ("protocol/src/", "stowaway_protocol"),
    ("recognise/src/", "stowaway_recognise"),
    ("repository/src/", "stowaway_repository"),
    ("webhook-certs/src/", "webhook_certs"),
];

/// What pure code must not name: a crate, a prefix of a path, or an associated function.
const IMPURE: &[&[&str]] = &[
    &["kube", "Client"],
    &["kube", "client"],
    &["kube", "Config"],
    &["kube", "config"],
    &["kube", "Api"],
    &["kube", "api", "Api"],
    &["kube", "runtime"],
    &["tokio"],
    &["rand"],
    &["std", "fs"],
    &["std", "env"],
    &["std", "net"],
    &["std", "process"],
    &["std", "thread"],
    &["SystemTime", "now"],
    &["Instant", "now"],
    &["Timestamp", "now"],
    &["Zoned", "now"],
];

/// Exceptions: files of pure modules, and what they may use.
const EXCEPTIONS: &[(&str, &[&str])] = &[
    // A channel is a value; no task runs here.
    ("model/src/stream.rs", &["tokio", "sync"]),
    // An address is a value; no connection is opened.
    ("src/webhook/validate/objects.rs", &["std", "net", "Ipv4Addr"]),
];

/// Crates that only one module may name, so that the crate can be replaced.
const PRIVATE: &[(&str, &str)] = &[("tokio_tungstenite", "exec")];

/// Crates that one module must not name.
const UNKNOWN: &[(&str, &str)] = &[
    ("stowaway_repository", "kube"),
    ("stowaway_repository", "k8s_openapi"),
    // The helper is small, and polls only its file descriptors.
    ("stowaway_helper", "tokio"),
    ("stowaway_helper", "stowaway"),
    ("stowaway_protocol", "stowaway"),
];

/// The lower files of `repository/src/`, by their prefixes: they know stored data, and no operation on a repository.
const STORED_DATA: &[&str] =
    &["format/", "scratch/", "store/", "crypto", "lock", "pack.rs", "index/", "trees/", "snapshots/"];

/// The upper files: backup, restore and maintenance.
const OPERATIONS: &[&str] =
    &["archive.rs", "commit.rs", "packer.rs", "source.rs", "folder/", "read.rs", "export/", "maintenance/"];

/// Lints that apply everywhere outside of tests; an `allow` would disable them.
const LINTS: &[&str] = &["unwrap_used", "expect_used", "panic", "unsafe_code"];

/// A file reads in one sitting.
const MAX_LINES: usize = 500;

/// The violations of one file, as `file:line: rule`.
fn violations(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut violation = |line: usize, rule: String| found.push(format!("{file}:{line}: {rule}"));
    if !text.starts_with("//!") {
        violation(1, "a file opens with //! and what it holds".into());
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        violation(
            lines,
            format!("a file has at most {MAX_LINES} lines; move a part of it, or its tests, to one of its own"),
        );
    }
    let Some(origin) = Origin::of(file) else { return found };
    let paths = match used_paths(text) {
        Ok(paths) => paths,
        Err(error) => {
            violation(1, format!("cannot be read as Rust: {error}"));
            return found;
        }
    };
    for (line, fields) in unprinted_fields(text) {
        violation(line, format!("the log for people shows only the message, so the message must contain {fields}"));
    }
    for path in &paths {
        if let Some(rule) = arrow_broken(&origin, path)
            .or_else(|| crate_not_allowed(&origin, path))
            .or_else(|| impure(file, &origin, path))
        {
            violation(path.line, rule);
        }
        if let [tool, lint] = &path.segments[..]
            && tool == "clippy"
            && LINTS.contains(&lint.as_str())
        {
            violation(path.line, format!("clippy::{lint} holds everywhere outside of tests"));
        }
    }
    found.dedup();
    found
}

/// The module of a file.
struct Origin {
    /// The module below the crate's root.
    module: String,
    /// The number of names in the file's module path.
    depth: usize,
}

impl Origin {
    /// Returns `None` for files without production code of the library.
    fn of(file: &str) -> Option<Self> {
        let of_crate = CRATES.iter().find_map(|(folder, name)| Some((file.strip_prefix(folder)?, *name)));
        if let Some((inner, name)) = of_crate {
            // The crate's root is its module.
            return Some(Self { module: name.to_owned(), depth: inner.split('/').count() + 1 });
        }
        let inner = file.strip_prefix("src/")?.strip_suffix(".rs")?;
        let mut names: Vec<&str> = inner.split('/').collect();
        if names.last() == Some(&"mod") {
            names.pop();
        }
        if inner == "lib" || names.contains(&"tests") {
            return None;
        }
        Some(Self { module: (*names.first()?).to_owned(), depth: names.len() })
    }
}

fn arrow_broken(origin: &Origin, path: &UsedPath) -> Option<String> {
    let supers = path.segments.iter().take_while(|segment| *segment == "super").count();
    if supers >= origin.depth && supers < path.segments.len() {
        return Some("a path to another module begins with crate::, so that the arrow is visible".into());
    }
    let [root, used, ..] = &path.segments[..] else { return None };
    let is_own_crate = if origin.module == "main" { root == "stowaway" } else { root == "crate" };
    if !is_own_crate || *used == origin.module {
        return None;
    }
    let (_, allowed) = ARROWS.iter().find(|(module, _)| *module == origin.module)?;
    (!allowed.contains(&used.as_str())).then(|| {
        let allowed = if allowed.is_empty() { "no other module".to_owned() } else { allowed.join(", ") };
        format!("{} must not use {used}; it may use {allowed} (see src/lib.rs)", origin.module)
    })
}

fn crate_not_allowed(origin: &Origin, path: &UsedPath) -> Option<String> {
    let root = path.segments.first()?;
    if path.segments.len() == 1 && !path.imported {
        return None;
    }
    if let Some((name, owner)) = PRIVATE.iter().find(|(name, owner)| name == root && *owner != origin.module) {
        return Some(format!("{name} may be used by {owner} only"));
    }
    let unknown = UNKNOWN.iter().find(|(module, name)| *module == origin.module && name == root);
    unknown.map(|(module, name)| format!("{module} must not use {name}"))
}

fn impure(file: &str, origin: &Origin, path: &UsedPath) -> Option<String> {
    let is_pure_module = PURE.contains(&origin.module.as_str());
    if !is_pure_module && !PURE_FILES.iter().any(|pure| file.starts_with(pure)) {
        return None;
    }
    let is = |forbidden: &[&str]| {
        let own_function = forbidden.len() == 2 && forbidden[1] == "now";
        let begins =
            path.segments.len() >= forbidden.len() && forbidden.iter().zip(&path.segments).all(|(a, b)| a == b);
        let is_path = path.imported || path.segments.len() > 1;
        is_path
            && (begins
                || own_function
                    && path.segments.iter().rev().zip(forbidden.iter().rev()).filter(|(a, b)| a == *b).count() == 2)
    };
    let excepted = EXCEPTIONS.iter().any(|(exception, allowed)| *exception == file && is(allowed));
    let forbidden = IMPURE.iter().find(|forbidden| is(forbidden)).filter(|_| !excepted)?;
    let pure = if is_pure_module { &origin.module } else { file };
    Some(format!("{pure} is pure and must not use {}", forbidden.join("::")))
}

/// Every Rust file of the repository: its path from the root, and its text.
fn rust_files() -> io::Result<Vec<(String, String)>> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                collect(&path, found)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
        Ok(())
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in
        ["src", "tests", "e2e/src", "e2e/tests", "protocol/tests"].iter().chain(CRATES.iter().map(|(folder, _)| folder))
    {
        let folder = root.join(folder);
        if folder.is_dir() {
            collect(&folder, &mut found)?;
        }
    }
    found.sort();
    let name = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    found.iter().map(|path| Ok((name(path), fs::read_to_string(path)?))).collect()
}

#[test]
fn house_rules_are_followed() {
    let files = rust_files().unwrap();
    assert!(files.iter().any(|(file, _)| file == "src/lib.rs"), "the files were not found");
    let found: Vec<String> = files.iter().flat_map(|(file, text)| violations(file, text)).collect();
    assert!(found.is_empty(), "{} house rules are broken:\n{}", found.len(), found.join("\n"));
}

#[test]
fn files_of_the_repository_crate_use_one_another_in_no_circle() {
    let found = circles(&rust_files().unwrap(), "repository/src/");
    assert!(found.is_empty(), "files that use one another: {found:?}");
}

#[test]
fn files_of_stored_data_use_no_operation_on_a_repository() {
    let files = rust_files().unwrap();
    let is_in = |file: &str, prefixes: &[&str]| {
        let inner = file.strip_prefix("repository/src/").unwrap_or(file);
        prefixes.iter().any(|prefix| inner.starts_with(prefix)) && !inner.ends_with("tests.rs")
    };
    for (file, used) in uses(&files, "repository/src/") {
        let upper: Vec<&str> = used.into_iter().filter(|used| is_in(used, OPERATIONS)).collect();
        assert!(!is_in(file, STORED_DATA) || upper.is_empty(), "{file} must not use {}", upper.join(", "));
    }
}

/// Files with their texts, and the circle of files in them.
type CircleCase<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn circles_are_found_through_re_exports_and_not_through_tests() {
    let files = |texts: &[(&str, &str)]| -> Vec<(String, String)> {
        texts.iter().map(|(file, text)| (format!("x/src/{file}"), (*text).to_owned())).collect()
    };
    let root = ("lib.rs", "mod a; mod b; pub use a::{A, One as Two}; pub(crate) use self::b::inner::C;");
    let cases: &[CircleCase<'_>] = &[
        (&[root, ("a.rs", "use super::b::B;"), ("b/mod.rs", "use crate::A;")], &["x/src/a.rs", "x/src/b/mod.rs"]),
        (
            &[root, ("a.rs", "use crate::C;"), ("b/inner.rs", "fn f() { super::super::a::f() }")],
            &["x/src/a.rs", "x/src/b/inner.rs"],
        ),
        (
            &[root, ("b/mod.rs", "mod inner; fn f() { inner::f() }"), ("b/inner.rs", "use super::B;")],
            &["x/src/b/inner.rs", "x/src/b/mod.rs"],
        ),
        (&[root, ("a.rs", "use std::b::B;"), ("b/mod.rs", "mod a; pub(super) use crate::a::A;")], &[]),
        (&[root, ("a.rs", "use super::b;"), ("b/mod.rs", "#[cfg(test)]\nmod tests { use crate::A; }")], &[]),
    ];
    for (texts, expected) in cases {
        let found: Vec<String> = circles(&files(texts), "x/src/").into_iter().flatten().collect();
        assert_eq!(found, *expected, "{texts:?}");
    }
}

/// The documents, without `STYLE.md`, which lists the terms to avoid.
fn documents() -> io::Result<Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["", "docs", "examples", "e2e/cluster"] {
        for entry in fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if path.extension().is_some_and(|extension| extension == "md") && name != "STYLE.md" {
                found.push((name, fs::read_to_string(path)?));
            }
        }
    }
    Ok(found)
}

#[test]
fn names_comments_messages_and_documents_use_the_vocabulary_of_the_style() {
    let files = [rust_files().unwrap(), documents().unwrap()].concat();
    let files = files.iter().filter(|(file, _)| file != "tests/architecture/vocabulary.rs");
    let found: Vec<String> = files.flat_map(|(file, text)| avoided_terms(file, text)).collect();
    assert!(found.is_empty(), "{} terms to avoid:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_module_has_its_arrows() {
    let library = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let mut declared: Vec<&str> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).chain(["main"]).collect();
    let mut known: Vec<&str> = ARROWS.iter().map(|(module, _)| *module).collect();
    declared.sort_unstable();
    known.sort_unstable();
    assert_eq!(declared, known, "src/lib.rs and ARROWS of tests/architecture.rs differ");
    for (index, (module, used)) in ARROWS.iter().enumerate() {
        for used in *used {
            let earlier = ARROWS[..index].iter().any(|(earlier, _)| earlier == used) || LIBRARIES.contains(used);
            assert!(earlier, "{module} -> {used} is no arrow to an earlier module, so there may be a circle");
        }
    }
}

#[test]
fn broken_rules_are_found_with_file_and_line() {
    let cases: &[(&str, &str, &str)] = &[
        ("model/src/x.rs", "fn f() {}", "1: a file opens with"),
        ("tests/x.rs", "fn f() {}", "1: a file opens with"),
        ("src/api/x.rs", "//! x\nuse crate::plan::P;", "2: api must not use plan"),
        ("src/api/x.rs", "//! x\nuse crate::{\n    model::M,\n    plan::{self, P},\n};", "4: api must not use plan"),
        ("src/api/x.rs", "//! x\nfn f() { g(vec![crate::plan::P]) }", "2: api must not use plan"),
        ("src/api/mod.rs", "//! x\nuse super::plan::P;", "2: a path to another module"),
        ("src/api/a/b.rs", "//! x\nuse super::super::super::plan::P;", "2: a path to another module"),
        ("src/runner/x.rs", "//! x\nuse crate::cli::C;", "2: runner must not use cli"),
        ("src/main.rs", "//! x\nuse stowaway::runner::R;", "2: main must not use runner"),
        ("src/plan/x.rs", "//! x\nuse std::{collections, fs};", "2: plan is pure and must not use std::fs"),
        ("src/plan/x.rs", "//! x\n\nuse tokio;", "3: plan is pure and must not use tokio"),
        ("src/plan/x.rs", "//! x\nfn f() { ::std::env::var(\"x\"); }", "2: plan is pure and must not use std::env"),
        (
            "src/plan/x.rs",
            "//! x\nfn f() { jiff::Timestamp::now(); }",
            "2: plan is pure and must not use Timestamp::now",
        ),
        ("src/plan/x.rs", "//! x\nfn f() { Timestamp::now(); }", "2: plan is pure and must not use Timestamp::now"),
        ("src/api/x.rs", "//! x\nuse kube::{Client, CustomResource};", "2: api is pure and must not use kube::Client"),
        ("model/src/stream.rs", "//! x\nuse tokio::{sync, net};", "2: stowaway_model is pure and must not use tokio"),
        ("src/resources/x.rs", "//! x\nfn f() -> u8 { rand::random() }", "2: resources is pure and must not use rand"),
        (
            "src/webhook/validate/x.rs",
            "//! x\nuse tokio::time;",
            "2: src/webhook/validate/x.rs is pure and must not use tokio",
        ),
        ("protocol/src/x.rs", "//! x\nuse std::fs;", "2: stowaway_protocol is pure and must not use std::fs"),
        ("helper/src/x.rs", "//! x\nuse tokio::io;", "2: stowaway_helper must not use tokio"),
        ("src/cluster/x.rs", "//! x\nuse tokio_tungstenite as t;", "2: tokio_tungstenite may be used by exec only"),
        ("repository/src/x.rs", "//! x\nuse k8s_openapi::api;", "2: stowaway_repository must not use k8s_openapi"),
        ("src/cli/x.rs", "//! x\n#[allow(clippy::unwrap_used)]\nfn f() {}", "2: clippy::unwrap_used holds"),
        ("src/cli/x.rs", "//! x\nfn f( {}", "1: cannot be read"),
        (
            "src/controller/x.rs",
            "//! x\nfn f() { if x { tracing::warn!(%kind, namespace, name = n(), y, \"{namespace} {{}}\") } }",
            "2: the log for people shows only the message, so the message must contain kind, namespace, name",
        ),
    ];
    for (file, text, expected) in cases {
        let found = violations(file, text);
        assert_eq!(found.len(), 1, "{text:?}: {found:?}");
        assert!(found[0].starts_with(&format!("{file}:{expected}")), "{text:?}: {found:?}");
    }
    let long = format!("//! x\n{}", "\n".repeat(MAX_LINES));
    assert_eq!(violations("e2e/src/x.rs", &long).len(), 1);
}

#[test]
fn files_that_follow_the_rules_have_no_violation() {
    for (file, text) in [
        ("src/plan/x.rs", "//! x\nuse crate::{api::A, model as m, plan::P};\nuse super::Q; // std::fs"),
        ("src/plan/a/b.rs", "//! x\nuse super::super::Q;\n/// [`std::fs`]\nconst X: &str = \"tokio::spawn\";"),
        (
            "src/plan/x.rs",
            "//! x\n#[cfg(test)]\nmod tests {\n    use std::fs;\n    use crate::cli::C;\n}\nfn f() { rand(); }",
        ),
        ("src/plan/x.rs", "//! x\n#[cfg(test)]\nuse std::fs;\nfn f(tokio: u8, now: Timestamp) -> u8 { tokio }"),
        ("src/plan/x/tests.rs", "//! x\nuse std::fs;"),
        ("model/src/stream.rs", "//! x\nuse tokio::sync::mpsc;"),
        ("src/api/x.rs", "//! x\nuse kube::{CustomResource, core::Selector};"),
        ("src/cli/x.rs", "//! x\nuse crate::runner::R;\nfn f() { jiff::Timestamp::now(); }"),
        ("src/webhook/serve.rs", "//! x\nuse tokio::net;"),
        ("src/exec/x.rs", "//! x\nuse tokio_tungstenite::R;"),
        (
            "src/cli/x.rs",
            "//! x\nfn f() { info!(%name, bytes, \"of {name}\"); warn!(\"plain\"); error!(?kind, \"{}\", kind) }",
        ),
    ] {
        assert_eq!(violations(file, text), Vec::<String>::new(), "{text}");
    }
}
