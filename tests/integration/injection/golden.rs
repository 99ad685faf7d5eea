//! Pods and the exact results of their injection: `tests/golden/inject/<case>/pod.yaml` and `patched.yaml`. A change of
//! a result is a change for the pods of all users.
//!
//! The first comment of `pod.yaml` states what the case shows; `# on-create: false`, `# by-namespace: none` and `#
//! repositories: main` set facts. The object may be a workload, which represents its pod template.
//! `STOWAWAY_WRITE_GOLDEN=1` rewrites the results.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::Value;
use stowaway::{
    annotations::Injection,
    api::Repository,
    inject::{Cause, Effect, InjectionFacts, Outcome, StrictJson, inject, pods_of},
};

use super::{facts, has_reserved_name, is_restricted, unrestricted};

/// A case: its name, its pod, its facts, and the committed result.
pub struct Case {
    pub name: String,
    pub pod: Value,
    pub facts: InjectionFacts<'static>,
    golden: String,
}

pub fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/inject");
    let mut cases: Vec<Case> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let folder = entry.unwrap().path();
            let text = fs::read_to_string(folder.join("pod.yaml")).unwrap();
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(text.starts_with("# "), "{name}: what does it show?");
            let StrictJson(object) = yaml_serde::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            let by_namespace =
                text.lines().find_map(|line| line.strip_prefix("# by-namespace: ")).map(|value| match value {
                    "helper" => Injection::Helper,
                    "none" => Injection::None,
                    _ => panic!("{name}: {value}"),
                });
            // `# repositories: none`, or names of Repositories from `mod.rs`. All of them by default.
            let repositories = match text.lines().find_map(|line| line.strip_prefix("# repositories: ")) {
                None => facts().repositories,
                Some(names) => {
                    let is_meant = |one: &&Repository| names.split(' ').any(|name| one.name_any() == name);
                    facts().repositories.iter().filter(is_meant).cloned().collect::<Vec<_>>().leak()
                }
            };
            let on_create = !text.contains("# on-create: false");
            Case {
                pod: pods_of(&object, facts().namespace).unwrap().remove(0).pod,
                facts: InjectionFacts { by_namespace, on_create, repositories, ..facts() },
                golden: fs::read_to_string(folder.join("patched.yaml")).unwrap_or_default(),
                name,
            }
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// The result in the form in which it is committed.
fn rendered(case: &Case, outcome: &Outcome) -> String {
    let mut text = format!("# {:?}: {}\n", outcome.effect, outcome.cause);
    for finding in &outcome.findings {
        writeln!(text, "# {}: {finding}", finding.cause).unwrap();
    }
    for warning in &outcome.warnings {
        writeln!(text, "# warning: {warning}").unwrap();
    }
    if !outcome.patch.is_empty() {
        text.push_str(&yaml_serde::to_string(&outcome.apply(&case.pod).unwrap()).unwrap());
    }
    text
}

#[test]
fn every_shape_of_pod_gets_what_it_should() {
    let cases = cases();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let mut stale = Vec::new();
    for case in &cases {
        let text = rendered(case, &inject(&case.pod, &case.facts));
        if text == case.golden {
            continue;
        }
        if std::env::var_os("STOWAWAY_WRITE_GOLDEN").is_some() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/inject").join(&case.name);
            fs::write(folder.join("patched.yaml"), &text).unwrap();
        } else {
            stale.push((case.name.as_str(), difference(&case.golden, &text)));
        }
    }
    let names: Vec<&str> = stale.iter().map(|(name, _)| *name).collect();
    let differences: Vec<String> = stale.iter().map(|(name, lines)| format!("{name}:\n{lines}")).collect();
    assert!(
        stale.is_empty(),
        "the results of {} differ, and STOWAWAY_WRITE_GOLDEN=1 rewrites them\n\n{}",
        names.join(", "),
        differences.join("\n")
    );
}

/// The lines between the common beginning and the common end of the texts.
fn difference(before: &str, after: &str) -> String {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let begin = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
    let (before, after) = (&before[begin..], &after[begin..]);
    let end = before.iter().rev().zip(after.iter().rev()).take_while(|(one, other)| one == other).count();
    let removed = before[..before.len() - end].iter().map(|line| format!("-{line}\n"));
    let added = after[..after.len() - end].iter().map(|line| format!("+{line}\n"));
    format!("@ line {}\n{}", begin + 1, removed.chain(added).collect::<String>())
}

#[test]
fn difference_of_two_results_is_only_the_lines_that_differ() {
    assert_eq!(difference("a\nb\nc\nd\n", "a\nx\ny\nd\n"), "@ line 2\n-b\n-c\n+x\n+y\n");
    assert_eq!(difference("", "a\n"), "@ line 1\n+a\n");
    assert_eq!(difference("a\na\n", "a\n"), "@ line 2\n-a\n");
}

#[test]
fn every_golden_result_is_a_pod_that_is_left_alone_the_second_time() {
    for case in cases() {
        let outcome = inject(&case.pod, &case.facts);
        if outcome.effect != Effect::Inject {
            assert!(outcome.patch.is_empty(), "{}", case.name);
            continue;
        }
        let patched = outcome.apply(&case.pod).unwrap();
        serde_json::from_value::<Pod>(patched.clone()).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let again = inject(&patched, &case.facts);
        assert_eq!(
            (again.cause, again.patch.len()),
            (Cause::AlreadyInjected, 0),
            "{}: {:?}",
            case.name,
            again.findings
        );
        assert_eq!(again.injected, outcome.injected, "{}", case.name);
    }
}

#[test]
fn injected_containers_are_admitted_where_pod_security_restricted_admits_the_app() {
    let mut as_root = BTreeSet::new();
    for case in cases() {
        let outcome = inject(&case.pod, &case.facts);
        let patched = outcome.apply(&case.pod).unwrap();
        if outcome.effect != Effect::Inject {
            continue;
        }
        let containers = patched["spec"]["initContainers"].as_array().into_iter().flatten();
        for container in containers.filter(|entry| has_reserved_name(entry)) {
            if container["securityContext"]["runAsUser"] == 0 {
                assert!(!is_restricted(&case.pod), "{}", case.name);
                as_root.insert(case.name.clone());
            } else {
                assert_eq!(unrestricted(container), None, "{}: {container}", case.name);
            }
        }
    }
    // A pod which specifies any user gets no container that runs as root.
    let expected =
        ["security-non-root-contradicted", "security-not-mounted", "security-root-app", "security-unspecified"];
    assert!(as_root.iter().map(String::as_str).eq(expected), "{as_root:?}");
}

#[test]
fn every_decision_is_in_a_golden_case() {
    let all = [
        Cause::Injected,
        Cause::AlreadyInjected,
        Cause::NothingRequested,
        Cause::OptedOut,
        Cause::NotOnCreate,
        Cause::MirrorPod,
        Cause::WindowsPod,
        Cause::NotAPod,
        Cause::InvalidAnnotation,
        Cause::UnknownContainer,
        Cause::UnknownVolume,
        Cause::UnsuitableVolume,
        Cause::NameTaken,
        Cause::PathTaken,
        Cause::RepositoryNotFound,
        Cause::RepositoryUnusable,
    ];
    let seen: BTreeSet<Cause> = cases().iter().map(|case| inject(&case.pod, &case.facts).cause).collect();
    // `TooLarge` has no case, because its pod would be too long to read.
    let unseen: Vec<&Cause> = all.iter().filter(|cause| !seen.contains(cause)).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}
