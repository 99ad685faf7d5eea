//! The manifests of `examples/` are accepted as they are: by the API server's schemas, by the policies and by the webhook.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use stowaway_e2e::{Namespace, in_namespace, process};

/// Smaller numbers mean that the directory was not found.
const FEWEST_EXAMPLES: usize = 15;

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_accepted_by_the_api_server() -> Result<()> {
    in_namespace("examples", async |namespace: &Namespace| {
        let mut files = Vec::new();
        for directory in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"))? {
            let directory = directory?.path();
            if directory.is_dir() {
                for file in fs::read_dir(directory)? {
                    files.push(file?.path());
                }
            }
        }
        ensure!(files.len() >= FEWEST_EXAMPLES, "only {files:?}");
        for file in files {
            let path = file.to_string_lossy();
            let arguments = ["create", "--dry-run=server", "--validate=strict", "--filename", &path];
            process::run(&mut namespace.kubectl(&arguments)).with_context(|| format!("{path} was refused"))?;
        }
        Ok(())
    })
    .await
}
