//! Backups to a store that fails, hangs, disappears or is full, and to a repository with a missing or wrong password.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use serde_json::json;
use stowaway::model::{BackendConfig, Reason, Verdict};
use stowaway_e2e::{
    Kind, Namespace, Restic, Runner, S3, Sequence, Workload,
    fault::{Fault, FaultProxy, Rule},
    in_namespace, process,
    runs::{all_green, ended, ensure_contains, known, source},
    skipped,
    store::{self, PASSWORD},
    workload::CONTAINER,
};

const SOURCE: &str = "pod/box/main";
/// A stream of several packs, so that the store can fail in the middle.
const STREAM: Sequence = Sequence::new(Kind::Random, 8, 60 << 20);

/// A fault of the store, and the event after it.
struct Case {
    name: &'static str,
    rule: Rule,
    then: Then,
}

/// The event after the first fault. The runner waits for an unreachable store for longer than a test can take, so each
/// case has an event that ends the wait.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Then {
    Nothing,
    /// The store works again.
    Recovers,
    /// The runner is terminated.
    Terminates,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_hangs_or_disappears_leaves_nothing_visible() -> Result<()> {
    let case = |name, rule, then| Case { name, rule, then };
    let cases = [
        case("fails-twice", Rule::always(Fault::Unavailable).on("PUT", "/data/").times(2), Then::Nothing),
        case("is-busy", Rule::always(Fault::Unavailable).on("PUT", "/data/").after(1), Then::Recovers),
        case("hangs", Rule::always(Fault::Hang).on("PUT", "/data/").after(1), Then::Terminates),
        case(
            "disappears",
            Rule::always(Fault::Unreachable).on("PUT", "/data/").after(1).then_unreachable(),
            Then::Recovers,
        ),
        case(
            "disappears-late",
            Rule::always(Fault::Unreachable).on("PUT", "/index/").then_unreachable(),
            Then::Terminates,
        ),
    ];
    in_namespace("store", async |namespace: &Namespace| {
        let server = S3::shared(namespace).await?;
        let pod = Workload::dumping(namespace, "box", &STREAM).start(namespace).await?;
        let restic = server.restic();
        Runner::new(namespace, server.backend(server.from_here))?.create_repository().await?;
        let expected = known(&[(SOURCE, &STREAM)]);
        let reports = try_join_all(cases.iter().map(async |case| {
            let proxy = FaultProxy::start(server.from_here).await?;
            let runner = Runner::new(namespace, server.backend(proxy.address()))?;
            proxy.set_rule(Some(case.rule.clone()));
            let run = runner.start(runner.backup(&pod, None, case.name)?)?;
            let has_failed = async || Ok((proxy.faults() > 0).then_some(()));
            namespace.wait_until(&format!("the store fails: {}", case.name), has_failed).await?;
            match case.then {
                Then::Nothing => {}
                Then::Recovers => proxy.set_rule(None),
                Then::Terminates => run.signal("TERM")?,
            }
            let ended = run.ended().await?;
            if case.then == Then::Terminates {
                ended.is(Verdict::Failed, &[Reason::Cancelled])?;
            } else {
                ended.is(Verdict::Succeeded, &[Reason::Completed])?;
            }
            anyhow::Ok((case.name, ended.report))
        }))
        .await?;
        namespace.wait_until_ended("box", CONTAINER, "emit --kind").await?;
        for (run, report) in &reports {
            restic.agrees_with_report(run, report.as_ref(), &expected)?;
        }
        let runner = Runner::new(namespace, server.backend(server.from_here))?;
        let next = runner.run(runner.backup(&pod, None, "next")?).await?;
        next.is(Verdict::Succeeded, &[Reason::Completed])?;
        restic.agrees_with_report("next", next.report.as_ref(), &expected)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_acknowledgement_was_lost_is_adopted_and_not_dumped_twice() -> Result<()> {
    let sequence = Sequence::new(Kind::Every, 0, 700_000);
    in_namespace("commit", async |namespace: &Namespace| {
        let server = S3::shared(namespace).await?;
        let script = format!("echo run >>/scratch/runs; exec {}", sequence.command());
        let pod =
            Workload::toolbox(namespace, "box", &json!(["sh", "-c", script]).to_string()).start(namespace).await?;
        let proxy = FaultProxy::start(server.from_here).await?;
        let runner = Runner::new(namespace, server.backend(proxy.address()))?;
        runner.create_repository().await?;
        proxy.set_rule(Some(Rule::always(Fault::LoseResponse).on("PUT", "/snapshots/").times(1).then_unreachable()));
        let first = runner.start(runner.backup(&pod, None, "the-run")?)?;
        let is_lost = async || Ok((proxy.faults() > 0).then_some(()));
        namespace.wait_until("the acknowledgement is lost", is_lost).await?;
        first.signal("TERM")?;
        first.ended().await?.is(Verdict::Failed, &[Reason::CommitUnknown])?;

        proxy.set_rule(None);
        let retry = runner.run(runner.backup(&pod, None, "the-run")?).await?;
        retry.is(Verdict::Succeeded, &[Reason::Adopted])?;
        ensure!(namespace.shell("box", "wc -l </scratch/runs")? == "1", "the command ran again");
        server.restic().agrees_with_report("the-run", retry.report.as_ref(), &known(&[(SOURCE, &sequence)]))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_is_reported_and_leaves_nothing_visible() -> Result<()> {
    in_namespace("full", async |namespace: &Namespace| {
        let pod = Workload::new(namespace, "box", "toolbox")
            .named_command("large", &STREAM.command())
            .named_command("small", "emit --kind every --bytes 1000")
            .start(namespace)
            .await?;
        let folder = tempfile::tempdir()?;
        let Some(_volume) = SmallVolume::mount(folder.path())? else {
            skipped("a full volume, because only root can mount a small file system");
            return Ok(());
        };
        let repository = folder.path().join("repository");
        let runner = Runner::new(namespace, BackendConfig::Folder { path: repository.display().to_string() })?;
        runner.create_repository().await?;
        let restic = Restic::folder(&repository, PASSWORD);
        let ended = runner.run(runner.backup(&pod, Some("large"), "large")?).await?;
        ended.is(Verdict::Failed, &[Reason::StoreFull])?;
        restic.agrees_with_report("large", ended.report.as_ref(), &known(&[]))?;
        namespace.wait_until_ended("box", CONTAINER, "emit --kind").await?;
        // Frees space as a prune does, by deleting the packs of the failed run, which no index contains.
        for prefix in fs::read_dir(repository.join("data"))? {
            for pack in fs::read_dir(prefix?.path())? {
                fs::remove_file(pack?.path())?;
            }
        }
        let small = Sequence::new(Kind::Every, 1, 1000);
        let next = runner.run(runner.backup(&pod, Some("small"), "small")?).await?;
        next.is(Verdict::Succeeded, &[Reason::Completed])?;
        restic.agrees_with_report("small", next.report.as_ref(), &known(&[("pod/box/main/small", &small)]))
    })
    .await
}

/// A mounted file system of 24 MiB. Dropping this unmounts it.
struct SmallVolume<'a>(&'a Path);

impl<'a> SmallVolume<'a> {
    fn mount(at: &'a Path) -> Result<Option<Self>> {
        let mounted =
            process::output(Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "stowaway-test"]).arg(at))?;
        Ok(mounted.status.success().then_some(Self(at)))
    }
}

impl Drop for SmallVolume<'_> {
    fn drop(&mut self) {
        let _unmounted = process::output(Command::new("umount").arg(self.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_reported_until_it_exists_and_a_wrong_password_is_refused() -> Result<()> {
    let sequence = Sequence::new(Kind::Every, 0, 5000);
    in_namespace("secrets", async |namespace: &Namespace| {
        let server = S3::shared(namespace).await?;
        let repository = |name: &str, secret: &str| server.repository_object(name, secret, name == "main");
        namespace.apply_object(repository("main", "password")).await?;
        let refused = namespace.wait_until_repository_refused("main", "SecretMissing").await?;
        // One message lists everything that is missing.
        ensure_contains("the Repository", &refused.message, &["password", "access key id", "secret access key"])?;
        server.secrets(namespace).await?;
        namespace.wait_until_repository_ready("main").await?;

        namespace.apply_object(store::secret("wrong", &json!({ "password": "battery horse" }))).await?;
        namespace.apply_object(repository("stranger", "wrong")).await?;
        namespace.wait_until_repository_refused("stranger", "WrongPassword").await?;

        let mut created = repository("created", "generated");
        created["spec"]["s3"]["prefix"] = json!(format!("{}/created", namespace.name));
        created["spec"]["passwordSecretRef"]["createIfNotExists"] = json!(true);
        namespace.apply_object(created).await?;
        namespace.wait_until_repository_ready("created").await?;

        Workload::dumping(namespace, "box", &sequence).start(namespace).await?;
        let backup = namespace.back_up("healed", json!({})).await?;
        all_green(&backup)?;
        // The password becomes wrong while the Repository is Ready, and the run reports it.
        namespace.apply_object(store::secret("password", &json!({ "password": "another" }))).await?;
        let refused = namespace.back_up("refused", json!({ "retryLimit": 0 })).await?;
        ended("refused", &source(&refused, SOURCE)?.outcome, Verdict::Failed, &["WrongPassword"])?;
        server.restic().agrees_with(&backup, &known(&[(SOURCE, &sequence)]))?;
        server.restic().agrees_with(&refused, &known(&[(SOURCE, &sequence)]))
    })
    .await
}
