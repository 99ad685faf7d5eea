//! The verbs for the keys of a repository by path or URL. New passwords come from a file or from the terminal, and go nowhere
//! but into the key.
//!
//! It must not know what a key is.

use std::io::IsTerminal;

use console::Term;
use tokio_util::sync::CancellationToken;

use super::{
    CliError,
    args::{KeyVerb, NewPassword, Output},
    environment,
    output::{print_json, print_line, print_table},
    upkeep::access,
};
use crate::{
    model::Secret,
    repository::{self, KeySummary},
    runner::within_grace,
};

/// `stowaway key`
pub async fn run(verb: &KeyVerb) -> Result<u8, CliError> {
    let cancel = CancellationToken::new();
    match verb {
        KeyVerb::List { place, output } => {
            let listing = repository::list_keys(access(place)?, cancel.clone());
            print(&within_grace(&cancel, async { Ok(listing.await?) }).await?, *output)?;
        }
        KeyVerb::Add { place, new } => {
            let access = access(place)?;
            let adding = repository::add_key(access, cancel.clone(), password(new)?);
            let id = within_grace(&cancel, async { Ok(adding.await?) }).await?;
            print_line(&format!("key {} added, and opened once; keep its password", &id[..8]))?;
        }
        KeyVerb::Remove { place, id } => {
            let removing = repository::remove_key(access(place)?, cancel.clone(), id);
            let id = within_grace(&cancel, async { Ok(removing.await?) }).await?;
            print_line(&format!("key {} removed: its password opens nothing any more", &id[..8]))?;
        }
        KeyVerb::Passwd { place, new } => {
            let access = access(place)?;
            let changing = repository::change_password(access, cancel.clone(), password(new)?);
            let (new, old) = within_grace(&cancel, async { Ok(changing.await?) }).await?;
            print_line(&format!(
                "key {} takes the place of {}: the old password opens nothing any more",
                &new[..8],
                &old[..8]
            ))?;
        }
    }
    Ok(0)
}

fn print(keys: &[KeySummary], output: Output) -> Result<(), CliError> {
    if output == Output::Json {
        return print_json(&keys);
    }
    let rows = keys.iter().map(|key| {
        let created = key.created.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"));
        let in_use = if key.in_use { "yes" } else { "" };
        [key.id[..8].to_owned(), in_use.to_owned(), key.user.clone(), key.host.clone(), created]
    });
    print_table(["ID", "IN USE", "USER", "HOST", "CREATED"], rows)
}

fn password(new: &NewPassword) -> Result<Secret, CliError> {
    let password = match &new.new_password_file {
        Some(file) => environment::password_of("the file of the new password", file)?.password,
        None => ask()?,
    };
    if password.expose().is_empty() {
        return Err(CliError::Usage("the new password is empty".to_owned()));
    }
    Ok(password)
}

/// Asks twice, unseen.
fn ask() -> Result<Secret, CliError> {
    let terminal = Term::stderr();
    if !std::io::stdin().is_terminal() || !terminal.is_term() {
        return Err(CliError::Usage(
            "there is no terminal to ask for the new password; give --new-password-file".to_owned(),
        ));
    }
    let line = |prompt: &str| {
        terminal.write_str(prompt).and_then(|()| terminal.read_secure_line()).map(Secret::new).map_err(CliError::Output)
    };
    let (first, second) = (line("new password: ")?, line("the same again: ")?);
    if first.expose() == second.expose() {
        return Ok(first);
    }
    Err(CliError::Usage("the two passwords are not the same; nothing was changed".to_owned()))
}
