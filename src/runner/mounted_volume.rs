//! A volume of the app's pod, as the arguments of the sidecar and the restore step describe it. Arguments of a
//! container cannot be changed later.

use std::{fmt, path::PathBuf, str::FromStr};

use super::settings;
use crate::model::{SourceName, SourceNameError, injected::VOLUMES_FOLDER};

/// `NAME=SOURCE`, or `NAME` for a volume which is deleted with its pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountedVolume {
    /// Name of the pod's volume.
    pub name: String,
    /// The source which the volume is, if it is a source.
    pub source: Option<SourceName>,
}

/// Why a text does not describe a volume.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MountedVolumeError {
    /// Not a valid name of a volume in Kubernetes.
    #[error("{0:?} is not a valid volume name")]
    Name(String),
    /// Not a valid name of a source.
    #[error(transparent)]
    Source(#[from] SourceNameError),
}

impl MountedVolume {
    /// The folder where the volume is mounted.
    pub fn folder(&self) -> PathBuf {
        settings::mounted(VOLUMES_FOLDER).join(&self.name)
    }
}

impl FromStr for MountedVolume {
    type Err = MountedVolumeError;

    fn from_str(text: &str) -> Result<Self, MountedVolumeError> {
        let (name, source) = text.split_once('=').map_or((text, None), |(name, source)| (name, Some(source)));
        let is_of_a_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_of_a_name) {
            return Err(MountedVolumeError::Name(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), source: source.map(str::parse).transpose()? })
    }
}

impl fmt::Display for MountedVolume {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(formatter, "{}={source}", self.name),
            None => formatter.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_parsed_from_the_injected_arguments() {
        let volume: MountedVolume = "data=pvc/data-db-0".parse().unwrap();
        assert_eq!((volume.name.as_str(), volume.source.as_ref().unwrap().as_str()), ("data", "pvc/data-db-0"));
        assert_eq!(volume.to_string(), "data=pvc/data-db-0");
        assert_eq!("cache".parse(), Ok(MountedVolume { name: "cache".into(), source: None }));
        for wrong in ["", "=pvc/x", "../x", "a/b", "data=", "data=x", "UPPER"] {
            assert!(wrong.parse::<MountedVolume>().is_err(), "{wrong:?}");
        }
    }
}
