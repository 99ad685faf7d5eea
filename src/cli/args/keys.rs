//! What can be typed for the keys of a repository. Only parsing. No password is ever an argument.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Output, Place};

/// `stowaway key`
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// List the keys.
    List {
        /// Where.
        #[command(flatten)]
        place: Place,
        /// Table or JSON.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Add a key with a password of its own, such as one for recovery that is kept outside of the cluster.
    Add {
        /// Where.
        #[command(flatten)]
        place: Place,
        /// Its password.
        #[command(flatten)]
        new: NewPassword,
    },
    /// Remove a key; never the one in use.
    Remove {
        /// Where.
        #[command(flatten)]
        place: Place,
        /// Id of the key, or its first digits.
        id: String,
    },
    /// Change the password: put a new key in place of the one in use.
    Passwd {
        /// Where.
        #[command(flatten)]
        place: Place,
        /// The new password.
        #[command(flatten)]
        new: NewPassword,
    },
}

/// Where a new password comes from.
#[derive(Args, Debug)]
pub struct NewPassword {
    /// File that holds the new password; asked for on the terminal otherwise.
    #[arg(long, value_name = "FILE")]
    pub new_password_file: Option<PathBuf>,
}
