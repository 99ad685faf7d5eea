//! Replays the corpus of each fuzz target through the fuzzed function. No input may panic.

use std::{fs, path::Path};

#[path = "../../fuzz/src/lib.rs"]
mod targets;

#[test]
fn corpus_of_the_annotations_is_read_without_a_panic() {
    replay("annotations", targets::annotations);
}

#[test]
fn corpus_of_the_protocol_is_read_without_a_panic() {
    replay("protocol", targets::protocol);
}

#[test]
fn corpus_of_the_reviews_is_answered_without_a_panic() {
    replay("admission", targets::admission);
}

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(name.contains('-'), "the name {name} does not state what this seed of {target} exercises");
        run(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is missing");
}
