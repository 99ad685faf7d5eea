//! A bucket of an S3 service.
//!
//! A service that refuses a request because of a wrong region reports the right region, in a header or in the body. The
//! request is then repeated once, signed for that region.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Request, Response, StatusCode};
use opendal::{Buffer, Error, HttpBody, HttpTransport, HttpTransporter, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::Client;

use super::connection::{Parts, operator_with, root};
use stowaway_model::{Credential, S3Config, Secret, is_region};

/// The header with which Amazon reports a bucket's region.
const REGION_HEADER: &str = "x-amz-bucket-region";
/// How many bytes of a refusal are searched for a region. Such an answer has a few hundred bytes.
const MAX_REFUSAL_BYTES: usize = 64 << 10;

/// The parameters for a connection to a bucket.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    config: S3Config,
    credentials: BTreeMap<Credential, Secret>,
    client: Client,
    /// The region that the service reported in its last refusal.
    reported: Arc<Mutex<Option<String>>>,
    /// Whether the region was already corrected to one that the service reported. It is corrected only once.
    is_corrected: bool,
}

impl Bucket {
    /// A bucket that is accessed with the given keys, or else with the identity of the machine or pod.
    pub fn new(config: &S3Config, credentials: &BTreeMap<Credential, Secret>, client: &Client) -> Self {
        Self {
            config: config.clone(),
            credentials: credentials.clone(),
            client: client.clone(),
            reported: Arc::default(),
            is_corrected: false,
        }
    }

    /// Returns the operator for whole objects, and the mode of multipart uploads.
    pub fn connect(&self) -> Result<(Operator, Parts), String> {
        let transport = || HttpTransporter::new(RegionObserver::new(&self.client, &self.reported));
        // The server compares the received content with this checksum.
        let whole = self.builder().checksum_algorithm("md5");
        // Parts have no checksum: the library does not support MD5 for parts, and there is no other checksum that all
        // services support.
        let parts = Parts::Plain(operator_with(self.builder(), transport())?);
        Ok((operator_with(whole, transport())?, parts))
    }

    /// Returns the bucket in the region that the service reported, if that is another region.
    pub fn in_reported_region(&self) -> Option<Self> {
        let reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let region = reported.filter(|region| !self.is_corrected && *region != self.config.region)?;
        tracing::info!(
            "the store reports the region {region} instead of {}: requests are signed for {region}",
            self.config.region
        );
        let config = self.config.in_region(&region);
        Some(Self { config, reported: Arc::default(), is_corrected: true, ..self.clone() })
    }

    /// Whether this connection uses a region that the service reported.
    pub fn is_corrected(&self) -> bool {
        self.is_corrected
    }

    fn builder(&self) -> services::S3 {
        let Self { config, credentials, .. } = self;
        let given = |credential| credentials.get(&credential).map(Secret::expose);
        let mut builder = services::S3::default()
            .endpoint(&config.endpoint)
            .bucket(&config.bucket)
            .root(&root(&config.prefix))
            .region(&config.region);
        if !config.path_style {
            builder = builder.enable_virtual_host_style();
        }
        if let Some(id) = given(Credential::S3AccessKeyId) {
            builder = builder
                .access_key_id(id)
                .secret_access_key(given(Credential::S3SecretAccessKey).unwrap_or_default())
                // Only the given credential is used, and none from the environment, files or the cloud's metadata
                // service.
                .disable_config_load()
                .disable_ec2_metadata();
        }
        if let Some(token) = given(Credential::S3SessionToken) {
            builder = builder.session_token(token);
        }
        builder
    }
}

/// Records the region that a refusal contains, because the library does not provide it.
#[derive(Clone)]
struct RegionObserver {
    transport: ReqwestTransport,
    reported: Arc<Mutex<Option<String>>>,
}

impl RegionObserver {
    fn new(client: &Client, reported: &Arc<Mutex<Option<String>>>) -> Self {
        Self { transport: ReqwestTransport::new(client.clone()), reported: Arc::clone(reported) }
    }
}

impl HttpTransport for RegionObserver {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, Error> {
        let response = self.transport.fetch(request).await?;
        if !is_refusal(response.status()) {
            return Ok(response);
        }
        let header = response.headers().get(REGION_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (parts, mut body) = response.into_parts();
        let content = body.to_buffer().await?;
        let in_body = || {
            let bytes = content.to_bytes();
            let text = String::from_utf8_lossy(bytes.get(..bytes.len().min(MAX_REFUSAL_BYTES)).unwrap_or_default());
            region_in_refusal(&text).map(str::to_owned)
        };
        if let Some(region) = header.or_else(in_body).filter(|region| is_region(region)) {
            *self.reported.lock().unwrap_or_else(PoisonError::into_inner) = Some(region);
        }
        let length = content.len() as u64;
        Ok(Response::from_parts(parts, HttpBody::new(futures::stream::iter([Ok(content)]), Some(length))))
    }
}

/// Whether an answer with this status may be about the region.
fn is_refusal(status: StatusCode) -> bool {
    [StatusCode::MOVED_PERMANENTLY, StatusCode::TEMPORARY_REDIRECT, StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN]
        .contains(&status)
}

/// Returns the region in the body of a refusal: `<Region>eu-central-1</Region>`.
fn region_in_refusal(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("<Region>")?;
    rest.split_once("</Region>").map(|(region, _)| region.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_is_found_in_the_refusals_of_services() {
        for (body, region) in [
            (
                "<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>the region \
                 'us-east-1' is wrong; expecting 'eu-central-1'</Message><Region>eu-central-1</Region></Error>",
                Some("eu-central-1"),
            ),
            ("<Error><Code>AccessDenied</Code></Error>", None),
            ("<Error><Region>", None),
            ("", None),
        ] {
            assert_eq!(region_in_refusal(body), region);
        }
    }
}
