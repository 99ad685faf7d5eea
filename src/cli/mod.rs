//! The command line: what is typed becomes calls, what comes back becomes text and an exit status. No decisions.

mod archive_place;
pub mod args;
mod asking;
mod doctor;
mod environment;
mod explain;
mod keys;
mod local;
mod logs;
mod namespace;
mod output;
mod place;
mod remote;
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
    /// The API server refused or was not reached.
    #[error("failed to {doing}: {source}")]
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

    fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Place(_) | Self::Source(_) | Self::Selector(_) | Self::Tag(_) => 2,
            Self::Failed(_) | Self::Cluster { .. } | Self::Output(_) => 1,
        }
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
        Verb::Controller(_) | Verb::Webhook(_) | Verb::Runner { question: None } | Verb::RestoreStep { .. } => {
            LogOutput::Stdout
        }
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
        eprintln!("stowaway: {error}");
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
            clap_complete::generate(shell, &mut Arguments::command(), "stowaway", &mut std::io::stdout());
            Ok(0)
        }
        Verb::Manifests { output, image, cert_manager } => manifests(&output, &image, cert_manager),
        Verb::Annotations => {
            output::print_line(annotations::render().trim_end())?;
            Ok(0)
        }
        Verb::Controller(arguments) => {
            let settings = controller::Settings {
                image: arguments.image,
                instance: std::env::var("POD_NAME").ok(),
                metrics_port: arguments.metrics_port,
            };
            controller::run(settings, told_to_end())
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
            webhook::run(settings, told_to_end()).await.map(|()| 0).map_err(|error| CliError::Usage(error.to_string()))
        }
        Verb::Sidecar { volumes } => Err(CliError::Usage(runner::sidecar::become_supervisor(&volumes).to_string())),
        Verb::SidecarRun { volumes } => Ok(runner::sidecar::run_in_sidecar(&volumes).await),
        Verb::Runner { question: None } => Ok(runner::run_job().await),
        Verb::Runner { question: Some(question) } => Ok(runner::answer(question).await),
        Verb::RestoreStep { volumes } => Ok(runner::restore_step(&volumes).await),
    }
}

/// Waits for the signal. Not within the log's macro: what that does not log, it does not wait for, either.
async fn told_to_end() {
    let signal = runner::terminated().await;
    tracing::info!("{signal} received");
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
