//! Parses and writes `AdmissionReview` of `admission.k8s.io/v1` as JSON.
//!
//! The objects are parsed as strictly as everywhere in Stowaway. Values of the request never become part of an error,
//! because pods contain passwords.
//!
//! kube's own response type is not used: it writes the patch as a list of numbers, while the API specifies base64.

mod object;

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use json_patch::Patch;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use object::Object;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// The limits of one warning and of all warnings, beyond which the API server cuts them (in characters; this code
/// counts bytes).
const MAX_WARNING_BYTES: usize = 256;
const MAX_WARNINGS_BYTES: usize = 4096;
/// Room for the warning that further warnings were left out.
const MORE_BYTES: usize = 64;
/// The maximum number of causes, and the maximum length of a message, in an answer.
const MAX_CAUSES: usize = 256;
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// The maximum length of a value of an audit annotation.
const MAX_AUDIT_BYTES: usize = 2048;

/// The review as the API server sends it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReviewRequest {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// The request of a review. It has no `Debug`, because it contains secrets.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Returned in the answer.
    #[serde(default)]
    pub uid: String,
    /// Group and kind of the object.
    #[serde(default)]
    pub kind: Kind,
    /// For example `status`; empty for the object itself.
    #[serde(default)]
    pub sub_resource: String,
    /// The object's name; may be empty when it is being created.
    #[serde(default)]
    pub name: String,
    /// The object's namespace.
    #[serde(default)]
    pub namespace: String,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(default)]
    pub operation: String,
    /// Whether the request is a dry run.
    #[serde(default)]
    pub dry_run: bool,
    object: Option<Object>,
    old_object: Option<Object>,
}

impl Request {
    /// The new version of the object; none for a deletion.
    pub fn object(&self) -> Option<&Value> {
        self.object.as_ref().map(|Object(object)| object)
    }

    /// The old version of the object; none for a creation.
    pub fn old_object(&self) -> Option<&Value> {
        self.old_object.as_ref().map(|Object(object)| object)
    }

    /// Whether the request creates the object itself.
    pub fn is_create(&self) -> bool {
        self.operation == "CREATE" && self.sub_resource.is_empty()
    }

    /// Whether the request updates the object itself.
    pub fn is_update(&self) -> bool {
        self.operation == "UPDATE" && self.sub_resource.is_empty()
    }
}

/// A kind with its group.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Kind {
    /// Empty for the core group.
    #[serde(default)]
    pub group: String,
    /// For example `Pod`.
    #[serde(default)]
    pub kind: String,
}

/// Why a request is not a review that this webhook can answer.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, or with a duplicate key, or with another structure.
    #[error("the request cannot be parsed as an AdmissionReview: {0}")]
    Malformed(String),
    /// Another API or version.
    #[error("this webhook answers {KIND} of {API_VERSION}; the request has another kind or version")]
    Version,
    /// There is no request in the review.
    #[error("the AdmissionReview has no request with a uid")]
    NoRequest,
    /// There is no object in the request.
    #[error("the request has no object")]
    NoObject,
    /// The request was sent to the wrong path.
    #[error("this path does not handle objects of this kind; see the webhook configuration")]
    WrongKind,
}

/// Parses a review.
///
/// # Errors
/// When the text is not a review.
pub fn read(text: &[u8]) -> Result<Request, ReviewError> {
    let review: ReviewRequest = serde_json::from_slice(text).map_err(|error| ReviewError::Malformed(shown(&error)))?;
    if review.api_version != API_VERSION || review.kind != KIND {
        return Err(ReviewError::Version);
    }
    review.request.filter(|request| !request.uid.is_empty()).ok_or(ReviewError::NoRequest)
}

/// The error without any value of the request.
fn shown(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let names_only = ["the key ", "duplicate field "].iter().any(|known| text.starts_with(known));
    if !error.is_data() || names_only {
        return text;
    }
    format!("it has another structure, at line {} column {}", error.line(), error.column())
}

/// A refusal of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The kind of the refusal.
    pub kind: RefusalKind,
    /// All problems.
    pub problems: Vec<RefusedField>,
}

/// The kinds of refusal, by their status codes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefusalKind {
    /// The object requests something that is invalid: 422.
    Invalid,
    /// The object uses names that are reserved for Stowaway: 403.
    Forbidden,
}

impl RefusalKind {
    fn code(self) -> u16 {
        match self {
            Self::Invalid => 422,
            Self::Forbidden => 403,
        }
    }
}

/// One problem of an object.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RefusedField {
    /// The machine-readable reason.
    pub reason: String,
    /// The location of the problem, the problem itself, and how to fix it.
    pub message: String,
    /// Path of the field in the object; empty if the problem is not about a single field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// An answer before serialization.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The refusal; none if the object is admitted.
    pub refusal: Option<Refusal>,
    /// The patch of the object.
    pub patch: Patch,
    /// The warnings for the user, in full. They are cut when the answer is written.
    pub warnings: Vec<String>,
    /// Audit annotations. The API server prefixes the keys with the webhook's name.
    pub audit: BTreeMap<&'static str, String>,
}

impl Answer {
    /// The answer as JSON. The same answer to the same request always has the same bytes.
    ///
    /// # Errors
    /// Never in practice, because all of it is plain data.
    pub fn write(&self, request: &Request) -> Result<Vec<u8>, serde_json::Error> {
        let patch = if self.patch.is_empty() { None } else { Some(STANDARD.encode(serde_json::to_vec(&self.patch)?)) };
        let audit = self.audit.iter().map(|(key, value)| (*key, clip(value, MAX_AUDIT_BYTES))).collect();
        serde_json::to_vec(&ReviewResponse {
            api_version: API_VERSION,
            kind: KIND,
            response: Response {
                uid: &request.uid,
                allowed: self.refusal.is_none(),
                status: self.refusal.as_ref().map(|refusal| status(refusal, request)),
                patch_type: patch.as_ref().map(|_| "JSONPatch"),
                patch,
                warnings: clip_all(&self.warnings),
                audit_annotations: audit,
            },
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReviewResponse<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<&'static str, String>,
}

/// `Status` of `meta/v1`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'static str,
    #[serde(rename = "status")]
    outcome: &'static str,
    message: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    code: u16,
}

/// From these, `kubectl` prints one line per problem.
#[derive(Serialize)]
struct Details<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    kind: &'a str,
    causes: &'a [RefusedField],
}

fn status<'a>(refusal: &'a Refusal, request: &'a Request) -> Status<'a> {
    let mut message = String::new();
    for problem in &refusal.problems {
        let separator = if message.is_empty() { "" } else { "; " };
        message.push_str(separator);
        message.push_str(&problem.message);
    }
    Status {
        api_version: "",
        kind: "",
        outcome: "Failure",
        message: clip(&message, MAX_MESSAGE_BYTES),
        reason: format!("{:?}", refusal.kind),
        details: Some(Details {
            name: &request.name,
            group: &request.kind.group,
            kind: &request.kind.kind,
            causes: &refusal.problems[..refusal.problems.len().min(MAX_CAUSES)],
        }),
        code: refusal.kind.code(),
    }
}

/// The body of an HTTP response that is not a review. The API server then applies `failurePolicy`, and shows the
/// message.
///
/// # Errors
/// Never in practice, because all of it is plain data.
pub fn write_failure(code: u16, reason: impl fmt::Display, message: &str) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Status {
        api_version: "v1",
        kind: "Status",
        outcome: "Failure",
        message: message.to_owned(),
        reason: reason.to_string(),
        details: None,
        code,
    })
}

/// The text on one line, cut to at most `maximum` bytes.
fn clip(text: &str, maximum: usize) -> String {
    let line = |text: &str| text.replace(|character: char| character.is_control(), " ");
    if text.len() <= maximum {
        return line(text);
    }
    format!("{}…", line(&text[..text.floor_char_boundary(maximum - '…'.len_utf8())]))
}

/// The warnings within the API server's limits. The last one states how many were left out.
fn clip_all(warnings: &[String]) -> Vec<String> {
    let mut clipped = Vec::new();
    let mut bytes = 0;
    for (index, warning) in warnings.iter().enumerate() {
        let warning = clip(warning, MAX_WARNING_BYTES);
        if bytes + warning.len() + MORE_BYTES > MAX_WARNINGS_BYTES {
            clipped.push(format!("stowaway: and {} more warnings", warnings.len() - index));
            break;
        }
        bytes += warning.len();
        clipped.push(warning);
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_stay_within_the_limits_of_the_api_server() {
        let warnings: Vec<String> = (0..100).map(|index| format!("{index}\n{}", "ä".repeat(200))).collect();
        let clipped = clip_all(&warnings);
        assert!(clipped.iter().all(|warning| warning.len() <= 256 && !warning.contains('\n')));
        assert!(clipped.iter().map(String::len).sum::<usize>() <= 4096);
        let left_out = format!("stowaway: and {} more warnings", 101 - clipped.len());
        assert_eq!(clipped.last(), Some(&left_out));
        assert_eq!(clip_all(&["one".to_owned()]), ["one"]);
    }

    #[test]
    fn errors_contain_nothing_of_the_request() {
        for text in
            [r#"{"request": "hush"}"#, r#"{"kind": 5, "x": "hush"}"#, r#"{"request": {"object": hush}}"#, "hush"]
        {
            let error = read(text.as_bytes()).err().unwrap().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
        let twice = read(br#"{"request": {"uid": "1", "object": {"a": 1, "a": 2}}}"#).err().unwrap().to_string();
        assert!(twice.contains("\"a\" is there twice"), "{twice}");
    }
}
