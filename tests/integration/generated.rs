//! What is generated and committed is what the code says. It must not know what is in it.

use std::{fs, path::Path};

use stowaway::{
    annotations,
    build::manifests::{Installation, files},
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
    assert!(stale.is_empty(), "manifests/ differs from the types in {stale:?}; `make manifests` mends it");
}

#[test]
fn table_of_annotations_in_the_readme_is_fresh() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(readme.contains(annotations::render().trim()), "the README's table is stale; `make manifests` mends it");
}
