//! Connections to an object store.

use opendal::{Builder, HttpTransporter, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::Client;

/// How a multipart upload to the service works.
#[derive(Clone, Debug)]
pub(super) enum Parts {
    /// With this operator, and without conditions, because few S3 services support them.
    Plain(Operator),
    /// With the condition "only if absent", if the caller requests it.
    OnlyIfAbsent,
    /// In a resumable session, which the library uses only if there is a condition.
    Session,
}

pub(super) fn operator(builder: impl Builder, client: &Client) -> Result<Operator, String> {
    operator_with(builder, HttpTransporter::new(ReqwestTransport::new(client.clone())))
}

pub(super) fn operator_with(builder: impl Builder, transport: HttpTransporter) -> Result<Operator, String> {
    let context = OperationContext::new().with_http_transport(transport);
    let operator = Operator::new(builder).map_err(|error| error.message().to_owned())?;
    Ok(operator.with_context(context))
}

/// Returns a prefix in the form that the library requires.
pub(super) fn root(prefix: &str) -> String {
    format!("/{}", prefix.trim_matches('/'))
}
