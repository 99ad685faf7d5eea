//! Opens an exec connection through the API server, and maps the API server's errors to failures.

use kube::{
    Client, Error,
    api::AttachParams,
    client::UpgradeConnectionError,
    core::{Request, Status},
};
use tokio::time::{Duration, timeout};

use super::{Control, ExecTarget, Pings, Session, watch::Watch, websocket_session};
use crate::model::{Failure, Reason};

const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// Starts the command line in the container. With `stdin`, the end of stdin cancels the command.
pub(super) async fn open(
    client: &Client,
    target: &ExecTarget,
    line: &[String],
    stdin: bool,
    control: &Control,
) -> Result<Session, Failure> {
    let parameters =
        AttachParams::default().container(&target.container).stdin(stdin).stdout(true).stderr(true).tty(false);
    let request = Request::new(format!("/api/v1/namespaces/{}/pods", target.namespace))
        .exec(&target.pod, line, &parameters)
        .map_err(|error| {
            Failure::new(Reason::InvalidRequest, format!("the exec request for {target} is invalid: {error}"))
        })?;
    let watch = Watch::start(control);
    let connecting = watch.unless_interrupted(timeout(CONNECT_WITHIN, client.connect(request)));
    let connection = match connecting.await? {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(refusal(target, &error)),
        Err(_) => {
            let message = format!("the API server did not start an exec in {target} within {CONNECT_WITHIN:?}");
            return Err(Failure::new(Reason::StreamCut, message));
        }
    };
    if !connection.supports_stream_close() {
        let message = format!(
            "the API server offers no exec protocol v5 for {target}, without which a remote command cannot be ended: \
             Kubernetes 1.33 is the oldest supported version"
        );
        return Err(Failure::new(Reason::ExecRefused, message));
    }
    Ok(websocket_session(connection.into_stream(), Pings::default()))
}

fn refusal(target: &ExecTarget, error: &Error) -> Failure {
    match error {
        Error::Api(status) => refusal_by_status(target, status),
        Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) => Failure::new(
            Reason::ExecRefused,
            format!("the API server rejected an exec in {target} with HTTP status {code}"),
        ),
        Error::UpgradeConnection(error) => {
            let message = format!(
                "the server at the API server's address does not support the exec protocol for {target}: {error}"
            );
            Failure::new(Reason::ExecRefused, message)
        }
        error => {
            let message = format!("the exec request for {target} failed: {}", with_sources(error));
            Failure::new(Reason::StreamCut, message)
        }
    }
}

fn refusal_by_status(target: &ExecTarget, status: &Status) -> Failure {
    let message = &status.message;
    match status.code {
        404 => Failure::new(Reason::PodGone, format!("the pod of {target} no longer exists: {message}")),
        // The only thing which the validation of a well-formed exec request can reject is the container
        // (`pods/strategy.go`).
        400 => Failure::new(Reason::PodGone, format!("there is no running {target}: {message}")),
        401 | 403 => {
            let message = format!(
                "exec in {target} is forbidden; the service account needs get and create on pods/exec: {message}"
            );
            Failure::new(Reason::ExecRefused, message)
        }
        code => Failure::new(
            Reason::ExecRefused,
            format!("the API server rejected an exec in {target} ({code}): {message}"),
        ),
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_their_reasons_and_the_servers_message() {
        let target = ExecTarget { namespace: "shop".into(), pod: "db-0".into(), container: "pg".into() };
        for (code, reason) in
            [(400, Reason::PodGone), (403, Reason::ExecRefused), (404, Reason::PodGone), (500, Reason::ExecRefused)]
        {
            let failure = refusal(&target, &Error::Api(Status::failure("its message", "Any").with_code(code).boxed()));
            assert_eq!(failure.reason, reason);
            assert!(failure.message.contains("pg of pod shop/db-0") && failure.message.ends_with("its message"));
        }
    }
}
