//! Chooses the snapshot of a source that a restore may use by default. Every restore, the retention, the guard of
//! `forget`, and the comparison of a volume with its last good snapshot use this one rule. The caller passes the
//! snapshots and `now`.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::{SnapshotIdentity, SourceName};

/// The time by which a snapshot may be dated ahead of `now`, because the clocks of nodes differ a little.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);
/// Number of rejected snapshots that a note names; it counts all of them.
const NAMED: usize = 3;

/// The metadata of a snapshot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SnapshotRecord<'a> {
    pub id: &'a str,
    /// When the snapshot was made, by its writer's clock.
    pub time: Timestamp,
    /// Host, path and tags.
    pub identity: &'a SnapshotIdentity,
    pub paths: &'a [String],
    /// Bytes of all its files; older versions of restic do not record them.
    pub bytes: Option<u64>,
}

/// The reliability of a snapshot. Only a [`Quality::Proven`] snapshot is used by default; any can be named by its id.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Quality {
    /// Stored completely, as far as its writer knows. Snapshots of other tools count as proven, and so do snapshots
    /// without proof which a user accepted; see [`SnapshotRecord::is_accepted_without_proof`].
    Proven,
    /// Dated later than now, so that its real time is unknown.
    FromFuture,
    /// Made from a volume that was empty or had lost most of its content, or from a command into which a Restore had failed.
    Suspect,
    /// Made from a volume that was about to be overwritten.
    Safety,
    /// Something could not be read when it was stored.
    Incomplete,
    /// Stored without proof that the stream arrived completely, and without a user's consent to that.
    Unproven,
}

impl fmt::Display for Quality {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Proven => "proven",
            Self::FromFuture => "dated in the future",
            Self::Suspect => "suspect",
            Self::Safety => "a safety copy",
            Self::Incomplete => "incomplete",
            Self::Unproven => "unproven",
        })
    }
}

impl<'a> SnapshotRecord<'a> {
    /// The reliability of the snapshot.
    pub fn quality(&self, now: Timestamp) -> Quality {
        let tags = [
            (SnapshotIdentity::SAFETY, Quality::Safety),
            (SnapshotIdentity::UNPROVEN, Quality::Unproven),
            (SnapshotIdentity::INCOMPLETE, Quality::Incomplete),
            (SnapshotIdentity::SUSPECT, Quality::Suspect),
        ];
        let tagged = tags.iter().find(|(tag, _)| self.identity.has_tag(tag)).map(|(_, quality)| *quality);
        tagged.unwrap_or(if self.is_from_future(now) { Quality::FromFuture } else { Quality::Proven })
    }

    /// Whether nothing proved that its stream arrived completely, and a user accepted that: in advance by the annotation
    /// `stowaway.dev/accept-unproven`, or later, by the removal of the tag [`SnapshotIdentity::UNPROVEN`].
    pub fn is_accepted_without_proof(&self) -> bool {
        let is_without_proof = self.identity.has_tag(SnapshotIdentity::ACCEPTED_UNPROVEN)
            || self.identity.tag(SnapshotIdentity::PROOF) == Some("None");
        is_without_proof && !self.identity.has_tag(SnapshotIdentity::UNPROVEN)
    }

    /// A note for the user about a snapshot which is restored although nothing proved that it is complete.
    pub fn note_of_consent(&self) -> Option<String> {
        self.is_accepted_without_proof().then(|| {
            let (id, time) = (self.short_id(), self.time);
            format!(
                "snapshot {id} of {time:.0} is unproven, and was accepted as such (stowaway.dev/accept-unproven): nothing \
                 proved that its stream arrived completely, so check the restored data"
            )
        })
    }

    /// Whether it is dated later than the clocks of two nodes may differ.
    pub fn is_from_future(&self, now: Timestamp) -> bool {
        now.checked_add(CLOCK_TOLERANCE).is_ok_and(|latest| self.time > latest)
    }

    /// The history to which the snapshot belongs: that of one source of one namespace in one cluster. Snapshots of
    /// other tools are grouped by host and paths, as in restic.
    pub fn history(&self) -> String {
        let cluster = self.cluster().unwrap_or_default();
        match self.identity.tag(SnapshotIdentity::SOURCE) {
            // No name contains a blank, and no path in use contains a newline.
            Some(source) => format!("{cluster} {} {source}", self.identity.host),
            None => format!("\n{}\n{}", self.identity.host, self.paths.join("\n")),
        }
    }

    /// The first 8 digits of the id.
    pub fn short_id(&self) -> &'a str {
        self.id.get(..8).unwrap_or(self.id)
    }

    /// The id of the cluster in which it was made, if it is recorded.
    pub fn cluster(&self) -> Option<&'a str> {
        self.identity.tag(SnapshotIdentity::CLUSTER).filter(|cluster| !cluster.is_empty())
    }

    /// Whether it was made in that cluster. A snapshot which records no cluster counts as made in every cluster.
    pub fn is_of_cluster(&self, cluster: &str) -> bool {
        self.cluster().is_none_or(|own| own == cluster)
    }

    fn age(&self) -> (Timestamp, &'a str) {
        (self.time, self.id)
    }
}

/// The newest proven snapshot of one history.
pub fn newest_good<'a>(
    history: impl IntoIterator<Item = SnapshotRecord<'a>>,
    now: Timestamp,
) -> Option<SnapshotRecord<'a>> {
    history
        .into_iter()
        .filter(|snapshot| snapshot.quality(now) == Quality::Proven)
        .max_by(|one, other| one.age().cmp(&other.age()))
}

/// The snapshots to search, and the caller's cluster and time.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotQuery<'a> {
    pub source: &'a SourceName,
    /// The host, which is the namespace; none for any host.
    pub host: Option<&'a str>,
    /// Only snapshots that were made at this time or earlier; see [`is_in_time`].
    pub as_of: Option<Timestamp>,
    /// Id of the caller's own cluster. If it is empty, the cluster is unknown, and all clusters count alike.
    pub cluster: &'a str,
    pub now: Timestamp,
}

/// The snapshot that a restore uses, and the newer ones which were rejected.
#[derive(Clone, Debug)]
pub struct Restorable<'a> {
    pub snapshot: SnapshotRecord<'a>,
    /// Newer snapshots of the same source, the newest first, and why each was rejected.
    pub passed_over: Vec<(SnapshotRecord<'a>, Quality)>,
    /// The cluster in which the snapshot was made, if it is not the caller's, or one of several.
    pub other_cluster: Option<&'a str>,
}

/// Why there is no snapshot that a restore may use by default.
#[derive(Clone, Debug)]
pub enum NotRestorable<'a> {
    /// The source has no snapshot.
    NoSnapshot,
    /// All of its snapshots are newer than the requested time. The oldest has this time.
    NoneInTime(Timestamp),
    /// There are snapshots, but none is proven. This is the newest one, with its quality.
    NoneGood(SnapshotRecord<'a>, Quality),
}

impl fmt::Display for NotRestorable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSnapshot => formatter.write_str("there is no snapshot of it"),
            Self::NoneInTime(oldest) => {
                write!(formatter, "its oldest snapshot is of {oldest:.0}, later than the requested time")
            }
            Self::NoneGood(newest, quality) => {
                let (id, time) = (newest.short_id(), newest.time);
                write!(
                    formatter,
                    "none of its snapshots is proven and complete; the newest is {id} of {time:.0}, which is {quality}"
                )
            }
        }
    }
}

impl Restorable<'_> {
    /// A note for the user about the choice; none if it is simply the newest snapshot, and proven.
    pub fn note(&self) -> Option<String> {
        let mut notes: Vec<String> = self.snapshot.note_of_consent().into_iter().collect();
        if let Some(cluster) = self.other_cluster {
            let (id, time) = (self.snapshot.short_id(), self.snapshot.time);
            notes.push(format!("snapshot {id} of {time:.0} was made in another cluster ({cluster})"));
        }
        if !self.passed_over.is_empty() {
            let mut named: Vec<String> = self
                .passed_over
                .iter()
                .take(NAMED)
                .map(|(snapshot, quality)| format!("{} of {:.0} is {quality}", snapshot.short_id(), snapshot.time))
                .collect();
            if self.passed_over.len() > NAMED {
                named.push("...".to_owned());
            }
            notes.push(format!("{} newer not used: {}", self.passed_over.len(), named.join(", ")));
        }
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// The newest snapshot of a source that a restore may use by default.
///
/// 1. Snapshots that name the source, have the host, and were made at the requested time or earlier ([`is_in_time`]).
/// 2. Of these, the snapshots of the caller's own cluster, and those that name no cluster. Snapshots of another cluster
///    count only if none of these could hold data: then the volume or the database was moved, or its cluster is lost.
/// 3. Of these, the newest that is [`Quality::Proven`].
/// 4. Otherwise, the newest that K8up made of the claim, which has the claim's host and path, and no source.
pub fn latest_restorable<'a>(
    snapshots: &[SnapshotRecord<'a>],
    query: &SnapshotQuery<'_>,
) -> Result<Restorable<'a>, NotRestorable<'a>> {
    let all: Vec<SnapshotRecord<'a>> =
        snapshots.iter().copied().filter(|snapshot| is_of_source(snapshot, query)).collect();
    let of_k8up: Vec<SnapshotRecord<'a>> =
        snapshots.iter().copied().filter(|snapshot| is_of_k8up(snapshot, query)).collect();
    let Some(oldest) = all.iter().chain(&of_k8up).map(|snapshot| snapshot.time).min() else {
        return Err(NotRestorable::NoSnapshot);
    };
    let in_time = |list: Vec<SnapshotRecord<'a>>| -> Vec<SnapshotRecord<'a>> {
        list.into_iter().filter(|snapshot| query.as_of.is_none_or(|limit| is_in_time(snapshot.time, limit))).collect()
    };
    let (all, of_k8up) = (in_time(all), in_time(of_k8up));
    let is_own = |snapshot: &SnapshotRecord<'_>| query.cluster.is_empty() || snapshot.is_of_cluster(query.cluster);
    let (mut candidates, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_own);
    // A new cluster stores empty volumes if a Backup runs before the restore.
    let holds_data =
        |snapshot: &SnapshotRecord<'_>| !matches!(snapshot.quality(query.now), Quality::Suspect | Quality::Safety);
    if !candidates.iter().any(holds_data) {
        candidates.extend(others);
    }
    let found = newest_good(candidates.iter().copied(), query.now);
    let Some(snapshot) = found.or_else(|| newest_good(of_k8up.iter().copied(), query.now)) else {
        let newest = candidates.iter().chain(&of_k8up).max_by(|one, other| one.age().cmp(&other.age()));
        return Err(newest.map_or(NotRestorable::NoneInTime(oldest), |newest| {
            NotRestorable::NoneGood(*newest, newest.quality(query.now))
        }));
    };
    let is_newer = |other: &&SnapshotRecord<'a>| other.age() > snapshot.age();
    let newer = candidates.iter().chain(of_k8up.iter().filter(|_| found.is_none())).filter(is_newer);
    let mut passed_over: Vec<_> = newer.map(|other| (*other, other.quality(query.now))).collect();
    passed_over.sort_by(|(one, _), (other, _)| other.age().cmp(&one.age()));
    let clusters = || candidates.iter().map(|other| other.cluster().unwrap_or_default());
    let is_one_of_several = || clusters().any(|cluster| cluster != snapshot.cluster().unwrap_or_default());
    let other_cluster = snapshot.cluster().filter(|cluster| match query.cluster {
        "" => is_one_of_several(),
        own => *cluster != own,
    });
    Ok(Restorable { snapshot, passed_over, other_cluster })
}

/// Whether a snapshot of this time was made at the requested time or earlier. A requested time without a fraction of a
/// second includes its whole second, because the times of snapshots are printed without their fractions.
fn is_in_time(time: Timestamp, limit: Timestamp) -> bool {
    if limit.subsec_nanosecond() == 0 { time.as_second() <= limit.as_second() } else { time <= limit }
}

fn is_of_source(snapshot: &SnapshotRecord<'_>, query: &SnapshotQuery<'_>) -> bool {
    snapshot.identity.tag(SnapshotIdentity::SOURCE) == Some(query.source.as_str())
        && query.host.is_none_or(|host| snapshot.identity.host == host)
}

/// K8up's convention: the namespace is the host, and the path contains the claim's name.
fn is_of_k8up(snapshot: &SnapshotRecord<'_>, query: &SnapshotQuery<'_>) -> bool {
    let claim = query.source.as_str().strip_prefix("pvc/");
    snapshot.identity.tag(SnapshotIdentity::SOURCE).is_none()
        && query.host == Some(snapshot.identity.host.as_str())
        && claim.is_some_and(|claim| snapshot.identity.path.strip_prefix("/data/") == Some(claim))
}

#[cfg(test)]
mod tests;
