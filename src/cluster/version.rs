//! Whether the cluster runs a version of Kubernetes that Stowaway supports.

use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Client;

use super::call::{self, CallError};

/// The oldest supported minor version of Kubernetes 1.
const OLDEST_MINOR: u32 = 33;

/// Why the cluster's version is not supported, and what to do about it. None if it is supported.
pub async fn problem(client: &Client) -> Result<Option<String>, CallError> {
    let info = call::within(client.apiserver_version()).await;
    Ok(judge(&info.map_err(CallError::at("read the version of Kubernetes"))?))
}

/// A version that cannot be parsed is taken for a supported one.
fn judge(info: &Info) -> Option<String> {
    let version = (number(&info.major)?, number(&info.minor)?);
    (version < (1, OLDEST_MINOR)).then(|| {
        format!(
            "the cluster runs Kubernetes {}, which Stowaway does not support: Kubernetes 1.{OLDEST_MINOR} is the oldest version \
             with native sidecars, ValidatingAdmissionPolicy and exec protocol v5 alike; upgrade the cluster",
            info.git_version
        )
    })
}

/// The leading digits, because clouds append a plus sign to the minor version.
fn number(text: &str) -> Option<u32> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(major: &str, minor: &str) -> Option<String> {
        let git_version = format!("v{major}.{minor}.4");
        judge(&Info { major: major.into(), minor: minor.into(), git_version, ..Info::default() })
    }

    #[test]
    fn versions_before_the_oldest_supported_one_are_reported_with_the_next_step() {
        for (major, minor) in [("1", "33"), ("1", "33+"), ("1", "36"), ("2", "0"), ("", ""), ("1", "x")] {
            assert_eq!(judged(major, minor), None, "{major}.{minor}");
        }
        for minor in ["32", "32+", "9"] {
            let problem = judged("1", minor).unwrap();
            assert!(problem.contains(&format!("Kubernetes v1.{minor}.4")), "{problem}");
            assert!(problem.ends_with("upgrade the cluster"), "{problem}");
        }
    }

    #[test]
    fn the_documents_name_the_oldest_supported_version() {
        let page = include_str!("../../docs/install.md");
        assert!(page.contains(&format!("Kubernetes 1.{OLDEST_MINOR} or newer")), "{page}");
    }
}
