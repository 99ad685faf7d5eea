//! Which snapshots of a repository are kept, and which are dropped.
//!
//! The rules are restic's (`forget` of 0.19), with three differences, each to lose less: what is proven and what is not are
//! judged apart, so that nothing unproven takes the place of something proven; the newest proven snapshot of a source is
//! never dropped; and of a source that has shrunk absurdly nothing is. It must not know repositories.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::model::{Retention, SnapshotIdentity};

/// One snapshot to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its id.
    pub id: &'a str,
    /// When it was made.
    pub time: Timestamp,
    /// Host, path and tags.
    pub identity: &'a SnapshotIdentity,
    /// All its paths.
    pub paths: &'a [String],
    /// Bytes of all its files, where its writer said so.
    pub bytes: Option<u64>,
}

impl Candidate<'_> {
    /// Whether it was proven whole, is complete, and was made for its own sake. What others wrote says nothing of it, and counts as they meant it.
    pub(super) fn is_good(&self) -> bool {
        let tags = [SnapshotIdentity::UNPROVEN, SnapshotIdentity::INCOMPLETE, SnapshotIdentity::SAFETY];
        !tags.iter().any(|tag| self.identity.has_tag(tag))
    }

    /// Whose history it belongs to. Those of other writers are grouped by host and paths, as restic does.
    fn history(&self) -> String {
        let cluster = self.identity.tag(SnapshotIdentity::CLUSTER).unwrap_or_default();
        match self.identity.tag(SnapshotIdentity::SOURCE) {
            // A blank is in no name, and a newline in no path that anybody meant.
            Some(source) => format!("{cluster} {} {source}", self.identity.host),
            None => format!("\n{}\n{}", self.identity.host, self.paths.join("\n")),
        }
    }
}

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
    /// Id of its newest proven snapshot.
    pub newest: &'a str,
    /// Bytes of that one.
    pub bytes: u64,
    /// What was usual before.
    pub usual: u64,
}

impl fmt::Display for Shrunk<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the newest snapshot of {} has {} bytes, and {} were usual; nothing of it is dropped until its size is usual again",
            self.source, self.bytes, self.usual
        )
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
}

/// Less than this part of what is usual is absurd.
const ABSURD_PART: u64 = 2;
/// So many before the newest say what is usual.
const USUAL_OF: usize = 7;
/// Fewer say nothing.
const USUAL_AT_LEAST: usize = 3;
/// Below this, a few lines more or less are half of it.
const SMALLEST_USUAL_BYTES: u64 = 64 * 1024;

/// Judges all snapshots of a repository, each source by itself. Hours and days are those of `zone`.
///
/// Each snapshot is in exactly one of the two lists.
pub fn plan_retention<'a>(policy: &Retention, snapshots: &[Candidate<'a>], zone: &TimeZone) -> RetentionPlan<'a> {
    let mut histories: BTreeMap<String, Vec<Candidate<'a>>> = BTreeMap::new();
    for snapshot in snapshots {
        histories.entry(snapshot.history()).or_default().push(*snapshot);
    }
    let mut plan = RetentionPlan::default();
    for mut history in histories.into_values() {
        // Newest first.
        history.sort_by(|one, other| (other.time, other.id).cmp(&(one.time, one.id)));
        judge(policy, &history, zone, &mut plan);
    }
    plan.drop.sort_by(|one, other| (one.time, one.id).cmp(&(other.time, other.id)));
    plan
}

fn judge<'a>(policy: &Retention, history: &[Candidate<'a>], zone: &TimeZone, plan: &mut RetentionPlan<'a>) {
    let (good, other): (Vec<Candidate<'a>>, Vec<Candidate<'a>>) =
        history.iter().partition(|candidate| candidate.is_good());
    let shrunk = shrunk(&good);
    for (list, are_good) in [(good, true), (other, false)] {
        let reasons = reasons(policy, &list, zone);
        for (index, (snapshot, mut reasons)) in list.iter().zip(reasons).enumerate() {
            if are_good && index == 0 {
                reasons.insert(Reason::NewestProven);
            }
            if shrunk.is_some() {
                reasons.insert(Reason::Shrunk);
            }
            if reasons.is_empty() {
                plan.drop.push(Dropped { id: snapshot.id, time: snapshot.time });
            } else {
                plan.keep.push(Kept { id: snapshot.id, reasons: reasons.into_iter().collect() });
            }
        }
    }
    plan.shrunk.extend(shrunk);
}

/// restic's rules, for each of a list that has the newest first.
fn reasons(policy: &Retention, list: &[Candidate<'_>], zone: &TimeZone) -> Vec<BTreeSet<Reason>> {
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

/// Whether the newest of these is absurdly small. Four small ones in a row are what is usual then.
fn shrunk<'a>(good: &[Candidate<'a>]) -> Option<Shrunk<'a>> {
    let (newest, before) = good.split_first()?;
    let bytes = newest.bytes?;
    let mut sizes: Vec<u64> = before.iter().take(USUAL_OF).filter_map(|snapshot| snapshot.bytes).collect();
    if sizes.len() < USUAL_AT_LEAST {
        return None;
    }
    sizes.sort_unstable();
    let usual = sizes[sizes.len() / 2];
    let source = newest.identity.tag(SnapshotIdentity::SOURCE).unwrap_or(&newest.identity.path);
    let is_absurd = usual >= SMALLEST_USUAL_BYTES && bytes < usual / ABSURD_PART;
    is_absurd.then_some(Shrunk { source, newest: newest.id, bytes, usual })
}

#[cfg(test)]
mod tests;
