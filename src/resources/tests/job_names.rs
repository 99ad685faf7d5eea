//! The names of Jobs.

use super::*;

#[test]
fn names_are_short_readable_and_differ_by_owner_source_and_attempt() {
    let evening = owner("Backup", "evening");
    let long = owner("Backup", &format!("{}.x", "e".repeat(61)));
    let all = [
        names::job_name(&evening, "pod/a/b", 1),
        names::job_name(&evening, "pod/a/b", 2),
        names::job_name(&evening, "pod/a/c", 1),
        names::job_name(&OwnerRef { uid: "another".into(), ..evening.clone() }, "pod/a/b", 1),
        names::job_name(&long, "pod/a/b", 1),
    ];
    for (index, name) in all.iter().enumerate() {
        assert!(name.len() <= 63 && !name.contains('.') && !name.contains("--"), "{name}");
        assert!(!all[..index].contains(name), "{name}");
    }
    assert!(all[0].starts_with("evening-") && all[0].len() == "evening-".len() + 10, "{}", all[0]);
    assert_eq!(all[0], names::job_name(&evening, "pod/a/b", 1));
}
