//! The command line. It turns arguments into calls, and results into text and an exit status.

mod answering;
mod archive_target;
pub mod args;
mod backup_report;
mod commands;
mod controller_lease;
mod environment;
mod fields;
mod follow;
mod local;
mod location;
mod namespace;
mod output;
mod query;
mod reach;
mod remote;
mod rights;
mod selector;
mod waiting;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::args::{Arguments, Command};
use crate::{
    annotations, controller,
    model::{Failure, SourceNameError, TagError},
    repository, runner,
    telemetry::{self, LogOutput},
    webhook,
};

/// The exit status of a program that SIGPIPE ends, by the convention of shells. Rust programs ignore that signal.
const CLOSED_PIPE: u8 = 141;

/// Why a command ended without a verdict.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Wrong usage, or an object that was refused.
    #[error("{0}")]
    Usage(String),
    /// A repository location that cannot be parsed.
    #[error(transparent)]
    Location(#[from] location::LocationError),
    /// A label selector that cannot be parsed.
    #[error(transparent)]
    Selector(#[from] selector::SelectorError),
    /// A source name that cannot be parsed.
    #[error(transparent)]
    Source(#[from] SourceNameError),
    /// A tag that cannot be stored.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The work failed.
    #[error("{0}")]
    Failed(#[from] Failure),
    /// The API server refused an object of the user.
    #[error("failed to {doing}: {message}")]
    Refused {
        /// The attempted operation.
        doing: String,
        /// The API server's reason, which names the field or the missing right.
        message: String,
    },
    /// A signal ended the wait. The text names what continues.
    #[error("{0}")]
    Cancelled(String),
    /// The object that was waited for was deleted, which cancels its run.
    #[error("{0}")]
    Deleted(String),
    /// The API server refused a request or was not reached.
    #[error("failed to {doing}: {}", explain(source.as_ref()))]
    Cluster {
        /// The attempted operation.
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

    /// For a call that writes an object: the user must fix what the API server refuses about the object.
    fn refused(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| match &source {
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 409 | 413 | 422) => {
                Self::Refused { doing, message: explain(&source) }
            }
            _ => Self::Cluster { doing, source: Box::new(source) },
        }
    }

    /// Whether the reader of stdout closed the pipe, as in `stowaway ls | head`. This needs no message.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    fn exit_status(&self) -> u8 {
        if self.is_closed_pipe() {
            return CLOSED_PIPE;
        }
        match self {
            Self::Usage(_)
            | Self::Location(_)
            | Self::Source(_)
            | Self::Selector(_)
            | Self::Tag(_)
            | Self::Refused { .. } => 2,
            Self::Cancelled(_) | Self::Deleted(_) => 130,
            Self::Failed(_) | Self::Cluster { .. } | Self::Output(_) => 1,
        }
    }
}

/// The reason of a failed call in one sentence: the API server's message, if it answered.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if !status.message.is_empty() => status.message.clone(),
        _ => error.to_string(),
    }
}

/// Parses the arguments, runs the command, and returns the exit status.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Sidecar { volumes } = &arguments.command {
        // This call replaces the process with the supervisor, whose program is a twentieth of this one's size. It
        // returns only on failure.
        eprintln!("stowaway: failed to start the supervisor: {}", runner::sidecar::become_supervisor(volumes));
        return ExitCode::FAILURE;
    }
    let output = match arguments.command {
        Command::Controller(_)
        | Command::Webhook(_)
        | Command::Trust(_)
        | Command::Runner { question: None }
        | Command::RestoreStep { .. } => LogOutput::Stdout,
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
    let status = runtime.block_on(run(arguments.command)).unwrap_or_else(|error| {
        if !error.is_closed_pipe() {
            output::note(&format!("stowaway: {}", fields::with_options(&error.to_string())));
        }
        error.exit_status()
    });
    // A blocked thread of the repository (the store hangs) must not keep the process alive after the run has reported.
    runtime.shutdown_background();
    ExitCode::from(status)
}

async fn run(command: Command) -> Result<u8, CliError> {
    match command {
        Command::Backup(arguments) => match local::repository_of(&arguments.location) {
            Some(repository) => local::backup(&repository, arguments).await,
            None => remote::backup(arguments).await,
        },
        Command::Restore(arguments) => match local::repository_of(&arguments.location) {
            Some(repository) => local::restore(&repository, &arguments).await,
            None if arguments.whole.all => namespace::restore(&arguments).await,
            None => remote::restore(&arguments).await,
        },
        Command::Snapshots(arguments) => match local::repository_of(&arguments.location) {
            Some(repository) => local::snapshots(&repository, &arguments).await,
            None => query::snapshots(&arguments).await,
        },
        Command::Ls(arguments) => match local::repository_of(&arguments.location) {
            Some(repository) => local::ls(&repository, &arguments).await,
            None => query::ls(&arguments).await,
        },
        Command::Dump(arguments) => match local::repository_of(&arguments.location) {
            Some(repository) => local::dump(&repository, &arguments).await,
            None => query::dump(&arguments).await,
        },
        Command::Check(arguments) => commands::check::run(&arguments).await,
        Command::Doctor(arguments) => commands::doctor::run(&arguments).await,
        Command::Forget(arguments) => commands::forget::run(&arguments).await,
        Command::Prune(arguments) => commands::prune::run(&arguments).await,
        Command::Unlock(arguments) => commands::unlock::run(&arguments).await,
        Command::Key(command) => commands::keys::run(&command).await,
        Command::Logs(arguments) => commands::logs::run(&arguments).await,
        Command::Explain(arguments) => commands::explain::run(&arguments),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "stowaway", &mut script);
            output::print_lines(String::from_utf8_lossy(&script).trim_end())?;
            Ok(0)
        }
        Command::Manifests(arguments) => commands::manifests::run(&arguments),
        Command::ManualPages { output } => commands::manifests::write_manual_pages(&output),
        Command::Annotations => {
            output::print_lines(annotations::render().trim_end())?;
            Ok(0)
        }
        Command::Controller(arguments) => {
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
        Command::Webhook(arguments) => {
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
        Command::Trust(arguments) => {
            webhook::trust::run_writer(arguments.namespace, arguments.metrics_port, end_signal())
                .await
                .map(|()| 0)
                .map_err(|error| CliError::Usage(error.to_string()))
        }
        Command::Sidecar { volumes } => Err(CliError::Usage(runner::sidecar::become_supervisor(&volumes).to_string())),
        Command::SidecarRun { volumes } => Ok(runner::sidecar::run_in_sidecar(&volumes).await),
        Command::Runner { question: None } => Ok(runner::run_job().await),
        Command::Runner { question: Some(question) } => Ok(runner::answer(question).await),
        Command::RestoreStep { volumes } => Ok(runner::restore_step(&volumes).await),
    }
}

/// Waits for the end signal. The await is outside of the log macro, because arguments of a disabled log line are not
/// evaluated.
fn end_signal() -> impl Future<Output = ()> + Send + 'static {
    let signal = runner::terminated();
    async {
        let signal = signal.await;
        tracing::info!("{signal} received");
    }
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
        let message =
            "Backup.stowaway.dev \"x\" is invalid: spec.retryLimit: Invalid value: 11: should be less than 11";
        for code in [400, 403, 409, 422] {
            let error = CliError::refused("create the Backup in namespace shop")(answer(code, message));
            assert_eq!(error.to_string(), format!("failed to create the Backup in namespace shop: {message}"));
            assert_eq!(error.exit_status(), 2);
        }
        let error = CliError::refused("create the Backup")(answer(500, "etcd is down"));
        assert_eq!((error.exit_status(), error.to_string().as_str()), (1, "failed to create the Backup: etcd is down"));
    }

    #[test]
    fn missing_right_is_reported_with_the_message_of_the_api_server_alone() {
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
