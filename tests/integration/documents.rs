//! The documents hang together: their links lead somewhere, the index lists every page, and the README stays short.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::Parser;
use stowaway::cli::args::Arguments;

/// A reader of the README decides within a minute whether to go on.
const README_LINES: usize = 150;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files of a directory, without those below it.
fn pages(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The targets of a page's links.
fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_of_the_documents_leads_to_a_file_and_a_heading_that_exist() {
    let mut broken = Vec::new();
    for page in [pages(root()), pages(&root().join("docs"))].concat() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let is_there = if anchor.is_empty() {
                target.exists()
            } else {
                fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor))
            };
            if !is_there {
                broken.push(format!("{}: {link}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_index() {
    let index = fs::read_to_string(root().join("docs/README.md")).unwrap();
    let listed: BTreeSet<&str> = links(&index).into_iter().collect();
    for page in pages(&root().join("docs")) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(name == "README.md" || listed.contains(name), "docs/README.md does not list {name}");
    }
}

#[test]
fn readme_stays_short() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let lines = readme.lines().count();
    assert!(lines <= README_LINES, "the README has {lines} lines; move what a newcomer does not need to docs/");
}

#[test]
fn files_that_the_architecture_names_exist() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let names: Vec<&str> = page.split('`').skip(1).step_by(2).filter(|name| name.starts_with("src/")).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(root().join(name).exists(), "docs/architecture.md names {name}, which does not exist");
    }
}

#[test]
fn nightly_example_is_that_of_its_page() {
    let page = fs::read_to_string(root().join("docs/nightly.md")).unwrap();
    let shown = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let shown = shown.filter(|block| block.contains("kind: CronJob")).collect::<Vec<_>>();
    let example = fs::read_to_string(root().join("examples/schedules/nightly.yaml")).unwrap();
    assert_eq!(shown.len(), 1);
    assert!(example.contains(shown[0]), "examples/schedules/nightly.yaml differs from docs/nightly.md");
}

/// The arguments of a command of a shell, without quotes, up to a comment, a pipe or a redirection.
fn arguments(line: &str) -> Vec<String> {
    let (mut arguments, mut argument, mut quote) = (Vec::new(), None::<String>, None);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                argument.get_or_insert_default();
            }
            (None, '#' | '|' | '>' | ';') if argument.is_none() => break,
            (None, ' ') => arguments.extend(argument.take()),
            _ => argument.get_or_insert_default().push(letter),
        }
    }
    arguments.extend(argument);
    arguments
}

#[test]
fn every_call_of_the_cli_in_the_documents_is_valid() {
    let mut count = 0;
    for page in [pages(root()), pages(&root().join("docs"))].concat() {
        let text = fs::read_to_string(&page).unwrap();
        let calls = text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("$ "))
            .filter(|line| line.starts_with("stowaway "));
        for call in calls {
            count += 1;
            let parsed = Arguments::try_parse_from(arguments(call));
            assert!(parsed.is_ok(), "{}: {call}: {}", page.display(), parsed.unwrap_err());
        }
    }
    assert!(count > 30, "only {count} calls were found");
}
