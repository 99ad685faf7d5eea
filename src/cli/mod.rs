//! The command line: what is typed becomes calls, what comes back becomes text and an exit status. No decisions.

mod answering;
mod archive_place;
pub mod args;
mod asking;
mod controller_life;
mod doctor;
mod environment;
mod explain;
mod follow;
mod keys;
mod local;
mod logs;
mod namespace;
mod output;
mod place;
mod remote;
mod rights;
mod selector;
mod upkeep;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::args::{Arguments, Verb};
use crate::{
    annotations, build, controller,
    model::{Failure, SourceNameError, TagError},
    repository, runner,
    telemetry::{self, LogOutput},
    webhook,
};

/// The exit status of a program that SIGPIPE ends, by the convention of shells. Rust's programs ignore that signal.
const CLOSED_PIPE: u8 = 141;

/// Why a verb did not get to a verdict.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What was typed, or an object that was refused.
    #[error("{0}")]
    Usage(String),
    /// A place that could not be read.
    #[error(transparent)]
    Place(#[from] place::PlaceError),
    /// A selector that could not be read.
    #[error(transparent)]
    Selector(#[from] selector::SelectorError),
    /// A name that could not be read.
    #[error(transparent)]
    Source(#[from] SourceNameError),
    /// A tag that could not be stored.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The work failed.
    #[error("{0}")]
    Failed(#[from] Failure),
    /// The API server refused an object of the user's.
    #[error("failed to {doing}: {words}")]
    Refused {
        /// What was tried.
        doing: String,
        /// The API server's reason, which names the field or the missing right.
        words: String,
    },
    /// A signal ended the wait. The text names what continues.
    #[error("{0}")]
    Cancelled(String),
    /// What was waited for was deleted, which cancels it.
    #[error("{0}")]
    Deleted(String),
    /// The API server refused or was not reached.
    #[error("failed to {doing}: {}", explain(source.as_ref()))]
    Cluster {
        /// What was tried.
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// stdout was closed.
    #[error("failed to write the result: {0}")]
    Output(#[source] std::io::Error),
}

impl CliError {
    fn cluster(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Cluster { doing, source: Box::new(source) }
    }

    /// For a call that writes an object: an answer about the object is the user's to mend.
    fn refused(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| match &source {
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 409 | 413 | 422) => {
                Self::Refused { doing, words: explain(&source) }
            }
            _ => Self::Cluster { doing, source: Box::new(source) },
        }
    }

    /// Whether the reader of stdout has gone, as that of `stowaway ls | head` has. It needs no message.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    fn exit_status(&self) -> u8 {
        if self.is_closed_pipe() {
            return CLOSED_PIPE;
        }
        match self {
            Self::Usage(_)
            | Self::Place(_)
            | Self::Source(_)
            | Self::Selector(_)
            | Self::Tag(_)
            | Self::Refused { .. } => 2,
            Self::Cancelled(_) | Self::Deleted(_) => 130,
            Self::Failed(_) | Self::Cluster { .. } | Self::Output(_) => 1,
        }
    }
}

/// The reason of a failed call in one sentence: that of the API server, where it answered.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if !status.message.is_empty() => status.message.clone(),
        _ => error.to_string(),
    }
}

/// Parses, runs, and returns the exit status.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Verb::Sidecar { volumes } = &arguments.verb {
        // What stays is a program a twentieth of our size; it comes back only if it cannot be started.
        eprintln!("stowaway: failed to start the supervisor: {}", runner::sidecar::become_supervisor(volumes));
        return ExitCode::FAILURE;
    }
    let output = match arguments.verb {
        Verb::Controller(_)
        | Verb::Webhook(_)
        | Verb::Trust(_)
        | Verb::Runner { question: None }
        | Verb::RestoreStep { .. } => LogOutput::Stdout,
        _ => LogOutput::Stderr,
    };
    telemetry::start(arguments.log_format, output, &arguments.log_level);
    repository::install_transport();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("stowaway: failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(run(arguments.verb)).unwrap_or_else(|error| {
        if !error.is_closed_pipe() {
            output::note(&format!("stowaway: {error}"));
        }
        error.exit_status()
    });
    // A blocked thread of the engine (a store that hangs) must not keep a run alive that has reported.
    runtime.shutdown_background();
    ExitCode::from(status)
}

async fn run(verb: Verb) -> Result<u8, CliError> {
    match verb {
        Verb::Backup(arguments) => match local::repository_of(&arguments.place) {
            Some(repository) => local::backup(&repository, arguments).await,
            None => remote::backup(arguments).await,
        },
        Verb::Restore(arguments) => match local::repository_of(&arguments.place) {
            Some(repository) => local::restore(&repository, &arguments).await,
            None if arguments.whole.all => namespace::restore(&arguments).await,
            None => remote::restore(&arguments).await,
        },
        Verb::Snapshots(arguments) => match local::repository_of(&arguments.place) {
            Some(repository) => local::snapshots(&repository, &arguments).await,
            None => asking::snapshots(&arguments).await,
        },
        Verb::Ls(arguments) => match local::repository_of(&arguments.place) {
            Some(repository) => local::ls(&repository, &arguments).await,
            None => asking::ls(&arguments).await,
        },
        Verb::Dump(arguments) => match local::repository_of(&arguments.place) {
            Some(repository) => local::dump(&repository, &arguments).await,
            None => asking::dump(&arguments).await,
        },
        Verb::Check(arguments) => upkeep::check(&arguments).await,
        Verb::Doctor(arguments) => doctor::run(&arguments).await,
        Verb::Forget(arguments) => upkeep::forget(&arguments).await,
        Verb::Prune(arguments) => upkeep::prune(&arguments).await,
        Verb::Unlock(arguments) => upkeep::unlock(&arguments).await,
        Verb::Key(verb) => keys::run(&verb).await,
        Verb::Logs(arguments) => logs::logs(&arguments).await,
        Verb::Explain(arguments) => explain::run(&arguments),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "stowaway", &mut script);
            output::print_lines(String::from_utf8_lossy(&script).trim_end())?;
            Ok(0)
        }
        Verb::Manifests { output, image, cert_manager } => manifests(&output, &image, cert_manager),
        Verb::Annotations => {
            output::print_lines(annotations::render().trim_end())?;
            Ok(0)
        }
        Verb::Controller(arguments) => {
            let settings = controller::Settings {
                image: arguments.image,
                instance: std::env::var("POD_NAME").ok(),
                metrics_port: arguments.metrics_port,
            };
            controller::run(settings, end_signal())
                .await
                .map(|()| 0)
                .map_err(|error| CliError::Usage(error.to_string()))
        }
        Verb::Webhook(arguments) => {
            let settings = webhook::Settings {
                image: arguments.image,
                namespace: arguments.namespace,
                service: arguments.service,
                instance: arguments.instance,
                port: arguments.port,
                health_port: arguments.health_port,
                drain: arguments.drain,
                certificates_folder: arguments.certificates_folder,
            };
            webhook::run(settings, end_signal()).await.map(|()| 0).map_err(|error| CliError::Usage(error.to_string()))
        }
        Verb::Trust(arguments) => webhook::trust::run_writer(arguments.namespace, arguments.metrics_port, end_signal())
            .await
            .map(|()| 0)
            .map_err(|error| CliError::Usage(error.to_string())),
        Verb::Sidecar { volumes } => Err(CliError::Usage(runner::sidecar::become_supervisor(&volumes).to_string())),
        Verb::SidecarRun { volumes } => Ok(runner::sidecar::run_in_sidecar(&volumes).await),
        Verb::Runner { question: None } => Ok(runner::run_job().await),
        Verb::Runner { question: Some(question) } => Ok(runner::answer(question).await),
        Verb::RestoreStep { volumes } => Ok(runner::restore_step(&volumes).await),
    }
}

/// Waits for the signal, outside of the log's macro, because a line that is not logged is not evaluated either.
fn end_signal() -> impl Future<Output = ()> + Send + 'static {
    let signal = runner::terminated();
    async {
        let signal = signal.await;
        tracing::info!("{signal} received");
    }
}

fn manifests(folder: &std::path::Path, image: &str, cert_manager: bool) -> Result<u8, CliError> {
    let installation = build::manifests::Installation { image, cert_manager, ..Default::default() };
    let files = build::manifests::files(&installation)
        .map_err(|error| CliError::Usage(format!("the manifests cannot be written: {error}")))?;
    for (name, text) in files {
        let path = folder.join(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(&path, text)).map_err(CliError::Output)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answer(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status { code, message: message.to_owned(), ..Status::default() }))
    }

    #[test]
    fn refused_object_is_one_sentence_and_exit_status_2() {
        let words = "Backup.stowaway.dev \"x\" is invalid: spec.retryLimit: Invalid value: 11: should be less than 11";
        for code in [400, 403, 409, 422] {
            let error = CliError::refused("create the Backup in namespace shop")(answer(code, words));
            assert_eq!(error.to_string(), format!("failed to create the Backup in namespace shop: {words}"));
            assert_eq!(error.exit_status(), 2);
        }
        let error = CliError::refused("create the Backup")(answer(500, "etcd is away"));
        assert_eq!((error.exit_status(), error.to_string().as_str()), (1, "failed to create the Backup: etcd is away"));
    }

    #[test]
    fn missing_right_is_told_in_the_words_of_the_api_server_alone() {
        let error = CliError::cluster("list pods")(answer(403, "pods is forbidden"));
        assert_eq!((error.exit_status(), error.to_string().as_str()), (1, "failed to list pods: pods is forbidden"));
    }

    #[test]
    fn interrupted_wait_and_deleted_run_are_exit_status_130() {
        assert_eq!(CliError::Cancelled(String::new()).exit_status(), 130);
        assert_eq!(CliError::Deleted(String::new()).exit_status(), 130);
    }

    #[test]
    fn closed_pipe_is_quiet_and_another_fault_of_stdout_is_not() {
        let closed = CliError::Output(std::io::ErrorKind::BrokenPipe.into());
        assert_eq!((closed.is_closed_pipe(), closed.exit_status()), (true, 141));
        let full = CliError::Output(std::io::ErrorKind::StorageFull.into());
        assert_eq!((full.is_closed_pipe(), full.exit_status()), (false, 1));
    }
}
