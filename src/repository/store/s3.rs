//! A repository's files as objects of an S3 bucket, in restic's layout.
//!
//! It must not know what the files mean. Retries and deadlines are its caller's.

use std::sync::Once;

use bytes::Bytes;
use futures::TryStreamExt;
use opendal::{Error, ErrorKind, Operator, services};

use super::{super::S3Credentials, Write};
use crate::model::S3Config;

/// A bucket, or a prefix in one.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    operator: Operator,
}

impl Bucket {
    pub fn new(config: &S3Config, credentials: &S3Credentials) -> Result<Self, Error> {
        super::install_transport();
        let mut builder = services::S3::default()
            .endpoint(&config.endpoint)
            .bucket(&config.bucket)
            .root(&format!("/{}", config.prefix.trim_matches('/')))
            .region(&config.region)
            .access_key_id(credentials.access_key_id.expose())
            .secret_access_key(credentials.secret_access_key.expose())
            // What was given counts; nothing from the environment, files or the cloud's metadata service.
            .disable_config_load()
            .disable_ec2_metadata()
            // The server compares what arrived.
            .checksum_algorithm("md5");
        if let Some(token) = &credentials.session_token {
            builder = builder.session_token(token.expose());
        }
        if !config.path_style {
            builder = builder.enable_virtual_host_style();
        }
        Ok(Self { operator: Operator::new(builder)? })
    }

    pub async fn stat(&self, path: &str) -> Result<u64, Error> {
        self.operator.stat(path).await.map(|metadata| metadata.content_length())
    }

    pub async fn read(&self, path: &str) -> Result<Bytes, Error> {
        self.operator.read(path).await.map(|data| data.to_bytes())
    }

    pub async fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, Error> {
        self.operator.read_with(path).range(offset..offset + length).await.map(|data| data.to_bytes())
    }

    /// Names and sizes of all objects of a folder and of those below it, or an error.
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, Error> {
        let mut lister = self.operator.lister_with(&format!("{folder}/")).recursive(true).await?;
        let mut files = Vec::new();
        while let Some(entry) = lister.try_next().await? {
            if entry.metadata().is_file() {
                files.push((entry.name().to_owned(), entry.metadata().content_length()));
            }
        }
        Ok(files)
    }

    pub async fn write(&self, path: &str, content: &[Bytes], mode: Write) -> Result<(), Error> {
        let content = content.to_vec();
        match mode {
            Write::Replace => self.operator.write(path, content).await.map(drop),
            Write::CreateNew => match self.operator.write_with(path, content.clone()).if_not_exists(true).await {
                // A service that knows no conditions (501): the caller has looked just before.
                Err(error) if status(&error) == Some(501) => self.operator.write(path, content).await.map(drop),
                written => written.map(drop),
            },
        }
    }

    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.operator.delete(path).await
    }
}

/// The status that the service answered with: the library keeps it as text only.
fn status(error: &Error) -> Option<u16> {
    let text = error.to_string();
    let (_, rest) = text.split_once("status: ")?;
    rest.get(..3)?.parse().ok()
}

/// Whether the service says that it, or a quota of it, is full.
pub(super) fn is_full(error: &Error) -> bool {
    const CODES: [&str; 4] = ["XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "StorageFull"];
    status(error) == Some(507) || CODES.iter().any(|code| error.message().contains(code))
}

/// Whether the service was reached, and refused for good.
pub(super) fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConfigInvalid | ErrorKind::Unsupported)
        || status(error)
            .is_some_and(|status| (400..500).contains(&status) && ![408, 409, 425, 429, 499].contains(&status))
}

/// See [`super::install_transport`].
pub(super) fn install() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        // An error says that somebody else has chosen a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        opendal_http_transport_reqwest::install_default();
    });
}
