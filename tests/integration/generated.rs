//! Generated files which are committed match what the code generates, and the tests which the documentation names
//! exist.

use std::{fs, path::Path};

use stowaway::{
    annotations,
    resources::manifests::{Installation, files},
};

#[test]
fn committed_manifests_are_fresh() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let stale: Vec<String> = files(&Installation::default())
        .unwrap()
        .into_iter()
        .filter(|(path, content)| fs::read_to_string(folder.join(path)).ok().as_ref() != Some(content))
        .map(|(path, _)| path)
        .collect();
    assert!(stale.is_empty(), "manifests/ differs from the types in {stale:?}; run `make manifests`");
}

#[test]
fn table_of_annotations_in_the_documents_is_fresh() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/annotations.md")).unwrap();
    let table = annotations::render();
    assert!(page.contains(table.trim()), "the table of docs/annotations.md is stale; `make manifests` writes it");
}

/// The text of all Rust files below a folder.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: std::path::PathBuf| match path.extension() {
        _ if path.is_dir() => sources(&path),
        Some(extension) if extension == "rs" => fs::read_to_string(path).unwrap(),
        _ => String::new(),
    };
    entries.map(text).collect()
}

fn all_sources() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["src", "tests", "e2e", "helper", "model", "protocol", "recognise", "repository", "webhook-certs"]
        .map(|folder| sources(&root.join(folder)))
        .concat()
}

#[test]
fn every_test_that_the_page_of_faults_names_is_there() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md")).unwrap();
    let sources = all_sources();
    let is_test = |name: &&str| {
        name.matches('_').count() > 2 && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    let tests: Vec<&str> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(tests.len() > 80, "{} tests", tests.len());
    for test in tests {
        assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}");
    }
}

#[test]
fn every_attack_in_the_documentation_is_shown_by_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let attacks = page.split("| attack |").nth(1).unwrap().lines().skip(2).take_while(|line| line.starts_with('|'));
    let sources = all_sources();
    let mut count = 0;
    for attack in attacks {
        let shown_by = attack.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        let tests: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test shows that it is denied: {attack}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}()")), "there is no test {test}: {attack}");
        }
        count += 1;
    }
    assert!(count >= 15, "{count} attacks");
}
