//! Tests that all objects of one repository share what their checks have found, and that no other object is believed.

use super::*;
use crate::{api::set_condition, model::DataPart};

const STORE: &str = "https://shed.example/casks";

/// A Repository at this store, whose repository has the id, and in which a check has found these packs.
fn checked_at(url: &str, (namespace, name): (&str, &str), id: &str, packs: &[&str]) -> Repository {
    let mut repository = repository(name, Ok(()));
    repository.metadata.namespace = Some(namespace.into());
    repository.spec =
        serde_json::from_value(json!({ "rest": { "url": url }, "passwordSecretRef": { "name": "key" } })).unwrap();
    let status = repository.status.as_mut().unwrap();
    status.repository_id = Some(id.into());
    let ids = packs.iter().map(|&pack| pack.to_owned()).collect::<Vec<_>>();
    let damaged_packs = Some(DamagedPacks { ids, more_in: None });
    status.check = Some(CheckStatus { damaged_packs, ..CheckStatus::default() });
    repository
}

fn set_more(repository: &mut Repository, part: DataPart) {
    let check = repository.status.as_mut().unwrap().check.as_mut().unwrap();
    check.damaged_packs.as_mut().unwrap().more_in = Some(part);
}

#[test]
fn damage_that_a_check_of_one_object_found_counts_for_all_objects_of_the_repository() {
    let cellar = checked_at(STORE, (NAMESPACE, "cellar"), "a", &["01aa"]);
    let beside = checked_at("https://Shed.example:443/casks/", (NAMESPACE, "beside"), "a", &["02bb", "01aa"]);
    let mut elsewhere = checked_at(STORE, ("elsewhere", "cellar"), "a", &["03cc"]);
    set_more(&mut elsewhere, "2/3".parse().unwrap());
    let stranger = checked_at(STORE, (NAMESPACE, "stranger"), "b", &["04dd"]);
    let forged = checked_at("https://mallory.example/casks", (NAMESPACE, "forged"), "a", &["05ee"]);
    let mut unknown = checked_at(STORE, (NAMESPACE, "unknown"), "a", &["06ff"]);
    unknown.status.as_mut().unwrap().repository_id = None;
    let unread = repository("unread", Ok(()));
    let all = vec![cellar.clone(), beside, elsewhere, stranger, forged, unknown.clone(), unread.clone()];

    let packs = damaged_packs(&all, &cellar);
    assert_eq!((packs.ids, packs.more_in), (vec!["01aa".into(), "02bb".into(), "03cc".into()], "2/3".parse().ok()));
    // A repository that was never opened is the same as no other one.
    assert_eq!(damaged_packs(&all, &unknown).ids, ["06ff"]);
    assert!(damaged_packs(&all, &unread).is_empty());
    assert_eq!(damaged_packs(&[], &cellar).ids, ["01aa"], "its own list counts in any case");
}

#[test]
fn list_of_another_namespace_counts_only_while_its_repository_is_open_as_its_spec_is_now() {
    let cellar = checked_at(STORE, (NAMESPACE, "cellar"), "a", &[]);
    for (namespace, is_believed) in [(NAMESPACE, true), ("elsewhere", false)] {
        // A copy of the id in a store of the author's own, and then a spec with the location of another repository.
        let mut moved = checked_at(STORE, (namespace, "moved"), "a", &["01aa"]);
        moved.metadata.generation = Some(2);
        let mut closed = checked_at(STORE, (namespace, "closed"), "a", &["02bb"]);
        let conditions = &mut closed.status.as_mut().unwrap().conditions;
        set_condition(conditions, READY, false, ("RepositoryChanged", "x"), Some(1), at(1));
        for (other, pack) in [(moved, "01aa"), (closed, "02bb")] {
            let expected = if is_believed { vec![pack] } else { Vec::new() };
            assert_eq!(damaged_packs(&[cellar.clone(), other], &cellar).ids, expected, "{namespace}, {pack}");
        }
    }
}

#[test]
fn own_list_stays_whole_when_the_lists_of_others_are_too_long() {
    let many: Vec<String> = (0..256).map(|number| format!("{number:016x}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let cellar = checked_at(STORE, (NAMESPACE, "cellar"), "a", &["ffaa"]);
    let beside = checked_at(STORE, (NAMESPACE, "beside"), "a", &many);
    let packs = damaged_packs(&[beside, cellar.clone()], &cellar);
    assert_eq!((packs.ids[0].as_str(), packs.ids.len(), packs.more_in), ("ffaa", 256, Some(DataPart::ALL)));
}
