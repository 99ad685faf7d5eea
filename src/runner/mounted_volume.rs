//! A volume of the app's pod as sidecar and restore step are told of it: by their arguments, which nobody can change later.
//!
//! It must not know what is done with it.

use std::{fmt, path::PathBuf, str::FromStr};

use super::settings;
use crate::model::{SourceName, SourceNameError, injected::VOLUMES_FOLDER};

/// `NAME=SOURCE`, or `NAME` for one that ends with its pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountedVolume {
    /// Name of the pod's volume.
    pub name: String,
    /// The source that it is, if it is one.
    pub source: Option<SourceName>,
}

/// Why a text is no volume.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MountedVolumeError {
    /// Kubernetes has no volume of that name.
    #[error("{0:?} is no name of a volume")]
    Name(String),
    /// What it is said to be is nothing.
    #[error(transparent)]
    Source(#[from] SourceNameError),
}

impl MountedVolume {
    /// Where it is mounted.
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
    fn volumes_are_named_as_the_injected_arguments_say() {
        let volume: MountedVolume = "data=pvc/data-db-0".parse().unwrap();
        assert_eq!((volume.name.as_str(), volume.source.as_ref().unwrap().as_str()), ("data", "pvc/data-db-0"));
        assert_eq!(volume.to_string(), "data=pvc/data-db-0");
        assert_eq!("cache".parse(), Ok(MountedVolume { name: "cache".into(), source: None }));
        for wrong in ["", "=pvc/x", "../x", "a/b", "data=", "data=x", "UPPER"] {
            assert!(wrong.parse::<MountedVolume>().is_err(), "{wrong:?}");
        }
    }
}
