//! A snapshot as an archive: its format, its name, the parameters of the run that writes it, and the report.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackendConfig, Connection, SourceName, WantedSnapshot};

/// The format of an archive: a tar, plain or compressed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum ArchiveFormat {
    /// Not compressed.
    #[serde(rename = "tar")]
    Tar,
    /// Compressed with gzip.
    #[default]
    #[serde(rename = "tar.gz")]
    TarGzip,
    /// Compressed with LZ4, in its frame format.
    #[serde(rename = "tar.lz4")]
    TarLz4,
    /// Compressed with Zstandard.
    #[serde(rename = "tar.zst")]
    TarZstd,
}

impl ArchiveFormat {
    pub const ALL: [Self; 4] = [Self::Tar, Self::TarGzip, Self::TarLz4, Self::TarZstd];

    /// The format's name, which is also the suffix of file names, without a leading dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::TarGzip => "tar.gz",
            Self::TarLz4 => "tar.lz4",
            Self::TarZstd => "tar.zst",
        }
    }
}

impl fmt::Display for ArchiveFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.extension())
    }
}

impl FromStr for ArchiveFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::extension).join(", ");
        let found = Self::ALL.into_iter().find(|format| format.extension() == text);
        found.ok_or_else(|| format!("{text:?} is not a format of an archive; use one of {}", known()))
    }
}

/// The parameters of a run that writes an archive.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArchiveRestore {
    pub from: WantedSnapshot,
    /// Only these paths, relative to the root of the volume; everything when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    pub format: ArchiveFormat,
    /// Name of the object or file within the store; see [`archive_name`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Replace an existing object or file of that name.
    #[serde(default)]
    pub overwrite: bool,
    /// The store of the archive.
    pub backend: BackendConfig,
    /// Name of the store's volume in the reported location, for example `pvc:handover`; empty if the store is not on a
    /// volume.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub volume: String,
    #[serde(default, skip_serializing_if = "Connection::is_plain")]
    pub connection: Connection,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// An archive that is complete in its store.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveReport {
    /// Location of the archive: the store without credentials, and the name; on a volume, the volume and the path from
    /// its root, for example `pvc:handover/shop/data.tar.gz`.
    #[schemars(length(max = 2048))]
    pub location: String,
    /// Format of the archive.
    pub format: ArchiveFormat,
    /// Size of the archive in bytes.
    #[schemars(with = "i64", range(min = 0))]
    pub bytes: u64,
    /// SHA-256 of the archive, 64 hex digits, as `sha256sum` prints it.
    #[schemars(length(max = 64))]
    pub sha256: String,
}

/// The name of an archive if the user sets none: `<source>/<time>-<id>.<format>`, with the time in UTC and the first 8
/// digits of the snapshot's id.
pub fn archive_name(source: &SourceName, time: Timestamp, snapshot: &str, format: ArchiveFormat) -> String {
    let time = time.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ");
    format!("{source}/{time}-{}.{format}", &snapshot[..snapshot.floor_char_boundary(8)])
}

/// Why the name of an archive is invalid, beyond its characters, which the schema restricts. An archive must not have a
/// name that a file of a repository can have.
pub fn wrong_archive_name(name: &str) -> Option<&'static str> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let is_hash = last.len() == 64 && last.bytes().all(|byte| byte.is_ascii_hexdigit());
    if last == "config" || is_hash {
        return Some("is the name of a file of a repository; give the archive another name");
    }
    // The schema allows none of these, but a task could contain them.
    let leads_out = name.split('/').any(|part| matches!(part, "" | "." | "..")) || name.contains('\0');
    leads_out.then_some("is not a valid name: it must not have empty parts, . or ..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_name_contains_source_time_and_snapshot() {
        let time = "2026-05-04T03:02:01.5Z".parse().unwrap();
        let name = archive_name(&"pvc/data".parse().unwrap(), time, &"5f3a9c21".repeat(8), ArchiveFormat::TarZstd);
        assert_eq!(name, "pvc/data/20260504T030201Z-5f3a9c21.tar.zst");
        assert_eq!(wrong_archive_name(&name), None);
    }

    #[test]
    fn formats_are_written_as_they_are_read() {
        for format in ArchiveFormat::ALL {
            assert_eq!(serde_json::to_value(format).unwrap(), format.extension());
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("zip".parse::<ArchiveFormat>().is_err());
    }

    #[test]
    fn files_of_a_repository_and_what_is_elsewhere_are_no_archives() {
        let hash = "0a".repeat(32);
        for name in ["config", "shop/config", &hash, &format!("data/0a/{hash}"), "../x", "a//b", "a/./b", "", "/a"] {
            assert!(wrong_archive_name(name).is_some(), "{name:?}");
        }
        for name in ["a.tar", "shop/config.tar", &hash[..63], "...x"] {
            assert_eq!(wrong_archive_name(name), None, "{name:?}");
        }
    }
}
