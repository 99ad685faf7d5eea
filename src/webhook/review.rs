//! The API server's questions and our answers: `AdmissionReview` of `admission.k8s.io/v1`, as JSON.
//!
//! It must not know how anything is decided. The objects are read as strictly as elsewhere; texts of the request get into
//! no error, since passwords stand in pods.
//!
//! kube's own answer is not used, since it writes the patch as a list of numbers, where the API has it in base64.

mod object;

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use json_patch::Patch;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use object::Object;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// How long one warning may be, and all of them, before the API server cuts them (in characters; we count bytes).
const MAXIMUM_WARNING_BYTES: usize = 256;
const MAXIMUM_WARNINGS_BYTES: usize = 4096;
/// Room for the warning that there are more warnings.
const MORE_BYTES: usize = 64;
/// How many causes, and how much of a message, an answer holds.
const MAXIMUM_CAUSES: usize = 256;
const MAXIMUM_MESSAGE_BYTES: usize = 16 * 1024;
/// How much of a value an audit annotation holds.
const MAXIMUM_AUDIT_BYTES: usize = 2048;

/// What the API server sends.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AskedReview {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// What is asked. There is no `Debug`: secrets stand in it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Echoed in the answer.
    #[serde(default)]
    pub uid: String,
    /// Of the object.
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
    /// Whether nothing will come of it.
    #[serde(default)]
    pub dry_run: bool,
    object: Option<Object>,
    old_object: Option<Object>,
}

impl Request {
    /// The object as it is to be; none when it is deleted.
    pub fn object(&self) -> Option<&Value> {
        self.object.as_ref().map(|Object(object)| object)
    }

    /// The object as it was; none when it is created.
    pub fn old_object(&self) -> Option<&Value> {
        self.old_object.as_ref().map(|Object(object)| object)
    }

    /// Whether the object itself is created.
    pub fn is_create(&self) -> bool {
        self.operation == "CREATE" && self.sub_resource.is_empty()
    }

    /// Whether the object itself is changed.
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

/// A text that is no question we could answer.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// No JSON, or a key twice, or not of this form.
    #[error("the request is not read as an AdmissionReview: {0}")]
    Malformed(String),
    /// Of another API.
    #[error("this webhook answers {KIND} of {API_VERSION}; the request is another kind or version")]
    Version,
    /// It asks nothing.
    #[error("the AdmissionReview has no request with a uid")]
    NoRequest,
    /// There is nothing to look at.
    #[error("the request has no object")]
    NoObject,
    /// Sent to the wrong path.
    #[error("an object of this kind is not looked at under this path; see the webhook configuration")]
    WrongKind,
}

/// Reads a question.
///
/// # Errors
/// When it is none.
pub fn read(text: &[u8]) -> Result<Request, ReviewError> {
    let review: AskedReview = serde_json::from_slice(text).map_err(|error| ReviewError::Malformed(shown(&error)))?;
    if review.api_version != API_VERSION || review.kind != KIND {
        return Err(ReviewError::Version);
    }
    review.request.filter(|request| !request.uid.is_empty()).ok_or(ReviewError::NoRequest)
}

/// The error without anything that stood in a value of the request.
fn shown(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let names_only = ["the key ", "duplicate field "].iter().any(|known| text.starts_with(known));
    if !error.is_data() || names_only {
        return text;
    }
    format!("it has not that form, at line {} column {}", error.line(), error.column())
}

/// Why an object is not admitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Which kind of refusal.
    pub kind: RefusalKind,
    /// All that is wrong.
    pub problems: Vec<RefusedField>,
}

/// The kinds of refusal that the API has words for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefusalKind {
    /// What is asked for cannot be done: 422.
    Invalid,
    /// It takes names that are ours: 403.
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

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RefusedField {
    /// The machine-readable cause.
    pub reason: String,
    /// Where, and what, and what to do.
    pub message: String,
    /// Path of the field in the object; empty when it is about no single one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// An answer, before it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Why not; none when it is admitted.
    pub refusal: Option<Refusal>,
    /// What to change.
    pub patch: Patch,
    /// What the author should know, in full; cut when it is written.
    pub warnings: Vec<String>,
    /// For the audit log. The API server puts the webhook's name before the keys.
    pub audit: BTreeMap<&'static str, String>,
}

impl Answer {
    /// As JSON. The same answer to the same question always has the same bytes.
    ///
    /// # Errors
    /// Never in practice: all of it is plain data.
    pub fn write(&self, request: &Request) -> Result<Vec<u8>, serde_json::Error> {
        let patch = if self.patch.is_empty() { None } else { Some(STANDARD.encode(serde_json::to_vec(&self.patch)?)) };
        let audit = self.audit.iter().map(|(key, value)| (*key, clip(value, MAXIMUM_AUDIT_BYTES))).collect();
        serde_json::to_vec(&AnsweredReview {
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
struct AnsweredReview<'a> {
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

/// By these `kubectl` writes one line a problem.
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
        message: clip(&message, MAXIMUM_MESSAGE_BYTES),
        reason: format!("{:?}", refusal.kind),
        details: Some(Details {
            name: &request.name,
            group: &request.kind.group,
            kind: &request.kind.kind,
            causes: &refusal.problems[..refusal.problems.len().min(MAXIMUM_CAUSES)],
        }),
        code: refusal.kind.code(),
    }
}

/// The body of an HTTP answer that is no review: the API server does then as `failurePolicy` says, and shows the message.
///
/// # Errors
/// Never in practice: all of it is plain data.
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

/// The text, on one line, cut to so many bytes.
fn clip(text: &str, maximum: usize) -> String {
    let line = |text: &str| text.replace(|character: char| character.is_control(), " ");
    if text.len() <= maximum {
        return line(text);
    }
    format!("{}…", line(&text[..text.floor_char_boundary(maximum - '…'.len_utf8())]))
}

/// The warnings as far as the API server takes them; the last one tells of those that are left out.
fn clip_all(warnings: &[String]) -> Vec<String> {
    let mut clipped = Vec::new();
    let mut bytes = 0;
    for (index, warning) in warnings.iter().enumerate() {
        let warning = clip(warning, MAXIMUM_WARNING_BYTES);
        if bytes + warning.len() + MORE_BYTES > MAXIMUM_WARNINGS_BYTES {
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
    fn warnings_stay_within_what_the_api_server_takes() {
        let warnings: Vec<String> = (0..100).map(|index| format!("{index}\n{}", "ä".repeat(200))).collect();
        let clipped = clip_all(&warnings);
        assert!(clipped.iter().all(|warning| warning.len() <= 256 && !warning.contains('\n')));
        assert!(clipped.iter().map(String::len).sum::<usize>() <= 4096);
        let left_out = format!("stowaway: and {} more warnings", 101 - clipped.len());
        assert_eq!(clipped.last(), Some(&left_out));
        assert_eq!(clip_all(&["one".to_owned()]), ["one"]);
    }

    #[test]
    fn errors_hold_nothing_of_the_request() {
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
