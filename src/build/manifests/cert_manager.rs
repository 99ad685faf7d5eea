//! The webhook's certificate where cert-manager issues it: an authority of its own, which lasts, and a leaf that it signs.
//!
//! The authority stands between so that a renewal of the leaf changes nothing that the API server trusts: a bundle changes
//! at once, and a mounted Secret only within a minute or two. It must not know who mounts the leaf.

use serde_json::{Value, json};

use super::{WEBHOOK, labels};

/// Name of the Secret that cert-manager writes the leaf into.
pub(super) const SECRET: &str = "stowaway-webhook-certificate";
/// Name of the authority's objects.
const AUTHORITY: &str = "stowaway-webhook-issuer";
/// The annotation that makes cert-manager write the bundle of that Certificate (namespace/name).
pub(super) const INJECT: &str = "cert-manager.io/inject-ca-from";

/// Issuers and Certificates.
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
