//! How results look on a terminal, or as JSON. It must not know where they come from.

use std::io::Write;

use indicatif::BinaryBytes;
use jiff::Timestamp;
use serde::Serialize;

use super::{CliError, args::Output};
use crate::{
    model::{Quality, SnapshotIdentity, SourceName},
    repository::{Entry, SnapshotSummary},
};

/// Prints one JSON document and a newline.
pub fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Usage(error.to_string()))?;
    print_line(&text)
}

/// Prints one line to stdout; a closed pipe is an error, not a panic.
pub fn print_line(line: &str) -> Result<(), CliError> {
    writeln!(std::io::stdout(), "{line}").map_err(CliError::Output)
}

/// Prints snapshots, of one source or of all.
pub fn print_snapshots(
    snapshots: Vec<SnapshotSummary>,
    source: Option<&SourceName>,
    output: Output,
) -> Result<u8, CliError> {
    let wanted: Vec<SnapshotSummary> = snapshots
        .into_iter()
        .filter(|snapshot| {
            source.is_none_or(|name| snapshot.identity.tag(SnapshotIdentity::SOURCE) == Some(name.as_str()))
        })
        .collect();
    if output == Output::Json {
        print_json(&wanted)?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let rows = wanted.iter().map(|snapshot| {
        let tag = |key| snapshot.identity.tag(key).unwrap_or("-").to_owned();
        [
            snapshot.id[..8.min(snapshot.id.len())].to_owned(),
            format!("{:.0}", snapshot.time),
            snapshot.bytes.map_or_else(|| "-".to_owned(), |bytes| BinaryBytes(bytes).to_string()),
            match snapshot.record().quality(now) {
                Quality::Proven => tag(SnapshotIdentity::PROOF),
                quality => format!("{}, {quality}", tag(SnapshotIdentity::PROOF)),
            },
            tag(SnapshotIdentity::SOURCE),
            format!("{}:{}", snapshot.identity.host, snapshot.identity.path),
        ]
    });
    print_table(["ID", "TIME", "SIZE", "PROOF", "SOURCE", "HOST:PATH"], rows)?;
    Ok(0)
}

/// Prints the files of a snapshot.
pub fn print_entries(entries: &[Entry], output: Output) -> Result<u8, CliError> {
    if output == Output::Json {
        print_json(&entries)?;
        return Ok(0);
    }
    let rows = entries.iter().map(|entry| {
        let time = entry.modified.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"));
        [
            entry.mode.map_or_else(|| "-".to_owned(), |mode| format!("{mode:04o}")),
            entry.size.to_string(),
            time,
            entry.path.clone(),
        ]
    });
    print_table(["MODE", "BYTES", "MODIFIED", "PATH"], rows)?;
    Ok(0)
}

/// Prints columns as wide as their widest cell, as kubectl does.
pub fn print_table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Result<(), CliError> {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        print_line(cells.join("   ").trim_end())?;
    }
    Ok(())
}
