//! Tests of locks: which locks of other clients are respected or removed, and how a lock is refreshed.

use std::path::Path;

use futures::future::BoxFuture;
use jiff::SignedDuration;
use tokio::{sync::Notify, task::yield_now};

use super::*;
use crate::{OpenOptions, Timeouts, fixtures::access, format::MasterKey};

const HASTY: RefreshTiming =
    RefreshTiming { refresh: Duration::from_millis(5), retry: Duration::ZERO, lost: Duration::from_mins(20) };
/// The timing of a holder that gives up soon.
const SHORT: RefreshTiming = RefreshTiming { lost: Duration::from_millis(200), ..HASTY };

struct Setup {
    folder: tempfile::TempDir,
    store: Store,
    cipher: Cipher,
}

fn setup() -> Setup {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config"), "").unwrap();
    let access = OpenOptions {
        timeouts: Timeouts { request: Duration::from_secs(30), retries: Duration::ZERO, outage: Duration::ZERO },
        ..access(folder.path())
    };
    let store = Store::new(&access, CancellationToken::new()).unwrap();
    Setup { folder, store, cipher: Cipher::of(&MasterKey::new()) }
}

fn locks(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder.join("locks")).into_iter().flatten();
    // A file that is being written has a dot before its name.
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).filter(|name| !name.starts_with('.')).collect()
}

/// A probe that gives the same answer for every holder.
#[derive(Debug)]
struct FixedProbe(Liveness);

impl LockOwnerProbe for FixedProbe {
    fn probe<'a>(&'a self, _: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        Box::pin(async { self.0 })
    }
}

fn probed(liveness: Liveness) -> LockRules {
    LockRules { probe: Arc::new(FixedProbe(liveness)), wait: Duration::ZERO }
}

impl Setup {
    async fn foreign(&self, exclusive: bool, age: SignedDuration) -> Id {
        self.leased(exclusive, age, None).await
    }

    async fn leased(&self, exclusive: bool, age: SignedDuration, lease_seconds: Option<u64>) -> Id {
        let file = LockFile {
            time: Timestamp::now() - age,
            exclusive,
            hostname: "admin".into(),
            username: "root".into(),
            pid: 7,
            uid: 0,
            gid: 0,
            lease_seconds,
        };
        file::write(&self.store, &self.cipher, 2, &file).await.unwrap()
    }

    fn wanted(&self, exclusive: bool) -> LockRequest {
        self.wanted_to(if exclusive { Purpose::Remove } else { Purpose::Write })
    }

    fn wanted_to(&self, purpose: Purpose) -> LockRequest {
        let holder = LockHolder { host: "runner".into(), user: "pod UID 1".into() };
        LockRequest { store: self.store.clone(), cipher: self.cipher.clone(), version: 2, holder, purpose }
    }

    async fn take(&self, timing: RefreshTiming) -> Result<Lock, RepositoryError> {
        self.wanted(false).try_to_take(&LockRules::default(), timing, &mut ObservedLocks::default()).await
    }
}

#[tokio::test]
async fn locks_exclude_each_other_as_restics_do() {
    for (own, foreign, may) in [(false, false, true), (false, true, false), (true, false, false), (true, true, false)] {
        let setup = setup();
        setup.foreign(foreign, SignedDuration::from_mins(29)).await;
        let taken = setup.wanted(own).take(&LockRules::default()).await;
        assert_eq!(taken.is_ok(), may, "own lock exclusive: {own}, foreign lock: {foreign}");
        if let Err(error) = taken {
            assert!(error.to_string().contains("root on admin (process 7)"), "{error}");
            assert_eq!(locks(setup.folder.path()).len(), 1, "the own lock is not left behind");
        }
    }
}

#[tokio::test]
async fn stale_locks_are_removed_and_shared_locks_stay() {
    let setup = setup();
    for exclusive in [true, false] {
        setup.foreign(exclusive, SignedDuration::from_mins(31)).await;
    }
    // Locks whose holder's clock is ahead.
    setup.foreign(true, SignedDuration::from_hours(-24 * 400)).await;
    setup.foreign(false, SignedDuration::from_mins(-5)).await;
    let lock = setup.take(SHARED).await.unwrap();
    assert_eq!(locks(setup.folder.path()).len(), 2);
    lock.release().await;
    assert_eq!(locks(setup.folder.path()).len(), 1);
}

#[tokio::test]
async fn lock_of_a_dead_holder_is_removed_at_once_and_that_of_a_living_holder_never() {
    let fresh = SignedDuration::ZERO;
    let stale = SignedDuration::from_hours(5);
    for (liveness, age, is_honoured) in [
        (Liveness::Dead, fresh, false),
        (Liveness::Unknown, fresh, true),
        (Liveness::Unknown, stale, false),
        (Liveness::Alive, stale, true),
    ] {
        let setup = setup();
        setup.foreign(true, age).await;
        let taken = setup.wanted(true).take(&probed(liveness)).await;
        assert_eq!(taken.is_err(), is_honoured, "{liveness:?}, {age:?}");
        assert_eq!(locks(setup.folder.path()).len(), 1, "the foreign or the own lock: {liveness:?}, {age:?}");
    }
}

#[tokio::test]
async fn only_a_process_that_is_gone_from_this_host_is_dead() {
    let holder = LockHolder { host: "here".into(), user: "me".into() };
    let probe = ProcessesHere { holder: holder.clone() };
    let lock = |holder: &LockHolder, process| FoundLock {
        id: String::new(),
        holder: holder.clone(),
        process,
        exclusive: true,
        refreshed: Timestamp::UNIX_EPOCH,
    };
    // Higher than any PID of Linux.
    let gone = 1 << 30;
    assert_eq!(probe.probe(&lock(&holder, gone)).await, Liveness::Dead);
    assert_eq!(probe.probe(&lock(&holder, std::process::id())).await, Liveness::Unknown);
    for other in [LockHolder { host: "there".into(), ..holder.clone() }, LockHolder { user: "you".into(), ..holder }] {
        assert_eq!(probe.probe(&lock(&other, gone)).await, Liveness::Unknown, "{other:?}");
    }
}

#[tokio::test]
async fn process_that_is_numbered_in_another_namespace_or_boot_is_not_probed() {
    let here = LockHolder::of_this_process("here".into(), "me");
    assert_eq!(here, LockHolder::of_this_process("here".into(), "me"));
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap().to_str().unwrap().to_owned();
    let probe = ProcessesHere { holder: here.clone() };
    let probed = async |user: String| {
        let holder = LockHolder { user, ..here.clone() };
        let (id, refreshed) = (String::new(), Timestamp::UNIX_EPOCH);
        probe.probe(&FoundLock { id, holder, process: 1 << 30, exclusive: true, refreshed }).await
    };
    assert_eq!(probed(here.user.clone()).await, Liveness::Dead);
    let (before, boot) = here.user.split_once(" boot ").unwrap();
    assert!(before.ends_with(&own), "{here:?}");
    for other in [
        here.user.replace(&own, "pid:[7]"),
        format!("{before} boot {}", boot.chars().rev().collect::<String>()),
        // The user as restic writes it, and as older versions of this program did.
        "me".to_owned(),
    ] {
        assert_eq!(probed(other.clone()).await, Liveness::Unknown, "{other}");
    }
}

/// A probe that notifies the test when it is called.
#[derive(Debug, Default)]
struct NotifyingProbe(Notify);

impl LockOwnerProbe for NotifyingProbe {
    fn probe<'a>(&'a self, _: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        self.0.notify_one();
        Box::pin(async { Liveness::Alive })
    }
}

#[tokio::test]
async fn conflicting_lock_is_waited_for_until_it_is_removed() {
    let setup = setup();
    let foreign = setup.foreign(true, SignedDuration::ZERO).await;
    let wanted = setup.wanted(false);
    let probe = Arc::new(NotifyingProbe::default());
    let rules = LockRules { probe: probe.clone(), wait: Duration::from_hours(1) };
    let taking = wanted.take(&rules);
    let ending = async {
        probe.0.notified().await;
        setup.store.remove(Kind::Lock, &foreign).await.unwrap();
    };
    let (taken, ()) = futures::join!(taking, ending);
    taken.unwrap();
}

#[tokio::test]
async fn waiting_for_a_lock_ends() {
    let setup = setup();
    setup.foreign(true, SignedDuration::ZERO).await;
    let rules = LockRules { wait: Duration::from_millis(20), ..LockRules::default() };
    let error = setup.wanted(false).take(&rules).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Locked { .. }), "{error}");
    let rules = LockRules { wait: Duration::from_hours(1), ..LockRules::default() };
    setup.store.cancel().cancel();
    let error = setup.wanted(false).take(&rules).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Cancelled { .. }), "{error}");
}

impl Setup {
    /// Writes an invalid lock file with this age.
    fn corrupt(&self, content: &[u8], age: Duration) -> String {
        let folder = self.folder.path().join("locks");
        std::fs::create_dir_all(&folder).unwrap();
        let name = crate::crypto::id_of(&[content, &age.as_secs().to_le_bytes()[..]].concat());
        let name = name.to_hex();
        std::fs::write(folder.join(&name), content).unwrap();
        let file = std::fs::File::options().write(true).open(folder.join(&name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - age).unwrap();
        name
    }

    async fn unlock(&self, which: Unlock) -> Unlocked {
        remove_locks(&self.store, &self.cipher, &NoProbe, which).await.unwrap()
    }
}

#[tokio::test]
async fn unreadable_lock_conflicts_as_long_as_it_may_be_a_lock() {
    let (young, old) = (Duration::from_mins(1), Duration::from_mins(31));
    for (content, age, shared_may, exclusive_may) in [
        (&b""[..], young, true, false),
        (b"", old, true, true),
        (b"corrupt", young, false, false),
        (b"corrupt", old, true, true),
    ] {
        let setup = setup();
        let name = setup.corrupt(content, age);
        for (exclusive, may) in [(false, shared_may), (true, exclusive_may)] {
            let taken =
                setup.wanted(exclusive).try_to_take(&LockRules::default(), SHARED, &mut ObservedLocks::default()).await;
            assert_eq!(taken.is_ok(), may, "{content:?}, {age:?}, exclusive: {exclusive}");
            match taken {
                Ok(lock) => lock.release().await,
                Err(error) => {
                    assert!(matches!(error, RepositoryError::Locked { .. }), "{error}");
                    assert!(
                        error.to_string().contains(&name) && error.to_string().contains("stowaway unlock"),
                        "{error}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn unlock_continues_after_an_unreadable_lock() {
    let setup = setup();
    for age in [Duration::from_mins(1), Duration::from_mins(31)] {
        setup.corrupt(b"", age);
        setup.corrupt(b"corrupt", age);
    }
    setup.foreign(true, SignedDuration::from_mins(31)).await;
    setup.foreign(false, SignedDuration::ZERO).await;
    let unlocked = setup.unlock(Unlock::Dead).await;
    let counts = (unlocked.removed.len(), unlocked.removed_unreadable.len(), unlocked.kept_unreadable.len());
    assert_eq!((counts, unlocked.failed.len()), ((1, 2, 2), 0));
    let unlocked = setup.unlock(Unlock::All).await;
    assert_eq!((unlocked.removed.len(), unlocked.removed_unreadable.len()), (1, 2));
    assert!(locks(setup.folder.path()).is_empty());
}

#[tokio::test]
async fn unlock_removes_only_locks_of_dead_holders_unless_all_are_requested() {
    let setup = setup();
    setup.foreign(true, SignedDuration::ZERO).await;
    setup.foreign(true, SignedDuration::from_mins(31)).await;
    assert_eq!(setup.unlock(Unlock::Dead).await.removed.len(), 1);
    assert_eq!(locks(setup.folder.path()).len(), 1);
    setup.unlock(Unlock::All).await;
    assert!(locks(setup.folder.path()).is_empty());
}

#[tokio::test]
async fn lock_is_refreshed_by_a_newer_file() {
    let setup = setup();
    let lock = setup.take(HASTY).await.unwrap();
    let first = locks(setup.folder.path());
    while locks(setup.folder.path()).iter().any(|name| first.contains(name)) {
        yield_now().await;
    }
    lock.check(&setup.store).await.unwrap();
    lock.release().await;
    assert!(locks(setup.folder.path()).is_empty());
}

#[tokio::test]
async fn lock_that_another_client_removed_is_lost_and_not_renewed() {
    let setup = setup();
    let lock = setup.take(HASTY).await.unwrap();
    let folder = setup.folder.path().join("locks");
    // A refresh may have checked the file just before the removal. The refresh after that must not renew the lock.
    let mut removed = 0;
    while !lock.lost().is_cancelled() {
        for name in locks(setup.folder.path()) {
            removed += usize::from(std::fs::remove_file(folder.join(name)).is_ok());
        }
        assert!(removed < 100, "it is renewed again and again");
        yield_now().await;
    }
    let error = lock.check(&setup.store).await.unwrap_err();
    assert!(matches!(error, RepositoryError::LockLost { .. }), "{error}");
}

#[tokio::test]
async fn lock_that_cannot_be_refreshed_is_lost() {
    let setup = setup();
    let lock = setup.take(SHORT).await.unwrap();
    let folder = setup.folder.path().join("locks");
    // The folder is replaced by a file, into which even root cannot write. The loop is needed because a refresh may be
    // running.
    while std::fs::remove_dir_all(&folder).and_then(|()| std::fs::write(&folder, "")).is_err() {
        yield_now().await;
    }
    lock.lost().cancelled().await;
    let error = lock.check(&setup.store).await.unwrap_err();
    assert!(matches!(error, RepositoryError::LockLost { .. }), "{error}");
}

/// Returns the observations of a client that has observed the current lock files for this long.
async fn seen_for(setup: &Setup, time: Duration) -> ObservedLocks {
    let mut seen = ObservedLocks::default();
    let first = Instant::now().checked_sub(time).unwrap();
    for file in setup.store.list(Kind::Lock).await.unwrap() {
        seen.unchanged_for(file, first);
    }
    seen
}

async fn may_take(setup: &Setup, purpose: Purpose, rules: &LockRules, seen: &mut ObservedLocks) -> bool {
    let taken = setup.wanted_to(purpose).try_to_take(rules, SHARED, seen).await;
    if let Ok(lock) = &taken {
        lock.release().await;
    }
    taken.is_ok()
}

#[tokio::test]
async fn reader_does_not_wait_for_an_exclusive_lock_whose_holder_has_stopped() {
    let (fresh, lease) = (SignedDuration::ZERO, Some(300));
    let (long, short) = (Duration::from_mins(7), Duration::from_mins(6));
    for (purpose, lease, time, liveness, may) in [
        (Purpose::Read, lease, long, Liveness::Unknown, true),
        (Purpose::Read, lease, short, Liveness::Unknown, false),
        (Purpose::Read, lease, long, Liveness::Alive, false),
        // A lock of restic, or of an older version of Stowaway.
        (Purpose::Read, None, long, Liveness::Unknown, false),
        (Purpose::Write, lease, long, Liveness::Unknown, false),
        (Purpose::Remove, lease, long, Liveness::Unknown, false),
    ] {
        let setup = setup();
        setup.leased(true, fresh, lease).await;
        let mut seen = seen_for(&setup, time).await;
        let found = may_take(&setup, purpose, &probed(liveness), &mut seen).await;
        assert_eq!(found, may, "{purpose:?}, {lease:?}, {time:?}, {liveness:?}");
        assert_eq!(locks(setup.folder.path()).len(), 1, "a reader does not remove it");
    }
}

#[tokio::test]
async fn message_about_a_lock_states_how_long_a_restore_waits_for_it() {
    for (purpose, lease, is_short) in
        [(Purpose::Read, Some(300), true), (Purpose::Read, None, false), (Purpose::Write, Some(300), false)]
    {
        let setup = setup();
        setup.leased(true, SignedDuration::ZERO, lease).await;
        let error = setup.wanted_to(purpose).take(&LockRules::default()).await.unwrap_err().to_string();
        assert_eq!(error.contains("a restore waits for its lock for at most 7 minutes"), is_short, "{error}");
        assert!(error.contains("`stowaway unlock` removes the lock 30 minutes after the last refresh"), "{error}");
    }
}

#[tokio::test]
async fn holder_that_refreshes_excludes_readers_however_long_they_wait() {
    let setup = setup();
    let old = setup.leased(true, SignedDuration::ZERO, Some(300)).await;
    let mut seen = seen_for(&setup, Duration::from_hours(1)).await;
    setup.leased(true, SignedDuration::from_millis(-1), Some(300)).await;
    setup.store.remove(Kind::Lock, &old).await.unwrap();
    assert!(!may_take(&setup, Purpose::Read, &LockRules::default(), &mut seen).await);
}

#[tokio::test]
async fn all_locks_of_a_dead_prune_are_observed_from_the_first_check_on() {
    let setup = setup();
    for age in [0, 1] {
        setup.leased(true, SignedDuration::from_mins(age), Some(300)).await;
    }
    let mut seen = ObservedLocks::default();
    assert!(!may_take(&setup, Purpose::Read, &LockRules::default(), &mut seen).await);
    let later = Instant::now() + Duration::from_mins(7);
    for file in setup.store.list(Kind::Lock).await.unwrap() {
        assert!(seen.unchanged_for(file, later) >= Duration::from_mins(7));
    }
}

#[tokio::test]
async fn exclusive_lock_contains_a_lease_and_a_shared_lock_does_not() {
    for (exclusive, expected) in [(true, Some(Duration::from_mins(5))), (false, None)] {
        let setup = setup();
        let lock = setup.wanted(exclusive).take(&LockRules::default()).await.unwrap();
        let id = lock.current().await.unwrap();
        let Some(file::Content::Lock(found, lease)) = file::read(&setup.store, &setup.cipher, &id).await.unwrap()
        else {
            panic!("no lock")
        };
        assert_eq!((found.exclusive, lease), (exclusive, expected));
        lock.release().await;
    }
}

#[tokio::test]
async fn lease_counts_from_before_the_file_was_there_and_by_both_clocks() {
    let lease = Duration::from_mins(5);
    let now = RefreshTime::now();
    assert!(now.left(lease) > Duration::from_mins(4));
    let awake = RefreshTime { instant: Instant::now().checked_sub(lease).unwrap(), ..now };
    let suspended = RefreshTime { time: Timestamp::now() - SignedDuration::from_mins(5), ..now };
    let clock_was_set_back = RefreshTime { time: Timestamp::now() + SignedDuration::from_hours(1), ..now };
    assert_eq!((awake.left(lease), suspended.left(lease)), (Duration::ZERO, Duration::ZERO));
    assert!(clock_was_set_back.left(lease) > Duration::from_mins(4));
}

#[tokio::test]
async fn lock_file_that_stays_unreadable_is_ignored_once_it_would_have_been_refreshed() {
    for content in [&b""[..], b"corrupt"] {
        for purpose in [Purpose::Read, Purpose::Write, Purpose::Remove] {
            let setup = setup();
            setup.corrupt(content, Duration::from_mins(1));
            let mut seen = seen_for(&setup, Duration::from_mins(6)).await;
            let is_passed = content.is_empty() && purpose != Purpose::Remove;
            assert_eq!(may_take(&setup, purpose, &LockRules::default(), &mut seen).await, is_passed, "{purpose:?}");
            let mut seen = seen_for(&setup, Duration::from_mins(7)).await;
            assert!(may_take(&setup, purpose, &LockRules::default(), &mut seen).await, "{purpose:?}");
        }
    }
}

#[tokio::test]
async fn lock_outlives_an_outage_of_its_store_that_is_shorter_than_its_lease() {
    let setup = setup();
    let lock = setup.take(HASTY).await.unwrap();
    let (folder, away) = (setup.folder.path().join("locks"), setup.folder.path().join("away"));
    // The folder is replaced by a file, so that every request fails. The loop is needed because a refresh may be
    // running.
    while std::fs::rename(&folder, &away).and_then(|()| std::fs::write(&folder, "")).is_err() {
        yield_now().await;
    }
    let failed = setup.store.stat(Kind::Lock, &lock.current().await.unwrap()).await;
    assert!(failed.is_err() && !lock.lost().is_cancelled(), "{failed:?}");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    let first = lock.current().await;
    while lock.current().await == first {
        yield_now().await;
    }
    lock.check(&setup.store).await.unwrap();
}
