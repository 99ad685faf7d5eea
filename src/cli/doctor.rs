//! `doctor`: what is wrong with a repository, and how to mend it.
//!
//! It must not know what can be wrong.

use tokio_util::sync::CancellationToken;

use super::{
    CliError,
    args::{DoctorArguments, Output},
    asking, local,
    output::{print_json, print_line},
    upkeep::access,
};
use crate::runner::{
    doctor::{self, Diagnosis},
    within_grace,
};

/// `stowaway doctor`: exit status 1 if anything is broken.
pub async fn run(arguments: &DoctorArguments) -> Result<u8, CliError> {
    let place = arguments.place();
    let diagnosis = if local::repository_of(&place).is_some() {
        let cancel = CancellationToken::new();
        let examining = doctor::examine(access(&place)?, &cancel, arguments.data.part());
        within_grace(&cancel, examining).await?
    } else {
        asking::examine(&place, arguments.data.part()).await?
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
    if diagnosis.complaints.is_empty() { print_line("nothing is wrong") } else { Ok(()) }
}
