//! The retention policy: which snapshots of a repository are kept, and which are dropped.
//!
//! The rules are those of restic's `forget` (0.19), with four differences, each of which loses less data. Good
//! snapshots and others are counted separately, so that an unproven or suspect snapshot never replaces a proven one.
//! The newest good snapshot of a source is never dropped. No snapshot of a source which has shrunk implausibly is
//! dropped. A snapshot dated in the future is kept, and is not counted until its time has passed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::model::{Quality, Retention, SMALLEST_BYTES, SnapshotIdentity, SnapshotRecord, has_lost_most};

/// A snapshot which is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept<'a> {
    pub id: &'a str,
    /// Never empty.
    pub reasons: Vec<Reason>,
}

/// A snapshot which is dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dropped<'a> {
    pub id: &'a str,
    pub time: Timestamp,
}

/// A source whose newest snapshot is implausibly smaller than those before it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shrunk<'a> {
    /// The source's name, else the path of its snapshots.
    pub source: &'a str,
    /// Id of the newest complete snapshot.
    pub newest: &'a str,
    /// Size of the newest complete snapshot.
    pub bytes: u64,
    /// The usual size of the snapshots before it.
    pub usual: u64,
    /// Whether the newest snapshot is tagged as suspect, so that the good snapshots before it are kept in any case.
    pub is_suspect: bool,
}

impl fmt::Display for Shrunk<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, newest, bytes, usual, is_suspect } = self;
        write!(formatter, "the newest snapshot of {source} has {bytes} bytes, and {usual} were usual; ")?;
        if *is_suspect {
            write!(
                formatter,
                "it is suspect, and replaces no good snapshot until `restic tag --remove suspect {newest}` accepts it"
            )
        } else {
            formatter.write_str("nothing of it is dropped until its size is usual again")
        }
    }
}

/// Why a snapshot is kept.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// The policy has no rule.
    NoPolicy,
    /// It is the newest proven snapshot of its source.
    NewestProven,
    /// Its source has shrunk.
    Shrunk,
    /// It is dated in the future.
    FromFuture,
    /// It has a tag of `keepTags`.
    Tag,
    /// It is younger than `keepWithin`, counted from the newest snapshot.
    Within,
    /// This rule keeps it.
    Rule(Rule),
    /// It is the oldest snapshot, and the rule's count is not used up.
    Oldest(Rule),
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => formatter.write_str("no policy"),
            Self::NewestProven => formatter.write_str("newest proven"),
            Self::Shrunk => formatter.write_str("its source shrank"),
            Self::FromFuture => formatter.write_str("dated in the future"),
            Self::Tag => formatter.write_str("tag"),
            Self::Within => formatter.write_str("within"),
            Self::Rule(rule) => formatter.write_str(rule.name()),
            Self::Oldest(rule) => write!(formatter, "oldest {}", rule.name()),
        }
    }
}

/// The rules which keep a number of snapshots.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs, reason = "the fields of `Retention` with these names are documented")]
pub enum Rule {
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl Rule {
    fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

/// The snapshots of a repository, divided into those which are kept and those which are dropped.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RetentionPlan<'a> {
    pub keep: Vec<Kept<'a>>,
    /// Sorted by time, the oldest first.
    pub drop: Vec<Dropped<'a>>,
    /// The sources to warn about.
    pub shrunk: Vec<Shrunk<'a>>,
    /// Snapshots which are dated in the future, because the clock of their writer was wrong, or the present clock is.
    pub from_future: Vec<SnapshotRecord<'a>>,
}

/// The number of snapshots before the newest one which define the usual size.
const USUAL_OF: usize = 7;
/// The smallest number of snapshots which define the usual size.
const USUAL_AT_LEAST: usize = 3;
/// A stream that is smaller than the largest one before it by this factor has shrunk, even if fewer than
/// [`USUAL_AT_LEAST`] are before it. A volume that shrank is suspect, and needs no such rule.
const ABSURD_FACTOR: u64 = 10;

/// Applies the policy to all snapshots of a repository, separately for each source. Hours and days are those of `zone`.
/// Each snapshot is in exactly one of the lists `keep` and `drop`.
pub fn plan_retention<'a>(
    policy: &Retention,
    snapshots: &[SnapshotRecord<'a>],
    zone: &TimeZone,
    now: Timestamp,
) -> RetentionPlan<'a> {
    let mut histories: BTreeMap<String, Vec<SnapshotRecord<'a>>> = BTreeMap::new();
    let mut plan = RetentionPlan::default();
    for snapshot in snapshots {
        if snapshot.is_from_future(now) {
            plan.keep.push(Kept { id: snapshot.id, reasons: vec![Reason::FromFuture] });
            plan.from_future.push(*snapshot);
        } else {
            histories.entry(snapshot.history()).or_default().push(*snapshot);
        }
    }
    for mut history in histories.into_values() {
        // Newest first.
        history.sort_by(|one, other| (other.time, other.id).cmp(&(one.time, one.id)));
        judge(policy, &history, (zone, now), &mut plan);
    }
    plan.drop.sort_by(|one, other| (one.time, one.id).cmp(&(other.time, other.id)));
    plan
}

fn judge<'a>(
    policy: &Retention,
    history: &[SnapshotRecord<'a>],
    (zone, now): (&TimeZone, Timestamp),
    plan: &mut RetentionPlan<'a>,
) {
    let (good, other): (Vec<SnapshotRecord<'a>>, Vec<SnapshotRecord<'a>>) =
        history.iter().partition(|snapshot| snapshot.quality(now) == Quality::Proven);
    let shrunk = shrunk(&good);
    let is_frozen = shrunk.is_some();
    plan.shrunk.extend(suspect(history, &good, now).or(shrunk));
    for (list, are_good) in [(good, true), (other, false)] {
        let reasons = reasons(policy, &list, zone);
        for (index, (snapshot, mut reasons)) in list.iter().zip(reasons).enumerate() {
            if are_good && index == 0 {
                reasons.insert(Reason::NewestProven);
            }
            if is_frozen {
                reasons.insert(Reason::Shrunk);
            }
            if reasons.is_empty() {
                plan.drop.push(Dropped { id: snapshot.id, time: snapshot.time });
            } else {
                plan.keep.push(Kept { id: snapshot.id, reasons: reasons.into_iter().collect() });
            }
        }
    }
}

/// The reasons of restic's rules to keep each snapshot of the list, which is sorted by time, the newest first.
fn reasons(policy: &Retention, list: &[SnapshotRecord<'_>], zone: &TimeZone) -> Vec<BTreeSet<Reason>> {
    if policy.is_empty() {
        return vec![BTreeSet::from([Reason::NoPolicy]); list.len()];
    }
    let mut counters = [
        (Rule::Last, policy.keep_last),
        (Rule::Hourly, policy.keep_hourly),
        (Rule::Daily, policy.keep_daily),
        (Rule::Weekly, policy.keep_weekly),
        (Rule::Monthly, policy.keep_monthly),
        (Rule::Yearly, policy.keep_yearly),
    ]
    .map(|(rule, count)| Counter { rule, left: count.unwrap_or(0), period: None });
    let youngest = list.first().map(|newest| newest.time.to_zoned(zone.clone()));
    // A begin beyond the calendar's limits keeps all snapshots.
    let within = policy.keep_within.zip(youngest).map(|(age, newest)| newest.checked_sub(age.span()).ok());
    list.iter()
        .enumerate()
        .map(|(index, snapshot)| {
            let time = snapshot.time.to_zoned(zone.clone());
            let mut reasons = BTreeSet::new();
            if policy.keep_tags.iter().any(|tag| snapshot.identity.has_tag(tag)) {
                reasons.insert(Reason::Tag);
            }
            if within.as_ref().is_some_and(|begin| begin.as_ref().is_none_or(|begin| time > *begin)) {
                reasons.insert(Reason::Within);
            }
            let is_oldest = index + 1 == list.len();
            reasons.extend(counters.iter_mut().filter_map(|counter| counter.count(index, &time, is_oldest)));
            reasons
        })
        .collect()
}

/// The number of snapshots which a rule still keeps, and the period of the last one which it kept.
struct Counter {
    rule: Rule,
    left: u32,
    period: Option<[i64; 4]>,
}

impl Counter {
    fn count(&mut self, index: usize, time: &Zoned, is_oldest: bool) -> Option<Reason> {
        if self.left == 0 {
            return None;
        }
        let period = Some(period(self.rule, index, time));
        if period == self.period {
            return is_oldest.then_some(Reason::Oldest(self.rule));
        }
        self.period = period;
        self.left -= 1;
        Some(Reason::Rule(self.rule))
    }
}

/// The period of a snapshot. A rule keeps one snapshot of each period.
fn period(rule: Rule, index: usize, time: &Zoned) -> [i64; 4] {
    let (year, month, day) = (time.year().into(), time.month().into(), time.day().into());
    match rule {
        Rule::Last => [i64::try_from(index).unwrap_or(i64::MAX), 0, 0, 0],
        Rule::Hourly => [year, month, day, time.hour().into()],
        Rule::Daily => [year, month, day, 0],
        Rule::Weekly => {
            let week = time.date().iso_week_date();
            [week.year().into(), week.week().into(), 0, 0]
        }
        Rule::Monthly => [year, month, 0, 0],
        Rule::Yearly => [year, 0, 0, 0],
    }
}

/// Whether the newest snapshot is implausibly small compared to the median size of those before it, so that four small
/// snapshots in a row become the usual size. Snapshots older than one with the tag `SHRUNKEN` are not compared, because
/// the user accepted the new size.
fn shrunk<'a>(good: &[SnapshotRecord<'a>]) -> Option<Shrunk<'a>> {
    let (newest, before) = good.split_first()?;
    let bytes = newest.bytes?;
    let since = good.iter().position(|snapshot| snapshot.identity.has_tag(SnapshotIdentity::SHRUNKEN));
    let comparable = before.iter().take(since.unwrap_or(good.len())).take(USUAL_OF);
    let mut sizes: Vec<u64> = comparable.filter_map(|snapshot| snapshot.bytes).collect();
    sizes.sort_unstable();
    let (usual, is_absurd) = if sizes.len() < USUAL_AT_LEAST {
        let largest = *sizes.last()?;
        let is_absurd = largest >= SMALLEST_BYTES && bytes.saturating_mul(ABSURD_FACTOR) < largest;
        (largest, is_absurd && is_stream(newest))
    } else {
        let usual = sizes[sizes.len() / 2];
        (usual, has_lost_most(usual, bytes, SMALLEST_BYTES))
    };
    is_absurd.then(|| Shrunk { source: source_of(newest), newest: newest.id, bytes, usual, is_suspect: false })
}

/// The newest suspect snapshot, unless a good one is newer. It shows the present state of the source.
fn suspect<'a>(history: &[SnapshotRecord<'a>], good: &[SnapshotRecord<'a>], now: Timestamp) -> Option<Shrunk<'a>> {
    let newest = history.iter().find(|snapshot| matches!(snapshot.quality(now), Quality::Proven | Quality::Suspect))?;
    (newest.quality(now) == Quality::Suspect).then(|| Shrunk {
        source: source_of(newest),
        newest: newest.id,
        bytes: newest.bytes.unwrap_or(0),
        usual: good.first().and_then(|last| last.bytes).unwrap_or(0),
        is_suspect: true,
    })
}

/// Whether the snapshot is a stream that Stowaway stored, and not the content of a device.
fn is_stream(snapshot: &SnapshotRecord<'_>) -> bool {
    snapshot.identity.tag(SnapshotIdentity::DIGEST).is_some() && !snapshot.identity.has_tag(SnapshotIdentity::DEVICE)
}

fn source_of<'a>(snapshot: &SnapshotRecord<'a>) -> &'a str {
    snapshot.identity.tag(SnapshotIdentity::SOURCE).unwrap_or(&snapshot.identity.path)
}

#[cfg(test)]
mod tests;
