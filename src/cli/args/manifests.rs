//! The arguments of `stowaway manifests`.

use std::path::PathBuf;

use clap::Args;

use crate::{
    annotations::{label, object_name},
    model::image::reference_problem,
    resources::manifests::{AmountList, IMAGE, NAMESPACE},
    telemetry::LogFormat,
};

/// `stowaway manifests`
#[derive(Args, Debug)]
pub struct ManifestsArguments {
    /// Folder to write to.
    #[arg(long)]
    pub output: PathBuf,
    /// Image reference of the controller, the webhook, the runs and the injected containers. A digest
    /// (REGISTRY/stowaway@sha256:...) pins the content of the image.
    #[arg(long, default_value = IMAGE, value_parser = image)]
    pub image: String,
    /// Namespace of the controller and the webhook. The file creates it.
    #[arg(long, default_value = NAMESPACE, value_parser = namespace)]
    pub namespace: String,
    /// Name of a Secret in that namespace with which the controller's and the webhook's image is pulled; can be repeated.
    /// (The pods of runs use runnerPod.imagePullSecrets of the Repository.)
    #[arg(long = "image-pull-secret", value_name = "NAME", value_parser = secret)]
    pub image_pull_secrets: Vec<String>,
    /// Format of the controller's and the webhook's log lines.
    #[arg(long, value_enum, default_value_t)]
    pub component_log_format: LogFormat,
    /// Requests of the controller that replace the default ones, for example cpu=100m,memory=128Mi.
    #[arg(long, value_name = "RESOURCE=AMOUNT,...")]
    pub controller_requests: Option<AmountList>,
    /// Limits of the controller that replace the default ones, for example memory=512Mi.
    #[arg(long, value_name = "RESOURCE=AMOUNT,...")]
    pub controller_limits: Option<AmountList>,
    /// Requests of the webhook that replace the default ones.
    #[arg(long, value_name = "RESOURCE=AMOUNT,...")]
    pub webhook_requests: Option<AmountList>,
    /// Limits of the webhook that replace the default ones.
    #[arg(long, value_name = "RESOURCE=AMOUNT,...")]
    pub webhook_limits: Option<AmountList>,
    /// Let cert-manager, which must be installed, issue the webhook's certificate. By default, the webhook issues
    /// its own.
    #[arg(long)]
    pub cert_manager: bool,
}

fn image(text: &str) -> Result<String, String> {
    reference_problem(text).map_or_else(|| Ok(text.to_owned()), Err)
}

fn namespace(text: &str) -> Result<String, String> {
    label(text).map(|()| text.to_owned())
}

fn secret(text: &str) -> Result<String, String> {
    object_name(text).map(|()| text.to_owned())
}
