//! How the commands that need no cluster reach a repository, and open it alone.

use tokio_util::sync::CancellationToken;

use super::{CliError, args::RepositoryArguments, environment, local};
use crate::{
    model::Failure,
    repository::{self, Repository},
    runner::within_grace,
};

/// Does the work on the repository while no other client has it open.
pub(super) async fn exclusively<T>(
    location: &RepositoryArguments,
    work: impl AsyncFnOnce(&Repository) -> Result<T, Failure>,
) -> Result<T, CliError> {
    let access = access(location)?;
    let cancel = CancellationToken::new();
    let working = async {
        let open = repository::open_exclusively(access, cancel.clone()).await?;
        let result = work(&open).await;
        open.close().await;
        result
    };
    Ok(within_grace(&cancel, working).await?)
}

/// The access to the repository. Options that name objects of a cluster are refused.
pub(super) fn access(location: &RepositoryArguments) -> Result<repository::OpenOptions, CliError> {
    if location.namespace.is_some() || location.context.is_some() || location.repository_name.is_some() {
        let message = "--namespace, --context and --repository-name have no meaning here: this command works on a repository \
                       that is reached from this machine, by --repository REPOSITORY; in a cluster use spec.check and \
                       spec.prune of the Repository";
        return Err(CliError::Usage(message.to_owned()));
    }
    let repository = local::repository_of(location).ok_or_else(|| {
        CliError::Usage("which repository? give --repository REPOSITORY, or RESTIC_REPOSITORY".to_owned())
    })?;
    environment::access(&repository, location.password_file.as_deref())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Command};

    #[test]
    fn names_of_a_cluster_are_refused_by_what_works_on_a_repository_alone() {
        for option in ["--namespace=shop", "--context=other", "--repository-name=main"] {
            let arguments = Arguments::try_parse_from(["stowaway", "check", option]).unwrap();
            let Command::Check(arguments) = arguments.command else { panic!("another command") };
            let error = access(&arguments.location).unwrap_err();
            assert!(matches!(&error, CliError::Usage(message) if message.contains("have no meaning here")), "{error}");
        }
    }
}
