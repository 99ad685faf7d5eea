//! Which snapshots of a repository are kept, and which are dropped.
//!
//! The rules are restic's (`forget` of 0.19), with four differences, each to lose less: what is good and what is not are
//! judged apart, so that nothing unproven or suspect takes the place of something proven; the newest good snapshot of a
//! source is never dropped; of a source that has shrunk absurdly nothing is; and a snapshot dated in the future is kept, and
//! counts for nothing until its time has come. It must not know repositories.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::model::{Quality, Retention, SMALLEST_BYTES, SnapshotIdentity, SnapshotRecord, has_lost_most};

/// A snapshot that is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept<'a> {
    /// Its id.
    pub id: &'a str,
    /// Why; never empty.
    pub reasons: Vec<Reason>,
}

/// A snapshot that is dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dropped<'a> {
    /// Its id.
    pub id: &'a str,
    /// When it was made.
    pub time: Timestamp,
}

/// A source whose newest snapshot is absurdly smaller than those before it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shrunk<'a> {
    /// The source's name, else the first path.
    pub source: &'a str,
    /// Id of its newest snapshot that is complete.
    pub newest: &'a str,
    /// Bytes of that one.
    pub bytes: u64,
    /// What was usual before.
    pub usual: u64,
    /// Whether that snapshot is tagged as suspect, so that the good ones before it stay whatever it holds.
    pub is_suspect: bool,
}

impl fmt::Display for Shrunk<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, newest, bytes, usual, is_suspect } = self;
        write!(formatter, "the newest snapshot of {source} has {bytes} bytes, and {usual} were usual; ")?;
        if *is_suspect {
            write!(
                formatter,
                "it is suspect, and takes the place of no good one until `restic tag --remove suspect {newest}` accepts it"
            )
        } else {
            formatter.write_str("nothing of it is dropped until its size is usual again")
        }
    }
}

/// Why a snapshot is kept.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// The policy says nothing at all.
    NoPolicy,
    /// The newest proven one of its source.
    NewestProven,
    /// Its source has shrunk.
    Shrunk,
    /// It is dated later than now.
    FromFuture,
    /// It carries a tag of `keepTags`.
    Tag,
    /// It is younger than `keepWithin`.
    Within,
    /// By this rule.
    Rule(Rule),
    /// The oldest of all, while a rule's count is not used up.
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
            Self::Rule(rule) => formatter.write_str(rule.word()),
            Self::Oldest(rule) => write!(formatter, "oldest {}", rule.word()),
        }
    }
}

/// The rules that count.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs, reason = "the fields of `Retention` of that name say it")]
pub enum Rule {
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl Rule {
    fn word(self) -> &'static str {
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

/// What becomes of each snapshot.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RetentionPlan<'a> {
    /// These stay.
    pub keep: Vec<Kept<'a>>,
    /// These go, oldest first.
    pub drop: Vec<Dropped<'a>>,
    /// Sources to be alarmed about.
    pub shrunk: Vec<Shrunk<'a>>,
    /// Snapshots that are dated later than now: the clock of their writer was wrong, or this one is.
    pub from_future: Vec<SnapshotRecord<'a>>,
}

/// So many before the newest say what is usual.
const USUAL_OF: usize = 7;
/// Fewer say nothing.
const USUAL_AT_LEAST: usize = 3;

/// Judges all snapshots of a repository, each source by itself. Hours and days are those of `zone`.
///
/// Each snapshot is in exactly one of the two lists.
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

/// restic's rules, for each of a list that has the newest first.
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
    // Further back than the calendar goes is all there is.
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

/// How many a rule has left, and in which period the last one was.
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

/// Equal for two that only one of is kept.
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

/// Whether the newest of these is absurdly small. Four small ones in a row are what is usual then; and what is older than a
/// volume that shrank by consent reveals nothing about it.
fn shrunk<'a>(good: &[SnapshotRecord<'a>]) -> Option<Shrunk<'a>> {
    let (newest, before) = good.split_first()?;
    let bytes = newest.bytes?;
    let since = good.iter().position(|snapshot| snapshot.identity.has_tag(SnapshotIdentity::SHRUNKEN));
    let comparable = before.iter().take(since.unwrap_or(good.len())).take(USUAL_OF);
    let mut sizes: Vec<u64> = comparable.filter_map(|snapshot| snapshot.bytes).collect();
    if sizes.len() < USUAL_AT_LEAST {
        return None;
    }
    sizes.sort_unstable();
    let usual = sizes[sizes.len() / 2];
    let is_absurd = has_lost_most(usual, bytes, SMALLEST_BYTES);
    is_absurd.then(|| Shrunk { source: source_of(newest), newest: newest.id, bytes, usual, is_suspect: false })
}

/// Whether the source is now as its newest suspect snapshot shows it: no good one is newer.
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

fn source_of<'a>(snapshot: &SnapshotRecord<'a>) -> &'a str {
    snapshot.identity.tag(SnapshotIdentity::SOURCE).unwrap_or(&snapshot.identity.path)
}

#[cfg(test)]
mod tests;
