//! Chooses the snapshot which a restore requests from the snapshots of a repository. There is no "latest snapshot of
//! any source". Pure.

use jiff::Timestamp;

use super::source_names::similar_sources;
use crate::{
    model::{
        Failure, Reason, RunReport, SnapshotIdentity, SnapshotQuery, SnapshotRecord, WantedSnapshot, latest_restorable,
    },
    repository::{Repository, SnapshotList, SnapshotSummary, ambiguous},
};

/// The chosen snapshot.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    /// The snapshot.
    pub snapshot: &'a SnapshotSummary,
    /// A note about the choice for the user; empty if there is nothing to note.
    pub note: String,
}

impl Chosen<'_> {
    /// The report of its restore, with the note appended to its message.
    pub fn report(&self, report: RunReport) -> RunReport {
        let message = match (report.message.as_str(), self.note.as_str()) {
            (_, "") => return report,
            ("", note) => note.to_owned(),
            (message, note) => format!("{message}; {note}"),
        };
        RunReport { message, ..report }
    }
}

/// Chooses from the snapshots which can be read. A snapshot which is requested by its id and cannot be read is an
/// error, and so is a snapshot which is not found. The note also states that the repository is read without a lock, if
/// it is.
pub(super) fn choose_readable<'a>(
    list: &'a SnapshotList,
    wanted: &WantedSnapshot,
    repository: &Repository,
    now: Timestamp,
) -> Result<Chosen<'a>, Failure> {
    if let Some(id) = &wanted.id {
        list.check_readable(id, repository.location())?;
    }
    let mut chosen = choose(&list.snapshots, wanted, now).map_err(|failure| match list.trouble() {
        Some(trouble) if failure.reason == Reason::SnapshotNotFound => Failure {
            message: format!("{}; the snapshot may be among unreadable ones: {trouble}", failure.message),
            ..failure
        },
        _ => failure,
    })?;
    let trouble = list.trouble().filter(|_| wanted.id.is_none());
    let trouble = trouble.map(|trouble| format!("a newer snapshot may be among unreadable ones: {trouble}"));
    for note in trouble.into_iter().chain(repository.lock_note().map(str::to_owned)) {
        let separator = if chosen.note.is_empty() { "" } else { "; " };
        chosen.note = format!("{}{separator}{note}", chosen.note);
    }
    Ok(chosen)
}

/// Chooses the snapshot, which must belong to the source, and to the host if a host is requested.
pub(super) fn choose<'a>(
    snapshots: &'a [SnapshotSummary],
    wanted: &WantedSnapshot,
    now: Timestamp,
) -> Result<Chosen<'a>, Failure> {
    match &wanted.id {
        Some(id) => by_id(snapshots, id, wanted)
            .map(|snapshot| Chosen { snapshot, note: snapshot.record().note_of_consent().unwrap_or_default() }),
        None => newest(snapshots, wanted, now),
    }
}

/// Converts paths so that they are relative to the volume's own folder, which is at `root` of the snapshot. A path
/// without a leading slash is relative already. A path with a leading slash is taken as `stowaway ls` prints it, from
/// the root of the snapshot, or else from the volume's folder.
pub(super) fn relative(root: &str, paths: &[String]) -> Result<Vec<String>, Failure> {
    let below = |path: &str| {
        let rest =
            path.strip_prefix(root.trim_end_matches('/')).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let rest = rest.unwrap_or(path);
        rest.strip_prefix('/').unwrap_or(rest).to_owned()
    };
    let one = |path: &String| match path.starts_with('/').then(|| below(path)) {
        None => Ok(path.clone()),
        Some(below) if below.is_empty() => {
            let message = format!("{path} is the volume's own folder: to restore the whole volume, request no paths");
            Err(Failure::new(Reason::InvalidRequest, message))
        }
        Some(below) => Ok(below),
    };
    paths.iter().map(one).collect()
}

fn newest<'a>(
    snapshots: &'a [SnapshotSummary],
    wanted: &WantedSnapshot,
    now: Timestamp,
) -> Result<Chosen<'a>, Failure> {
    let WantedSnapshot { source, as_of, host, cluster, .. } = wanted;
    let records: Vec<SnapshotRecord<'_>> = snapshots.iter().map(SnapshotSummary::record).collect();
    let query = SnapshotQuery { source, host: host.as_deref(), as_of: *as_of, cluster, now };
    let none = match latest_restorable(&records, &query) {
        Ok(found) => {
            let is_found = |snapshot: &&SnapshotSummary| snapshot.id == found.snapshot.id;
            let note = found.note().unwrap_or_default();
            if !note.is_empty() {
                tracing::warn!("about {source}: {note}");
            }
            match snapshots.iter().find(is_found) {
                Some(snapshot) => return Ok(Chosen { snapshot, note }),
                None => "the snapshot no longer exists".to_owned(),
            }
        }
        Err(none) => none.to_string(),
    };
    let limit = as_of.map_or_else(String::new, |limit| format!(" as of {limit}"));
    let of = host.as_ref().map_or_else(String::new, |host| format!(" of namespace {host}"));
    let known = known_sources(snapshots, host.as_deref(), source.as_str());
    let message = format!(
        "the repository has no proven snapshot of {source}{of}{limit}: {none}; it has snapshots of: {known}. Any of them can \
         be restored by its id"
    );
    Err(Failure::new(Reason::SnapshotNotFound, message))
}

fn by_id<'a>(
    snapshots: &'a [SnapshotSummary],
    id: &str,
    wanted: &WantedSnapshot,
) -> Result<&'a SnapshotSummary, Failure> {
    let matching: Vec<&SnapshotSummary> = snapshots.iter().filter(|snapshot| snapshot.id.starts_with(id)).collect();
    let [found] = matching[..] else {
        return Err(if matching.is_empty() {
            let message =
                format!("no snapshot of the repository has the id {id:?}; `stowaway snapshots` lists the ids");
            Failure::new(Reason::SnapshotNotFound, message)
        } else {
            Failure::new(Reason::InvalidRequest, ambiguous(id, &matching))
        });
    };
    let (source, short) = (&wanted.source, &found.id[..8]);
    if let Some(owner) = found.identity.tag(SnapshotIdentity::SOURCE).filter(|owner| *owner != source.as_str()) {
        let message = format!("snapshot {short} is of {owner}, not of {source}");
        return Err(Failure::new(Reason::InvalidRequest, message));
    }
    let made_at = &found.identity.host;
    match &wanted.host {
        Some(host) if host != made_at => {
            let message = format!(
                "snapshot {short} is of host {made_at}, not of {host}; to restore it anyway, set spec.from.host"
            );
            Err(Failure::new(Reason::InvalidRequest, message))
        }
        _ => Ok(found),
    }
}

fn known_sources(snapshots: &[SnapshotSummary], host: Option<&str>, wanted: &str) -> String {
    let of_host = snapshots.iter().filter(|snapshot| host.is_none_or(|host| snapshot.identity.host == host));
    similar_sources(of_host.filter_map(|snapshot| snapshot.identity.tag(SnapshotIdentity::SOURCE)), wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_accepted_as_listed_and_relative_to_the_volume() {
        let one = |path: &str| relative("/data/claim", &[path.to_owned()]).map(|mut paths| paths.remove(0));
        for path in ["a/b", "/a/b", "/data/claim/a/b"] {
            assert_eq!(one(path).unwrap(), "a/b", "{path}");
        }
        // Without a leading slash the path is relative, even if such a folder may exist in the volume.
        assert_eq!(one("data/claim/a").unwrap(), "data/claim/a");
        assert_eq!(one("/data/claims/a").unwrap(), "data/claims/a", "another name");
        for all in ["/data/claim", "/data/claim/", "/"] {
            assert_eq!(one(all).unwrap_err().reason, Reason::InvalidRequest, "{all}");
        }
    }

    fn snapshot(id: &str, time: &str, host: &str, tags: &[&str]) -> SnapshotSummary {
        let path = "/data/claim".to_owned();
        SnapshotSummary {
            id: format!("{id:0<64}"),
            time: time.parse().unwrap(),
            identity: SnapshotIdentity {
                host: host.into(),
                path: path.clone(),
                tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            },
            paths: vec![path],
            bytes: None,
        }
    }

    fn some() -> Vec<SnapshotSummary> {
        let source = "source=pvc/claim";
        vec![
            snapshot("aa", "2026-01-01T00:00:00Z", "shop", &[source]),
            snapshot("bb", "2026-01-02T00:00:00Z", "shop", &[source]),
            snapshot("cc", "2026-01-03T00:00:00Z", "shop", &[source, "safety"]),
            snapshot("dd", "2026-01-03T00:00:00Z", "shop", &[source, "incomplete"]),
            snapshot("ee", "2026-01-04T00:00:00Z", "mill", &[source]),
            snapshot("ff", "2026-01-05T00:00:00Z", "shop", &["source=pvc/other"]),
            snapshot("11", "2026-01-06T00:00:00Z", "shop", &[source, "suspect"]),
            snapshot("22", "2027-01-06T00:00:00Z", "shop", &[source]),
            snapshot("33", "2026-01-07T00:00:00Z", "shop", &[source, "cluster=there"]),
        ]
    }

    fn chosen(id: Option<&str>, as_of: Option<&str>, host: Option<&str>) -> Result<String, Reason> {
        let wanted = WantedSnapshot {
            source: "pvc/claim".parse().unwrap(),
            id: id.map(|id| format!("{id:0<8}")),
            as_of: as_of.map(|time| time.parse().unwrap()),
            host: host.map(str::to_owned),
            cluster: "here".into(),
        };
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let found = choose(&some(), &wanted, now).map(|found| found.snapshot.id[..2].to_owned());
        found.map_err(|failure| failure.reason)
    }

    #[test]
    fn newest_is_the_newest_proven_one_of_the_namespace() {
        assert_eq!(chosen(None, None, Some("shop")), Ok("bb".into()));
        assert_eq!(chosen(None, None, Some("mill")), Ok("ee".into()));
        assert_eq!(chosen(None, None, Some("missing")), Err(Reason::SnapshotNotFound));
        // Without a host, all hosts are considered.
        assert_eq!(chosen(None, None, None), Ok("ee".into()));
    }

    #[test]
    fn as_of_a_time_no_later_snapshot_is_chosen() {
        for (time, expected) in [
            ("2026-01-02T00:00:00Z", Ok("bb".into())),
            ("2026-01-01T23:59:59Z", Ok("aa".into())),
            ("2028-01-01T00:00:00Z", Ok("bb".into())),
            ("2025-12-31T23:59:59Z", Err(Reason::SnapshotNotFound)),
        ] {
            assert_eq!(chosen(None, Some(time), Some("shop")), expected, "{time}");
        }
    }

    #[test]
    fn accepted_snapshot_without_proof_is_chosen_by_default_and_every_choice_of_it_states_that() {
        let all = [
            snapshot("aa", "2026-01-01T00:00:00Z", "shop", &["source=pvc/claim", "proof=Sealed"]),
            snapshot("bb", "2026-01-02T00:00:00Z", "shop", &["source=pvc/claim", "proof=None", "accepted-unproven"]),
        ];
        for id in [None, Some("bb".to_owned())] {
            let source = "pvc/claim".parse().unwrap();
            let wanted = WantedSnapshot { source, id, as_of: None, host: None, cluster: String::new() };
            let chosen = choose(&all, &wanted, "2026-06-01T00:00:00Z".parse().unwrap()).unwrap();
            assert!(chosen.snapshot.id.starts_with("bb"), "{chosen:?}");
            assert!(chosen.note.contains("is unproven, and was accepted as such"), "{chosen:?}");
        }
    }

    #[test]
    fn snapshot_which_is_not_good_is_chosen_only_by_its_id() {
        for id in ["cc", "dd", "11", "22", "33"] {
            assert_eq!(chosen(Some(id), None, Some("shop")), Ok(id.into()));
        }
    }

    #[test]
    fn id_of_no_snapshot_and_of_several_have_different_messages() {
        let all: Vec<SnapshotSummary> = (0..6)
            .map(|digit| snapshot(&format!("abcdef12{digit}"), "2026-01-01T00:00:00Z", "shop", &["source=pvc/claim"]))
            .collect();
        let refused = |id: &str| {
            let source = "pvc/claim".parse().unwrap();
            let wanted =
                WantedSnapshot { source, id: Some(id.into()), as_of: None, host: None, cluster: String::new() };
            choose(&all, &wanted, "2026-05-04T03:02:01Z".parse().unwrap()).unwrap_err()
        };
        let unknown = refused("99999999");
        assert_eq!(unknown.reason, Reason::SnapshotNotFound);
        assert!(unknown.message.contains("no snapshot of the repository has the id \"99999999\""), "{unknown}");
        let several = refused("abcdef12");
        assert_eq!(several.reason, Reason::InvalidRequest);
        let first = "the ids of 6 snapshots begin with abcdef12: abcdef1200000000 (pvc/claim, 2026-01-01T00:00:00Z), ";
        assert!(several.message.starts_with(first), "{several}");
        assert!(several.message.ends_with(" and 2 more; give more digits"), "{several}");
    }

    #[test]
    fn id_of_another_source_or_host_is_refused() {
        assert_eq!(chosen(Some("cc"), None, Some("shop")), Ok("cc".into()), "a safety copy is to be had");
        assert_eq!(chosen(Some("ff"), None, Some("shop")), Err(Reason::InvalidRequest));
        assert_eq!(chosen(Some("ee"), None, Some("shop")), Err(Reason::InvalidRequest));
        assert_eq!(chosen(Some("ee"), None, Some("mill")), Ok("ee".into()));
        assert_eq!(chosen(Some("99"), None, Some("shop")), Err(Reason::SnapshotNotFound));
    }
}
