//! `stowaway doctor`: prints the problems of a repository and their remedies.

use tokio_util::sync::CancellationToken;

use crate::cli::{
    CliError,
    args::{DoctorArguments, Output},
    local,
    output::{print_json, print_line},
    query,
    reach::access,
};
use crate::runner::{
    doctor::{self, Diagnosis},
    within_grace,
};

/// Runs `stowaway doctor`. The exit status is 1 if the repository is broken.
pub async fn run(arguments: &DoctorArguments) -> Result<u8, CliError> {
    let location = arguments.location();
    let diagnosis = if local::repository_of(&location).is_some() {
        let cancel = CancellationToken::new();
        let examining = doctor::examine(access(&location)?, &cancel, arguments.data.part());
        within_grace(&cancel, examining).await?
    } else {
        query::examine(&location, arguments.data.part()).await?
    };
    match arguments.output {
        Output::Json => print_json(&diagnosis)?,
        Output::Text => print(&diagnosis)?,
    }
    Ok(u8::from(diagnosis.is_broken()))
}

fn print(diagnosis: &Diagnosis) -> Result<(), CliError> {
    for line in &diagnosis.sound {
        print_line(&format!("ok      {line}"))?;
    }
    for complaint in &diagnosis.complaints {
        print_line(&format!("{:<7} {}", complaint.weight, complaint.what))?;
        for (number, step) in complaint.remedy.iter().enumerate() {
            print_line(&format!("        {}. {step}", number + 1))?;
        }
    }
    if diagnosis.complaints.is_empty() { print_line("no problems found") } else { Ok(()) }
}
