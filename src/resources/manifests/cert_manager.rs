//! The webhook's certificate if cert-manager issues it: a long-lived authority, and a leaf that it signs.
//!
//! With the authority in between, a renewal of the leaf does not change the bundle which the API server trusts. A
//! changed bundle takes effect at once, but a mounted Secret is updated only within a minute or two.

use serde_json::{Value, json};

use super::{WEBHOOK, labels};

/// Name of the Secret to which cert-manager writes the leaf.
pub(super) const SECRET: &str = "stowaway-webhook-certificate";
/// Name of the authority's objects.
const AUTHORITY: &str = "stowaway-webhook-issuer";
/// The annotation with the Certificate (namespace/name) whose bundle cert-manager injects.
pub(super) const INJECT: &str = "cert-manager.io/inject-ca-from";

/// The Issuers and Certificates.
pub(super) fn objects(namespace: &str) -> [Value; 4] {
    let object = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": kind,
            "metadata": { "name": name, "namespace": namespace, "labels": labels("webhook") },
            "spec": spec,
        })
    };
    let issued_by = |name: &str| json!({ "group": "cert-manager.io", "kind": "Issuer", "name": name });
    let key = json!({ "algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always" });
    let self_signed = format!("{WEBHOOK}-self-signed");
    [
        object("Issuer", &self_signed, json!({ "selfSigned": {} })),
        object(
            "Certificate",
            AUTHORITY,
            json!({
                "isCA": true,
                "commonName": WEBHOOK,
                "secretName": AUTHORITY,
                "duration": "87600h",
                "privateKey": key,
                "issuerRef": issued_by(&self_signed),
            }),
        ),
        object("Issuer", AUTHORITY, json!({ "ca": { "secretName": AUTHORITY } })),
        object(
            "Certificate",
            WEBHOOK,
            json!({
                "secretName": SECRET,
                "dnsNames": [format!("{WEBHOOK}.{namespace}.svc")],
                "usages": ["digital signature", "server auth"],
                "privateKey": key,
                "issuerRef": issued_by(AUTHORITY),
            }),
        ),
    ]
}
