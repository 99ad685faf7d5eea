//! Which snapshot of a source a restore may take by itself: one rule for every restore, for the retention, for the guard of
//! `forget`, and for what a volume is compared with.
//!
//! Pure. It must not know repositories or clocks: the caller gives the snapshots and `now`.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::{SnapshotIdentity, SourceName};

/// How far ahead of `now` a snapshot may be dated, since the clocks of nodes differ a little.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);
/// How many snapshots that were not taken are named in a note; all are counted.
const NAMED: usize = 3;

/// What is known of a snapshot without reading its content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SnapshotRecord<'a> {
    /// Its id.
    pub id: &'a str,
    /// When it was made, by the clock of its writer.
    pub time: Timestamp,
    /// Host, path and tags.
    pub identity: &'a SnapshotIdentity,
    /// All its paths.
    pub paths: &'a [String],
    /// Bytes of all its files; older restic does not record them.
    pub bytes: Option<u64>,
}

/// How far a snapshot may be relied on. Only a [`Quality::Proven`] one is taken by itself; any can be named by its id.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Quality {
    /// Stored whole, as far as its writer knows. Snapshots of other tools count as this.
    Proven,
    /// Dated later than now, so that nothing is known of when it was made.
    FromFuture,
    /// Of a volume that was empty, or had lost most of its content.
    Suspect,
    /// Made of a volume that was about to be overwritten.
    Safety,
    /// Something could not be read when it was stored.
    Incomplete,
    /// Stored without proof that the stream had arrived whole.
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
    /// How far it may be relied on.
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

    /// Whether it is dated later than the clocks of two nodes may differ.
    pub fn is_from_future(&self, now: Timestamp) -> bool {
        now.checked_add(CLOCK_TOLERANCE).is_ok_and(|latest| self.time > latest)
    }

    /// The history that it belongs to: that of one source of one namespace in one cluster. Snapshots of other tools are
    /// grouped by host and paths, as restic does.
    pub fn history(&self) -> String {
        let cluster = self.cluster().unwrap_or_default();
        match self.identity.tag(SnapshotIdentity::SOURCE) {
            // A blank is in no name, and a newline in no path that is in use.
            Some(source) => format!("{cluster} {} {source}", self.identity.host),
            None => format!("\n{}\n{}", self.identity.host, self.paths.join("\n")),
        }
    }

    /// The first 8 digits of its id.
    pub fn short_id(&self) -> &'a str {
        self.id.get(..8).unwrap_or(self.id)
    }

    /// The id of the cluster that it was made in, where that is recorded.
    pub fn cluster(&self) -> Option<&'a str> {
        self.identity.tag(SnapshotIdentity::CLUSTER).filter(|cluster| !cluster.is_empty())
    }

    fn age(&self) -> (Timestamp, &'a str) {
        (self.time, self.id)
    }
}

/// The newest that may be relied on among snapshots of one history.
pub fn newest_good<'a>(
    history: impl IntoIterator<Item = SnapshotRecord<'a>>,
    now: Timestamp,
) -> Option<SnapshotRecord<'a>> {
    history
        .into_iter()
        .filter(|snapshot| snapshot.quality(now) == Quality::Proven)
        .max_by(|one, other| one.age().cmp(&other.age()))
}

/// Which snapshots are meant, and who looks for them when.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotQuery<'a> {
    /// Of which source.
    pub source: &'a SourceName,
    /// Of which host, which is the namespace; of any host when there is none.
    pub host: Option<&'a str>,
    /// Nothing that was made later.
    pub as_of: Option<Timestamp>,
    /// Id of the caller's own cluster; empty where it is not known, and then all clusters count alike.
    pub cluster: &'a str,
    /// The present.
    pub now: Timestamp,
}

/// The snapshot that a restore takes, and what was not taken although it is newer.
#[derive(Clone, Debug)]
pub struct Restorable<'a> {
    /// The snapshot.
    pub snapshot: SnapshotRecord<'a>,
    /// Newer snapshots of the same source, the newest first, and why each was not taken.
    pub passed_over: Vec<(SnapshotRecord<'a>, Quality)>,
    /// The cluster that the snapshot was made in, if that is another one than the caller's, or one of several.
    pub other_cluster: Option<&'a str>,
}

/// Why there is no snapshot that a restore may take by itself.
#[derive(Clone, Debug)]
pub enum NotRestorable<'a> {
    /// There is no snapshot of the source at all.
    NoSnapshot,
    /// All of its snapshots are younger than the time that is named; the oldest is of this one.
    NoneInTime(Timestamp),
    /// There are snapshots, and none may be relied on. This is the newest, with the reason.
    NoneGood(SnapshotRecord<'a>, Quality),
}

impl fmt::Display for NotRestorable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSnapshot => formatter.write_str("there is no snapshot of it"),
            Self::NoneInTime(oldest) => {
                write!(formatter, "its oldest snapshot is of {oldest:.0}, later than the time that is named")
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
    /// What a person has to know about the choice; nothing if it is simply the newest snapshot.
    pub fn note(&self) -> Option<String> {
        let mut notes = Vec::new();
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
            notes.push(format!("{} newer not taken: {}", self.passed_over.len(), named.join(", ")));
        }
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// The newest snapshot of a source that a restore may take by itself.
///
/// 1. Snapshots that name the source, are of the host, and were made as of the time.
/// 2. Of these the caller's own cluster's, and those that name no cluster. Another cluster's count only where there is
///    none of these that could hold data: then the volume or the database was moved, or its cluster is lost.
/// 3. Of these the newest that is [`Quality::Proven`].
/// 4. Else the newest that K8up made of the claim: by its host and path, without a source.
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
        list.into_iter().filter(|snapshot| query.as_of.is_none_or(|limit| snapshot.time <= limit)).collect()
    };
    let (all, of_k8up) = (in_time(all), in_time(of_k8up));
    let is_own = |snapshot: &SnapshotRecord<'_>| {
        query.cluster.is_empty() || snapshot.cluster().is_none_or(|cluster| cluster == query.cluster)
    };
    let (mut candidates, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_own);
    // A new cluster stores its volumes empty, if a Backup comes before the restore.
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

fn is_of_source(snapshot: &SnapshotRecord<'_>, query: &SnapshotQuery<'_>) -> bool {
    snapshot.identity.tag(SnapshotIdentity::SOURCE) == Some(query.source.as_str())
        && query.host.is_none_or(|host| snapshot.identity.host == host)
}

/// K8up's convention: the namespace is the host, and the path names the claim.
fn is_of_k8up(snapshot: &SnapshotRecord<'_>, query: &SnapshotQuery<'_>) -> bool {
    let claim = query.source.as_str().strip_prefix("pvc/");
    snapshot.identity.tag(SnapshotIdentity::SOURCE).is_none()
        && query.host == Some(snapshot.identity.host.as_str())
        && claim.is_some_and(|claim| snapshot.identity.path.strip_prefix("/data/") == Some(claim))
}

#[cfg(test)]
mod tests;
