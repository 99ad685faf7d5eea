//! The webhook's authority is lost, grows old, or is over, while pods are created all the time.

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

/// The Secret of the authority.
const AUTHORITY: &str = "stowaway-webhook-authority";
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What the first webhook entry trusts.
async fn bundle(namespace: &Namespace) -> Result<String> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(namespace.cluster.client.clone());
    let configuration = api.get(WEBHOOK).await?;
    let entry = configuration.webhooks.and_then(|entries| entries.into_iter().next()).context("no entry")?;
    Ok(String::from_utf8(entry.client_config.ca_bundle.map(|bundle| bundle.0).unwrap_or_default())?)
}

/// The certificate of the authority that signs.
async fn signer(namespace: &Namespace) -> Result<Option<String>> {
    let secrets: Api<Secret> = namespace.system().api();
    let found = secrets.get(AUTHORITY).await?.data.and_then(|mut data| data.remove("ca.crt"));
    Ok(found.map(|found| String::from_utf8(found.0)).transpose()?)
}

/// Writes over all that is known of the authorities.
async fn write(namespace: &Namespace, data: serde_json::Value) -> Result<()> {
    let secrets: Api<Secret> = namespace.system().api();
    secrets.patch(AUTHORITY, &PatchParams::default(), &Patch::Merge(&json!({ "data": data }))).await?;
    Ok(())
}

/// Makes one the authority that was issued that long ago. All that is trusted stays trusted, as after any rotation.
async fn grow_old(namespace: &Namespace, age: SignedDuration) -> Result<Authority> {
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

/// Waits until another one signs, which everybody trusts.
async fn succeeded(namespace: &Namespace, old: &Authority) -> Result<Authority> {
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
        ensure!(!before.is_empty(), "the webhook entries trust nobody");
        let creates = Creates::start(namespace);
        creates.some_more().await;
        // All of it is lost at once: the worst kind of rotation.
        write(namespace, json!(null)).await?;
        let other = namespace
            .wait_until("another authority is trusted", async || {
                let now = bundle(namespace).await?;
                Ok((now.matches("BEGIN").count() > before.matches("BEGIN").count()).then_some(now))
            })
            .await?;
        ensure!(other.contains(before.trim()), "what was trusted is no longer trusted");
        // A new leaf, by a new replica, signed by the new authority.
        process::run(&mut namespace.system().kubectl(&["rollout", "restart", &format!("deployment/{WEBHOOK}")]))?;
        namespace.rolled_out(WEBHOOK)?;
        creates.went_well().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_grows_old_is_followed_by_another_and_fails_no_pod() -> Result<()> {
    let _alone = alone().await;
    in_namespace("old", async |namespace: &Namespace| {
        let creates = Creates::start(namespace);
        creates.some_more().await;
        // It is valid for a year, and its successor is due after two thirds.
        let old = grow_old(namespace, DAY * 300).await?;
        let new = succeeded(namespace, &old).await?;
        ensure!(new.validity().not_after > Timestamp::now() + DAY * 300, "that one is old, too");
        ensure!(bundle(namespace).await?.contains(old.certificate()), "its leaves are no longer trusted");
        creates.went_well().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_over_is_replaced_and_fails_no_pod() -> Result<()> {
    let _alone = alone().await;
    in_namespace("over", async |namespace: &Namespace| {
        let creates = Creates::start(namespace);
        creates.some_more().await;
        let old = grow_old(namespace, DAY * 400).await?;
        let new = succeeded(namespace, &old).await?;
        ensure!(new.validity().holds(Timestamp::now()), "that one is over, too");
        // Whoever begins now is served with a leaf of the new one.
        process::run(&mut namespace.system().kubectl(&["rollout", "restart", &format!("deployment/{WEBHOOK}")]))?;
        namespace.rolled_out(WEBHOOK)?;
        creates.went_well().await
    })
    .await
}
