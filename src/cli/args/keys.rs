//! The arguments of `stowaway key`. No password is ever an argument.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Output, RepositoryArguments};

/// `stowaway key`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the keys.
    List {
        /// Repository.
        #[command(flatten)]
        location: RepositoryArguments,
        /// Table or JSON.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Add a key with its own password, such as a recovery key that is kept outside of the cluster.
    Add {
        /// Repository.
        #[command(flatten)]
        location: RepositoryArguments,
        /// Password of the new key.
        #[command(flatten)]
        new: NewPassword,
    },
    /// Remove a key, except the key in use.
    Remove {
        /// Repository.
        #[command(flatten)]
        location: RepositoryArguments,
        /// Id of the key, or the start of the id.
        id: String,
    },
    /// Change the password: replace the key in use by a new key.
    Passwd {
        /// Repository.
        #[command(flatten)]
        location: RepositoryArguments,
        /// The new password.
        #[command(flatten)]
        new: NewPassword,
    },
}

/// Source of a new password.
#[derive(Args, Debug)]
pub struct NewPassword {
    /// File with the new password. Default: a prompt on the terminal.
    #[arg(long, value_name = "FILE")]
    pub new_password_file: Option<PathBuf>,
}
