//! The commands on a repository given by path or URL, without a cluster. They use the same pipeline and the same gate
//! as runs in a cluster.

use std::{env, io::IsTerminal, path::Path, sync::Arc, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::{
    CliError,
    args::{
        BackupArguments, DumpArguments, LsArguments, Output, RepositoryArguments, RestoreArguments, SnapshotsArguments,
    },
    environment::access,
    output,
};
use crate::{
    exec::Limits,
    model::{Failure, Reason, RunReport, SnapshotIdentity, SourceName, VolumeRestore, WantedSnapshot},
    repository::{self, LockHolder, LockRules, ProcessesHere, Progress, Repository},
    runner::{
        self, BackupInput, BackupRun, JudgedCommand, RestoreOutput, RestoreRun, questions, with_repository,
        with_repository_to_read, within_grace,
    },
    seal::ExecMode,
    stream::StreamItem,
};

/// The location of a repository that is used without a cluster, if the arguments or the environment name one.
pub fn repository_of(location: &RepositoryArguments) -> Option<String> {
    if location.repository.is_some() {
        return location.repository.clone();
    }
    let of_cluster = location.namespace.is_some() || location.context.is_some() || location.repository_name.is_some();
    if of_cluster { None } else { env::var("RESTIC_REPOSITORY").ok().filter(|text| !text.is_empty()) }
}

/// `stowaway backup --repository REPOSITORY -- COMMAND`
pub async fn backup(repository: &str, arguments: BackupArguments) -> Result<u8, CliError> {
    refuse_backup_options_of_a_cluster(&arguments)?;
    let program = arguments.command.first().ok_or_else(|| {
        CliError::Usage(
            "a local backup needs a command: stowaway backup --repository REPOSITORY -- COMMAND ...".to_owned(),
        )
    })?;
    let name = program.rsplit('/').next().unwrap_or(program);
    let path = match &arguments.stdin_filename {
        Some(path) => format!("/{}", path.trim_start_matches('/')),
        None => format!("/{name}"),
    };
    let host = arguments.host.clone().unwrap_or_else(host_name);
    let source = match arguments.source.clone() {
        Some(source) => source,
        None => SourceName::new("job", &plain(&host), &plain(name), None)?,
    };
    let mut identity = SnapshotIdentity { host, path: path.clone(), tags: Vec::new() };
    identity.push_tag(SnapshotIdentity::SOURCE, source.as_str())?;
    let access = access(repository, arguments.location.password_file.as_deref())?;
    let run = BackupRun {
        source,
        identity,
        alternative_path: path,
        limits: Limits { timeout: arguments.timeout, idle_timeout: arguments.idle_timeout },
        allow_empty: arguments.allow_empty,
        accept_unproven: false,
        skip_format_check: arguments.no_format_check,
    };
    let judged = JudgedCommand::new(arguments.command.clone(), true);
    let cancel = CancellationToken::new();
    let progress = Arc::new(Progress::default());
    let work = async {
        if arguments.init {
            repository::open_or_create(access.clone(), cancel.clone()).await?.close().await;
        }
        with_repository(access, &cancel, async |repository| {
            let from = BackupInput::Local(ExecMode::Shell, judged.argv().to_vec());
            Ok(runner::backup(repository, run, from, progress.clone(), cancel.clone()).await)
        })
        .await
    };
    let report = with_bar(progress.clone(), within_grace(&cancel, work)).await;
    finish(report.map(|report| judged.explain(report)), arguments.output)
}

/// `stowaway restore --repository REPOSITORY --source SOURCE -- COMMAND`
pub async fn restore(repository: &str, arguments: &RestoreArguments) -> Result<u8, CliError> {
    refuse_restore_options_of_a_cluster(arguments)?;
    if let Some(target) = &arguments.target {
        return restore_into(repository, arguments, target).await;
    }
    let from = wanted(arguments)?;
    if arguments.command.is_empty() {
        let message = "a local restore needs a folder or a command: stowaway restore --repository REPOSITORY --source SOURCE --target FOLDER, \
             or ... -- COMMAND ...";
        return Err(CliError::Usage(message.to_owned()));
    }
    let access = access(repository, arguments.location.password_file.as_deref())?;
    let limits = Limits { timeout: arguments.timeout, idle_timeout: arguments.idle_timeout };
    let run = RestoreRun { from, limits };
    let judged = JudgedCommand::new(arguments.command.clone(), true);
    let cancel = CancellationToken::new();
    let work = with_repository_to_read(access, &cancel, async |repository| {
        let to = RestoreOutput::Local(ExecMode::Shell, judged.argv().to_vec());
        Ok(runner::restore(repository, run, to, cancel.clone()).await)
    });
    let report = within_grace(&cancel, work).await;
    finish(report.map(|report| judged.explain(report)), arguments.output)
}

/// Refuses the options that describe a Backup object, because they have no meaning without a cluster.
fn refuse_backup_options_of_a_cluster(arguments: &BackupArguments) -> Result<(), CliError> {
    if arguments.selector.is_none() && arguments.name.is_none() && arguments.retry_limit.is_none() {
        return Ok(());
    }
    let message =
        "--selector, --name and --retry-limit belong to a Backup in a cluster; leave them out with --repository";
    Err(CliError::Usage(message.to_owned()))
}

/// Refuses the options that name objects of a cluster, and combinations without meaning: a command reads one whole
/// file.
fn refuse_restore_options_of_a_cluster(arguments: &RestoreArguments) -> Result<(), CliError> {
    let given = [
        ("--pod", arguments.pod.is_some()),
        ("--container", arguments.container.is_some()),
        ("--claim", arguments.claim.is_some()),
        ("--archive", arguments.archive.location.is_some()),
        ("--name", arguments.name.is_some()),
    ];
    if let Some((option, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
        return Err(CliError::Usage(format!(
            "{option} belongs to a Restore in a cluster; with --repository give --target FOLDER or -- COMMAND of this machine"
        )));
    }
    if !arguments.paths.is_empty() && arguments.target.is_none() {
        return Err(CliError::Usage("--path needs --target, because a command reads one whole file".to_owned()));
    }
    if arguments.idle_timeout.is_some() && arguments.target.is_some() {
        return Err(CliError::Usage(
            "--idle-timeout needs a command; --timeout limits a restore into a folder".to_owned(),
        ));
    }
    Ok(())
}

/// `stowaway restore --repository REPOSITORY --source SOURCE --target FOLDER`
async fn restore_into(repository: &str, arguments: &RestoreArguments, target: &Path) -> Result<u8, CliError> {
    let from = wanted(arguments)?;
    let access = access(repository, arguments.location.password_file.as_deref())?;
    std::fs::create_dir_all(target)
        .map_err(|error| CliError::Usage(format!("the folder {} cannot be created: {error}", target.display())))?;
    let run = VolumeRestore {
        from,
        paths: arguments.paths.clone(),
        folder: String::new(),
        device: false,
        overwrite: None,
        timeout: arguments.timeout,
    };
    let cancel = CancellationToken::new();
    let work = with_repository_to_read(access, &cancel, async |repository| {
        Ok(runner::restore_volume(repository, &run, target, &cancel).await)
    });
    finish(within_grace(&cancel, work).await, arguments.output)
}

/// The snapshot to restore. Without a cluster there is no namespace, so snapshots of all hosts match unless one is
/// named.
fn wanted(arguments: &RestoreArguments) -> Result<WantedSnapshot, CliError> {
    Ok(WantedSnapshot {
        source: arguments.source()?,
        id: arguments.snapshot.clone(),
        as_of: arguments.as_of,
        host: arguments.host.clone(),
        cluster: String::new(),
    })
}

fn finish(report: Result<RunReport, Failure>, output: Output) -> Result<u8, CliError> {
    let report = report.unwrap_or_else(|failure| RunReport::failed(failure, Duration::ZERO));
    runner::story::log_verdict(&report);
    if output == Output::Json {
        output::print_json(&report)?;
    }
    Ok(runner::story::exit_code(report.verdict))
}

/// `stowaway snapshots --repository REPOSITORY`
pub async fn snapshots(repository: &str, arguments: &SnapshotsArguments) -> Result<u8, CliError> {
    let rows = query(repository, &arguments.location, questions::snapshots).await?;
    output::print_snapshots(rows, arguments.source.as_ref(), arguments.output)
}

/// `stowaway ls --repository REPOSITORY SNAPSHOT`
pub async fn ls(repository: &str, arguments: &LsArguments) -> Result<u8, CliError> {
    let rows =
        query(repository, &arguments.location, async |open| questions::list(open, &arguments.snapshot).await).await?;
    output::print_entries(&rows, arguments.output)
}

/// `stowaway dump --repository REPOSITORY SNAPSHOT [PATH]`
pub async fn dump(repository: &str, arguments: &DumpArguments) -> Result<u8, CliError> {
    let (snapshot, path) = (&arguments.snapshot, arguments.path.as_deref());
    let written = query(repository, &arguments.location, async |open| write_file(open, snapshot, path).await).await?;
    written.map_err(CliError::Output)?;
    Ok(0)
}

/// Writes one stored file to stdout. The inner error is that of stdout.
pub async fn write_file(
    repository: &Repository,
    snapshot: &str,
    path: Option<&str>,
) -> Result<std::io::Result<()>, Failure> {
    let mut file = questions::file(repository, snapshot, path).await?;
    let mut stdout = tokio::io::stdout();
    loop {
        match file.pieces.recv().await {
            Some(StreamItem::Data(bytes)) => {
                if let Err(error) = stdout.write_all(&bytes).await {
                    return Ok(Err(error));
                }
            }
            Some(StreamItem::End(_)) => return Ok(stdout.flush().await),
            Some(StreamItem::Broken(failure)) => return Err(failure),
            None => return Err(Failure::new(Reason::StreamCut, "the stored file ended without its end marker")),
        }
    }
}

/// The holder which this process writes into its locks.
pub fn lock_holder() -> LockHolder {
    let user = env::var("USER").ok().filter(|name| !name.is_empty());
    LockHolder::of_this_process(host_name(), user.as_deref().unwrap_or("unknown"))
}

/// How this process treats the locks of other clients. It does not wait for them, because a user would not know why.
pub fn lock_rules() -> LockRules {
    LockRules { probe: Arc::new(ProcessesHere { holder: lock_holder() }), wait: Duration::ZERO }
}

async fn query<T>(
    repository: &str,
    location: &RepositoryArguments,
    question: impl AsyncFnOnce(&Repository) -> Result<T, Failure>,
) -> Result<T, CliError> {
    let access = access(repository, location.password_file.as_deref())?;
    let cancel = CancellationToken::new();
    Ok(within_grace(&cancel, with_repository_to_read(access, &cancel, question)).await?)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The text in lower case; characters that a source name cannot contain become `-`.
fn plain(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
    text.to_lowercase().chars().map(|c| if is_plain(c) { c } else { '-' }).collect()
}

/// Shows the bytes read so far while `work` runs, if stderr is a terminal.
async fn with_bar<T>(progress: Arc<Progress>, work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let style = ProgressStyle::with_template("{spinner} {bytes} {bytes_per_sec} {elapsed}");
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => {
                bar.finish_and_clear();
                return result;
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => bar.set_position(progress.bytes_read()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Command};

    fn refusal(line: &str) -> String {
        let arguments = Arguments::try_parse_from(["stowaway"].into_iter().chain(line.split(' '))).unwrap();
        let refused = match &arguments.command {
            Command::Restore(arguments) => refuse_restore_options_of_a_cluster(arguments),
            Command::Backup(arguments) => refuse_backup_options_of_a_cluster(arguments),
            command => panic!("{command:?}"),
        };
        match refused.unwrap_err() {
            CliError::Usage(message) => message,
            error => panic!("{line}: {error}"),
        }
    }

    #[test]
    fn options_of_a_cluster_are_refused_without_one() {
        for option in ["--pod p", "--container c", "--name n"] {
            let message = refusal(&format!("restore --repository /r --source pvc/a {option} -- cat"));
            assert!(message.starts_with(option.split(' ').next().unwrap()), "{option}: {message}");
        }
        assert!(refusal("restore --repository /r --source pvc/a --claim c").starts_with("--claim"));
        assert!(refusal("restore --repository /r --source pvc/a --path x -- cat").starts_with("--path"));
        assert!(refusal("restore --repository /r --source pvc/a --idle-timeout 1m --target /t").contains("--timeout"));
        for option in ["--selector a=b", "--name n", "--retry-limit 1"] {
            let message = refusal(&format!("backup --repository /r {option} -- cat"));
            assert!(message.contains(option.split(' ').next().unwrap()), "{message}");
        }
    }
}
