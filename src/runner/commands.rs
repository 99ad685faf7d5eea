//! Finds the pod of a run and the command which its annotations specify. Rejects a pod which is not the planned one.
//!
//! The command line stays in memory and is never logged, because it may hold passwords.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};

use super::JudgedCommand;
use crate::{
    annotations::{self, CommandRequest},
    api::Restore,
    model::{
        Failure, LiteralSyntax, Reason, TargetCommand,
        injected::{HELPER_MOUNT, HELPER_PROGRAM, HELPER_VOLUME},
    },
    seal::ExecMode,
};

/// The pod with the name and UID of `target`.
pub async fn find_pod(client: &Client, target: &TargetCommand) -> Result<Pod, Failure> {
    let pod_name = format!("pod {}/{}", target.namespace, target.pod);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &target.namespace);
    let pod = pods
        .get_opt(&target.pod)
        .await
        .map_err(|error| Failure::new(Reason::ExecRefused, format!("failed to read {pod_name}: {error}")))?
        .ok_or_else(|| Failure::new(Reason::PodGone, format!("{pod_name} no longer exists")))?;
    check(&pod, target, &pod_name)?;
    Ok(pod)
}

fn check(pod: &Pod, target: &TargetCommand, pod_name: &str) -> Result<(), Failure> {
    if pod.metadata.uid.as_deref() != Some(&target.pod_uid) {
        return Err(Failure::new(Reason::PodGone, format!("{pod_name} was replaced since the run was planned")));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(Failure::new(Reason::PodGone, format!("{pod_name} is being deleted")));
    }
    let running = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses).flatten())
        .find(|container| container.name == target.container)
        .is_some_and(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()));
    if !running {
        let message = format!("container {} of {pod_name} is not running", target.container);
        return Err(Failure::new(Reason::PodGone, message));
    }
    Ok(())
}

/// Selects the helper if the webhook has injected it into the container and its init container has succeeded, and else
/// the shell.
pub fn exec_mode(pod: &Pod, target: &TargetCommand) -> ExecMode {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let is_mounted = containers
        .filter(|container| container.name == target.container)
        .flat_map(|container| container.volume_mounts.iter().flatten())
        .any(|mount| mount.name == HELPER_VOLUME && mount.mount_path == HELPER_MOUNT);
    let is_copied = pod
        .status
        .iter()
        .flat_map(|status| status.init_container_statuses.iter().flatten())
        .filter(|container| container.name == HELPER_VOLUME)
        .filter_map(|container| container.state.as_ref()?.terminated.as_ref())
        .any(|terminated| terminated.exit_code == 0);
    if is_mounted && is_copied { ExecMode::Helper(HELPER_PROGRAM.to_owned()) } else { ExecMode::Shell }
}

/// The command which the annotations of the pod specify for the target.
pub fn annotated_command(pod: &Pod, target: &TargetCommand) -> Result<CommandRequest, Failure> {
    let pod_name = format!("pod {}/{}", target.namespace, target.pod);
    let none = std::collections::BTreeMap::new();
    let request = annotations::parse(pod.metadata.annotations.as_ref().unwrap_or(&none)).map_err(|problems| {
        Failure::new(Reason::InvalidRequest, format!("the annotations of {pod_name}: {problems}"))
    })?;
    request.into_iter().flat_map(|request| request.commands).find(|command| command.name == target.command).ok_or_else(
        || {
            let which = target.command.as_ref().map_or_else(String::new, |name| format!(".{name}"));
            let message = format!("{pod_name} has no annotation stowaway.dev/backupcommand{which} any more");
            Failure::new(Reason::InvalidRequest, message)
        },
    )
}

/// The command of a backup, as it is run.
pub fn backup_command(pod: &Pod, target: &TargetCommand) -> Result<JudgedCommand, Failure> {
    let request = annotated_command(pod, target)?;
    Ok(JudgedCommand::new(request.argv, request.pipefail).with_literal(request.literal.as_ref()))
}

/// The command which receives a restore: the command of the Restore, or else the annotation `restorecommand` of that
/// source.
pub async fn restore_command(
    client: &Client,
    namespace: &str,
    restore: &str,
    pod: &Pod,
    target: &TargetCommand,
) -> Result<JudgedCommand, Failure> {
    let restores: Api<Restore> = Api::namespaced(client.clone(), namespace);
    let spec = restores
        .get(restore)
        .await
        .map_err(|error| {
            Failure::new(Reason::InvalidRequest, format!("failed to read the Restore {namespace}/{restore}: {error}"))
        })?
        .spec;
    let own = spec.to.unwrap_or_default().command;
    if !own.is_empty() {
        let literal = LiteralSyntax::of(&own, &[]);
        return Ok(JudgedCommand::new(own, true).with_literal(literal.as_ref()));
    }
    let request = annotated_command(pod, target)?;
    let argv = request.restore_argv.ok_or_else(|| {
        let message = format!(
            "pod {}/{} has no annotation stowaway.dev/restorecommand for this source; add it, or give the Restore a command",
            target.namespace, target.pod
        );
        Failure::new(Reason::InvalidRequest, message)
    })?;
    Ok(JudgedCommand::new(argv, request.pipefail).with_literal(request.restore_literal.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> TargetCommand {
        TargetCommand {
            namespace: "shop".into(),
            pod: "db-0".into(),
            pod_uid: "u".into(),
            container: "pg".into(),
            command: None,
        }
    }

    fn pod(container: &str, volume: &str, path: &str, state: &serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "spec": {"containers": [{"name": "first"}, {"name": container, "volumeMounts": [{"name": volume, "mountPath": path}]}]},
            "status": {"initContainerStatuses": [
                {"name": "stowaway-helper", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state}
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn helper_is_used_only_where_it_is_mounted_and_copied() {
        let done = &serde_json::json!({"terminated": {"exitCode": 0}});
        let helper = ExecMode::Helper("/stowaway/stowaway-helper".to_owned());
        assert_eq!(exec_mode(&pod("pg", "stowaway-helper", "/stowaway", done), &target()), helper);
        for other in [
            pod("other", "stowaway-helper", "/stowaway", done),
            pod("pg", "data", "/stowaway", done),
            pod("pg", "stowaway-helper", "/elsewhere", done),
            pod("pg", "stowaway-helper", "/stowaway", &serde_json::json!({"terminated": {"exitCode": 1}})),
            pod("pg", "stowaway-helper", "/stowaway", &serde_json::json!({"running": {}})),
            Pod::default(),
        ] {
            assert_eq!(exec_mode(&other, &target()), ExecMode::Shell);
        }
    }
}
