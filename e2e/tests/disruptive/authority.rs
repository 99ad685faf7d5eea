//! Tests of the webhook's certificate authority, which is lost, becomes old, or expires while pods are created
//! continuously.

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use stowaway_e2e::{Namespace, creates::Creates, in_namespace, process, system::WEBHOOK};
use webhook_certs::Authority;

use super::alone;

/// The Secret with the authority.
const AUTHORITY: &str = "stowaway-webhook-authority";
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The CA bundle of the first webhook entry.
async fn bundle(namespace: &Namespace) -> Result<String> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(namespace.cluster.client.clone());
    let configuration = api.get(WEBHOOK).await?;
    let entry = configuration.webhooks.and_then(|entries| entries.into_iter().next()).context("no entry")?;
    Ok(String::from_utf8(entry.client_config.ca_bundle.map(|bundle| bundle.0).unwrap_or_default())?)
}

/// The certificate of the authority that signs leaf certificates.
async fn signer(namespace: &Namespace) -> Result<Option<String>> {
    let secrets: Api<Secret> = namespace.system().api();
    let found = secrets.get(AUTHORITY).await?.data.and_then(|mut data| data.remove("ca.crt"));
    Ok(found.map(|found| String::from_utf8(found.0)).transpose()?)
}

/// Overwrites the data of the authority's Secret.
async fn write(namespace: &Namespace, data: serde_json::Value) -> Result<()> {
    let secrets: Api<Secret> = namespace.system().api();
    secrets.patch(AUTHORITY, &PatchParams::default(), &Patch::Merge(&json!({ "data": data }))).await?;
    Ok(())
}

/// Installs an authority that was issued `age` ago. All authorities that were trusted stay trusted, as after any
/// rotation.
async fn install_authority(namespace: &Namespace, age: SignedDuration) -> Result<Authority> {
    let now = Timestamp::now();
    let old = Authority::issue(WEBHOOK, now - age)?;
    let trusted = json!({ "certificate": bundle(namespace).await?, "until": now + DAY });
    let plan = json!({ "previous": [trusted] }).to_string();
    let encoded = |text: &str| STANDARD.encode(text);
    let data = json!({
        "ca.crt": encoded(old.certificate()), "ca.key": encoded(old.key()), "plan.json": encoded(&plan),
        "next.crt": null, "next.key": null,
    });
    write(namespace, data).await?;
    Ok(old)
}

/// Waits until a new authority signs and the webhook entry trusts it, and returns that authority.
async fn wait_for_successor(namespace: &Namespace, old: &Authority) -> Result<Authority> {
    let new = namespace
        .wait_until("another authority signs", async || {
            let found = signer(namespace).await?.filter(|found| found != old.certificate());
            Ok(match found {
                Some(found) => bundle(namespace).await?.contains(&found).then_some(found),
                None => None,
            })
        })
        .await?;
    let secrets: Api<Secret> = namespace.system().api();
    let key = secrets.get(AUTHORITY).await?.data.and_then(|mut data| data.remove("ca.key")).context("no key")?;
    Ok(Authority::parse(&new, std::str::from_utf8(&key.0)?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_authority_and_new_leaves_fail_no_pod() -> Result<()> {
    let _alone = alone().await;
    in_namespace("rotated", async |namespace: &Namespace| {
        let before = bundle(namespace).await?;
        ensure!(!before.is_empty(), "the webhook entries trust no authority");
        let creates = Creates::start(namespace);
        creates.wait_for_more().await;
        // Deletes all data of the authority at once, which is the worst case of a rotation.
        write(namespace, json!(null)).await?;
        let other = namespace
            .wait_until("another authority is trusted", async || {
                let now = bundle(namespace).await?;
                Ok((now.matches("BEGIN").count() > before.matches("BEGIN").count()).then_some(now))
            })
            .await?;
        ensure!(other.contains(before.trim()), "the previous authority is no longer trusted");
        // Starts new replicas, whose leaf certificates are signed by the new authority.
        process::run(&mut namespace.system().kubectl(&["rollout", "restart", &format!("deployment/{WEBHOOK}")]))?;
        namespace.rolled_out(WEBHOOK)?;
        creates.stop_without_failures().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_authority_is_replaced_and_fails_no_pod() -> Result<()> {
    let _alone = alone().await;
    in_namespace("old", async |namespace: &Namespace| {
        let creates = Creates::start(namespace);
        creates.wait_for_more().await;
        // An authority is valid for a year, and is replaced after two thirds of that time.
        let old = install_authority(namespace, DAY * 300).await?;
        let new = wait_for_successor(namespace, &old).await?;
        ensure!(new.validity().not_after > Timestamp::now() + DAY * 300, "the new authority is old, too");
        ensure!(bundle(namespace).await?.contains(old.certificate()), "the old authority is no longer trusted");
        creates.stop_without_failures().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_authority_is_replaced_and_fails_no_pod() -> Result<()> {
    let _alone = alone().await;
    in_namespace("expired", async |namespace: &Namespace| {
        let creates = Creates::start(namespace);
        creates.wait_for_more().await;
        let old = install_authority(namespace, DAY * 400).await?;
        let new = wait_for_successor(namespace, &old).await?;
        ensure!(new.validity().holds(Timestamp::now()), "the new authority is expired, too");
        // Starts new replicas, which get leaf certificates of the new authority.
        process::run(&mut namespace.system().kubectl(&["rollout", "restart", &format!("deployment/{WEBHOOK}")]))?;
        namespace.rolled_out(WEBHOOK)?;
        creates.stop_without_failures().await
    })
    .await
}
