//! `stowaway check` of a repository given by path or URL.

use indicatif::BinaryBytes;
use tokio_util::sync::CancellationToken;

use crate::cli::{
    CliError,
    args::{CheckArguments, Output},
    output::{print_json, print_line, print_table},
    reach::access,
};
use crate::{
    repository::CheckReport,
    runner::{with_repository_to_read, within_grace},
};

/// `stowaway check`. The exit status is 1 if there is a finding.
pub async fn run(arguments: &CheckArguments) -> Result<u8, CliError> {
    let access = access(&arguments.location)?;
    let cancel = CancellationToken::new();
    let checking = with_repository_to_read(access, &cancel, async |open| Ok(open.check(arguments.data.part()).await?));
    let report = within_grace(&cancel, checking).await?;
    match arguments.output {
        Output::Json => print_json(&report)?,
        Output::Text => print_check(&report)?,
    }
    Ok(u8::from(!report.is_sound()))
}

fn print_check(report: &CheckReport) -> Result<(), CliError> {
    let read = BinaryBytes(report.bytes_read);
    print_line(&format!(
        "{} snapshots, {} packs with {} blobs; {} packs ({read}) read byte by byte; {} unreferenced packs",
        report.snapshots, report.packs, report.blobs, report.packs_read, report.unreferenced_packs
    ))?;
    if report.is_sound() {
        return print_line("no problems found");
    }
    for finding in &report.findings.first {
        print_line(&finding.to_string())?;
    }
    let harmed = report.harmed.iter().map(|one| {
        let source = one.source.clone().unwrap_or_else(|| "-".to_owned());
        [
            one.id[..8.min(one.id.len())].to_owned(),
            format!("{:.0}", one.time),
            source,
            format!("{}:{}", one.host, one.path),
        ]
    });
    if report.harmed_snapshots > 0 {
        print_line("these snapshots cannot be restored completely:")?;
        print_table(["ID", "TIME", "SOURCE", "HOST:PATH"], harmed)?;
    }
    print_line(&format!("{} findings, {} harmed snapshots", report.findings.count, report.harmed_snapshots))
}
