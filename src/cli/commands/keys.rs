//! `stowaway key`: the commands for the keys of a repository given by path or URL. New passwords come from a file or
//! from the terminal, and are used for the key only.

use std::io::IsTerminal;

use console::Term;
use tokio_util::sync::CancellationToken;

use crate::cli::{
    CliError,
    args::{KeyCommand, NewPassword, Output},
    environment,
    output::{print_json, print_line, print_table},
    reach::access,
};
use crate::{
    model::Secret,
    repository::{self, KeySummary},
    runner::within_grace,
};

/// `stowaway key`
pub async fn run(command: &KeyCommand) -> Result<u8, CliError> {
    let cancel = CancellationToken::new();
    match command {
        KeyCommand::List { location, output } => {
            let listing = repository::list_keys(access(location)?, cancel.clone());
            print(&within_grace(&cancel, async { Ok(listing.await?) }).await?, *output)?;
        }
        KeyCommand::Add { location, new } => {
            let access = access(location)?;
            let adding = repository::add_key(access, cancel.clone(), password(new)?);
            let id = within_grace(&cancel, async { Ok(adding.await?) }).await?;
            print_line(&format!("key {} added and verified; keep its password", &id[..8]))?;
        }
        KeyCommand::Remove { location, id } => {
            let removing = repository::remove_key(access(location)?, cancel.clone(), id);
            let id = within_grace(&cancel, async { Ok(removing.await?) }).await?;
            print_line(&format!("key {} removed: its password no longer opens the repository", &id[..8]))?;
        }
        KeyCommand::Passwd { location, new } => {
            let access = access(location)?;
            let changing = repository::change_password(access, cancel.clone(), password(new)?);
            let (new, old) = within_grace(&cancel, async { Ok(changing.await?) }).await?;
            print_line(&format!(
                "key {} replaces {}: the old password no longer opens the repository",
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
        None => prompt_password()?,
    };
    if password.expose().is_empty() {
        return Err(CliError::Usage("the new password is empty".to_owned()));
    }
    Ok(password)
}

/// Prompts for the password twice, without echo.
fn prompt_password() -> Result<Secret, CliError> {
    let terminal = Term::stderr();
    if !std::io::stdin().is_terminal() || !terminal.is_term() {
        return Err(CliError::Usage(
            "there is no terminal to prompt for the new password; give --new-password-file".to_owned(),
        ));
    }
    let line = |prompt: &str| {
        terminal.write_str(prompt).and_then(|()| terminal.read_secure_line()).map(Secret::new).map_err(CliError::Output)
    };
    let (first, second) = (line("new password: ")?, line("repeat the new password: ")?);
    if first.expose() == second.expose() {
        return Ok(first);
    }
    Err(CliError::Usage("the two passwords are not the same; nothing was changed".to_owned()))
}
