//! A folder of this machine.

use stowaway::model::BackendConfig;

use super::{Server, access};

pub fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap().to_owned();
    Server {
        access: access(BackendConfig::Folder { path: url.clone() }, &[]),
        url,
        environment: Vec::new(),
        options: Vec::new(),
        newest_options: Vec::new(),
        running: None,
        kept: vec![Box::new(folder)],
    }
}
