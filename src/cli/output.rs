//! Output of results on a terminal, or as JSON.

use std::{fmt::Write as _, io::Write};

use indicatif::BinaryBytes;
use jiff::Timestamp;
use serde::Serialize;

use super::{CliError, args::Output};
use crate::{
    model::{Quality, SnapshotIdentity, SourceName, escape},
    repository::{Entry, SnapshotSummary},
    runner::similar_sources,
};

/// Prints one JSON document and a newline.
pub fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Usage(error.to_string()))?;
    print_lines(&text.split('\n').map(escape_json).collect::<Vec<_>>().join("\n"))
}

/// Prints one line to stdout. A closed pipe is an error, not a panic. Control characters are escaped, because parts of
/// the line may come from a pod, a repository or a file name.
pub fn print_line(line: &str) -> Result<(), CliError> {
    print_lines(&escape(line))
}

/// Prints a text that is already escaped, such as JSON, and a newline.
pub fn print_lines(text: &str) -> Result<(), CliError> {
    writeln!(std::io::stdout(), "{text}").map_err(CliError::Output)
}

/// Prints one line to stderr, escaped as by [`print_line`].
pub fn note(line: &str) {
    let _gone = writeln!(std::io::stderr(), "{}", escape(line));
}

/// Prints JSON on one line. `serde_json` escapes only the control characters below U+0020.
pub fn print_json_line(value: &serde_json::Value) -> Result<(), CliError> {
    print_lines(&escape_json(&value.to_string()))
}

/// Escapes a line of JSON so that it contains no control character for a terminal: the characters that [`escape`]
/// escapes become `\u` with four hex digits. All of them are within strings.
fn escape_json(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len());
    for character in line.chars() {
        if escape(character.encode_utf8(&mut [0; 4])).len() > character.len_utf8() {
            let _infallible = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Prints snapshots, of one source or of all. If the source has none, the sources that have some are printed on stderr.
pub fn print_snapshots(
    snapshots: Vec<SnapshotSummary>,
    source: Option<&SourceName>,
    output: Output,
) -> Result<u8, CliError> {
    if let Some(missing) = source.and_then(|source| without_snapshots(&snapshots, source)) {
        note(&missing);
    }
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
                Quality::Proven if snapshot.record().is_accepted_without_proof() => {
                    format!("{}, accepted", tag(SnapshotIdentity::PROOF))
                }
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

/// The message about a source that has no snapshots; none if it has some.
fn without_snapshots(snapshots: &[SnapshotSummary], source: &SourceName) -> Option<String> {
    let names: Vec<&str> =
        snapshots.iter().filter_map(|snapshot| snapshot.identity.tag(SnapshotIdentity::SOURCE)).collect();
    (!names.contains(&source.as_str())).then(|| {
        let known = similar_sources(names, source.as_str());
        format!("the repository has no snapshot of {source}; it has snapshots of: {known}")
    })
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
    let escaped = rows.map(|row| row.map(|cell| escape(&cell).into_owned()));
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned)).chain(escaped).collect();
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        print_line(cells.join("   ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_without_snapshots_is_answered_with_the_sources_that_have_some() {
        let snapshot = SnapshotSummary {
            id: "aa".to_owned(),
            time: Timestamp::UNIX_EPOCH,
            identity: SnapshotIdentity {
                host: "shop".to_owned(),
                path: "/data/cask".to_owned(),
                tags: vec!["source=pvc/cask".to_owned()],
            },
            paths: Vec::new(),
            bytes: None,
        };
        let of = |source: &str| without_snapshots(std::slice::from_ref(&snapshot), &source.parse().unwrap());
        assert_eq!(of("pvc/cask"), None);
        let message = "the repository has no snapshot of pvc/caks; it has snapshots of: pvc/cask";
        assert_eq!(of("pvc/caks").as_deref(), Some(message));
    }

    #[test]
    fn json_of_hostile_names_stays_the_same_json_and_drives_no_terminal() {
        let name = "a\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\nü";
        let text = escape_json(&serde_json::json!({ "path": name }).to_string());
        assert!(text.is_ascii() || text.chars().filter(|character| !character.is_ascii()).eq(['ü']), "{text:?}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["path"], name);
    }
}
