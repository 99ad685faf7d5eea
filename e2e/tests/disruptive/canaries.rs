//! Checks that secrets of users appear only where they are used: in no log at its finest level, metric, Event, status,
//! pod, command line or URL, whether runs succeed or fail.
//!
//! Controller, webhook, runs and injected containers log at level `trace` during the test.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use stowaway::model::Verdict;
use stowaway_e2e::{
    Kind, Namespace, OtherWebhook, S3, Sequence, Workload, in_namespace,
    other_webhook::{add, containers},
    process,
    runs::{all_green, ended},
    sequence, skipped,
    store::{self, Credentials},
    volume,
};

use super::alone;

const STREAM: Sequence = Sequence::new(Kind::Random, 91, 2_000_003);
const LEVEL: &str = "STOWAWAY_LOG_LEVEL";
const LOGIN: &str = "canaryLoginPassword8c1f";
/// A part of the data that is dumped and restored.
const ROW: &str = "canaryRowOfTheDump2d71";
const WRONG_KEY: &str = "canaryWrongKey3e7d";
const WRONG_PASSWORD: &str = "canaryWrongPassword6b2a";

fn credentials() -> Credentials {
    Credentials {
        access_key_id: "canaryAccessKeyId4f90".into(),
        secret_access_key: "canarySecretAccessKey7d55".into(),
        password: "canaryRepositoryPassword1a2b".into(),
    }
}

/// Sets the log level of controller and webhook, as an argument of `kubectl set env`.
fn set_log_level(namespace: &Namespace, level: &str) -> Result<()> {
    let parts = ["stowaway-controller", "stowaway-webhook"];
    for part in parts {
        process::run(&mut namespace.system().kubectl(&["set", "env", &format!("deployment/{part}"), level]))?;
    }
    parts.iter().try_for_each(|part| namespace.rolled_out(part))
}

/// Collects all command lines of this machine until it is dropped.
struct CommandLines {
    seen: Arc<Mutex<BTreeSet<String>>>,
    over: Arc<AtomicBool>,
}

impl CommandLines {
    fn watch() -> Self {
        let (seen, over) = (Arc::<Mutex<BTreeSet<String>>>::default(), Arc::<AtomicBool>::default());
        let (into, until) = (Arc::clone(&seen), Arc::clone(&over));
        thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    // Empty for a process that has ended since the listing, and for entries that are no processes.
                    let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
                    let line = String::from_utf8_lossy(&line).replace('\0', " ");
                    into.lock().unwrap_or_else(PoisonError::into_inner).insert(line);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { seen, over }
    }

    fn text(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

impl Drop for CommandLines {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A text that is searched for secrets, and texts which it must contain, because otherwise it is not complete.
struct Searched {
    what: &'static str,
    expected: &'static [&'static str],
    text: String,
}

/// The lines that contain the canary in plain text, in base64 or in hex digits.
fn lines_with<'a>(text: &'a str, canary: &str) -> Vec<&'a str> {
    let mut encoded = STANDARD.encode(canary);
    // The last digits of base64 depend on the bytes that follow the canary.
    encoded.truncate(encoded.len() - 4);
    let forms = [canary.to_owned(), encoded, sequence::hex(canary.as_bytes())];
    text.lines().filter(|line| forms.iter().any(|form| line.contains(form))).collect()
}

fn kubectl(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    Ok(String::from_utf8_lossy(&process::run(&mut namespace.kubectl(arguments))?).into_owned())
}

/// The logs of all pods of the namespace, including those of ended containers.
async fn logs(namespace: &Namespace) -> Result<String> {
    let mut text = String::new();
    for pod in namespace.api::<Pod>().list(&ListParams::default()).await?.items {
        let spec = pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.unwrap_or_default();
        for container in init.iter().chain(&spec.containers) {
            for previous in ["--previous=false", "--previous=true"] {
                // Fails for a container that was not started, or only once; its output is empty then.
                let name = pod.name_any();
                let mut command = namespace.kubectl(&["logs", &name, "--container", &container.name, previous]);
                text += &String::from_utf8_lossy(&process::output(&mut command)?.stdout);
            }
        }
    }
    Ok(text)
}

async fn search(namespace: &Namespace, canaries: &[(&str, String)], command_lines: &CommandLines) -> Result<()> {
    let listing = process::run(namespace.stowaway(&["snapshots"])?.env(LEVEL, "trace"))?;
    let objects = "pods,jobs,serviceaccounts,roles,rolebindings,configmaps,replicasets,statefulsets,\
                   repositories.stowaway.dev,backups.stowaway.dev,restores.stowaway.dev";
    let all = [
        Searched { what: "logs", expected: &["TRACE", "verdict", "volume data"], text: logs(namespace).await? },
        Searched {
            what: "logs of the installation",
            expected: &["TRACE", "the repository was opened"],
            text: logs(&namespace.system()).await?,
        },
        Searched { what: "output of the CLI", expected: &["pod/helped"], text: String::from_utf8(listing)? },
        Searched {
            what: "metrics of the webhook",
            expected: &["_decisions_"],
            text: namespace.metrics("webhook").await?,
        },
        Searched {
            what: "metrics of the controller",
            expected: &["_repairs_"],
            text: namespace.metrics("controller").await?,
        },
        Searched {
            what: "Events",
            expected: &["Completed", "Scheduled"],
            text: kubectl(namespace, &["get", "events", "--all-namespaces", "-o", "json"])?,
        },
        Searched {
            what: "objects",
            expected: &["STOWAWAY_BACKEND", "conditions"],
            // Without the store's own pod, which has its keys in its environment.
            text: kubectl(namespace, &["get", objects, "--selector", "app!=s3", "-o", "json"])?,
        },
        Searched {
            what: "URLs in the log of the store",
            expected: &["GET", "/backups/"],
            text: kubectl(namespace, &["logs", "s3", "--container", "server"])?,
        },
        Searched {
            what: "command lines",
            expected: &["stowaway runner", "stowaway-helper", "stowaway sidecar", "emit --kind"],
            text: command_lines.text(),
        },
    ];
    for Searched { what, expected, text } in &all {
        for part in *expected {
            ensure!(text.contains(part), "{what} are not complete: no {part:?} in {} bytes", text.len());
        }
        for (name, canary) in canaries {
            let found = lines_with(text, canary);
            if let Some(first) = found.first() {
                bail!("{name} is in {} lines of {what}: {}", found.len(), &first[..first.len().min(2000)]);
            }
        }
    }
    Ok(())
}

async fn run_everything(namespace: &Namespace) -> Result<()> {
    let command_lines = CommandLines::watch();
    // Stowaway's webhook may remove this variable from its own containers when it is called again. With `IfNeeded` the
    // API server calls this webhook once more after that.
    let others = OtherWebhook::start(|pod: &mut Value| {
        for container in containers(&mut pod["spec"]) {
            add(container, "env", json!({ "name": LEVEL, "value": "trace" }));
        }
    })
    .await?;
    others.register(namespace, "stowaway-z", "trace", "IfNeeded", &json!({})).await?;
    let server = S3::opened_by(namespace, credentials()).await?;
    let restic = server.repository(namespace).await?;

    // A Repository with a generated password, one with wrong credentials of the store, and one with a wrong password.
    let mut generated = server.below("generated").repository_object("generated", "generated", false);
    generated["spec"]["passwordSecretRef"]["createIfNotExists"] = json!(true);
    namespace.apply_object(generated).await?;
    let wrong = json!({ "id": credentials().access_key_id, "key": WRONG_KEY });
    namespace.apply_object(store::secret("wrong-store", &wrong)).await?;
    let mut refused = server.repository_object("refused", "password", false);
    refused["spec"]["s3"]["credentials"]["secretAccessKeySecretRef"]["name"] = json!("wrong-store");
    namespace.apply_object(refused).await?;
    namespace.apply_object(store::secret("wrong-password", &json!({ "password": WRONG_PASSWORD }))).await?;
    namespace.apply_object(server.repository_object("locked", "wrong-password", false)).await?;

    namespace.apply_object(store::secret("login", &json!({ "password": LOGIN }))).await?;
    volume::provide(namespace, 1).await?;
    namespace
        .apply_object(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
            "spec": volume::claim(namespace, "ReadWriteOnce"),
        }))
        .await?;
    let script = format!(
        "PGPASSWORD=$(cat /stowaway-secrets/login/password) && test ${{#PGPASSWORD}} = {} && {} --rate 1m",
        LOGIN.len(),
        STREAM.command()
    );
    let dump = json!(["sh", "-c", script]).to_string();
    let helped = Workload::toolbox(namespace, "helped", &dump)
        .annotate("stowaway.dev/secrets", "login")
        .annotate("stowaway.dev/restorecommand", "sh -c 'cat >/scratch/whole'");
    let beside = Workload::toolbox(namespace, "beside", &dump)
        .annotate("stowaway.dev/secrets", "login")
        .annotate("stowaway.dev/inject", "sidecar")
        .annotate("stowaway.dev/volumes", "data")
        .annotate("stowaway.dev/restore", "on-empty")
        .set("volumeMounts", json!([{ "name": "data", "mountPath": "/data" }]))
        .set_in_pod("volumes", json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]));
    // Without the helper, the rows of the dump are not compressed in transit.
    namespace.apply_object(store::secret("rows", &json!({ "rows": ROW }))).await?;
    let plain = Workload::toolbox(namespace, "plain", "cat /rows/rows")
        .annotate("stowaway.dev/inject", "none")
        .annotate("stowaway.dev/restorecommand", "sh -c 'cat >/tmp/whole'")
        .set("volumeMounts", json!([{ "name": "rows", "mountPath": "/rows" }]))
        .set_in_pod("volumes", json!([{ "name": "rows", "secret": { "secretName": "rows" } }]));
    helped.start(namespace).await?;
    plain.start(namespace).await?;
    beside.start(namespace).await?;
    namespace.shell("beside", "seq 1000 >/data/file && sync")?;
    all_green(&namespace.back_up("one", json!({ "retryLimit": 0 })).await?)?;
    for pod in ["helped", "plain"] {
        let from = json!({ "source": format!("pod/{pod}/main") });
        let restored = namespace.restore(&format!("back-{pod}"), json!({ "from": from })).await?;
        ended(pod, &restored.status.unwrap_or_default().outcome, Verdict::Succeeded, &["Completed"])?;
    }
    // Empties the volume, so that the restore step of the next pod reads from the store.
    namespace.shell("beside", "rm /data/file && sync")?;
    namespace.api::<Pod>().delete("beside", &DeleteParams::default()).await?;
    namespace
        .wait_until("the pod is deleted", async || {
            Ok(namespace.api::<Pod>().get_opt("beside").await?.is_none().then_some(()))
        })
        .await?;
    beside.start(namespace).await?;
    namespace.wait_until_repository_ready("generated").await?;
    namespace.wait_until_repository_refused("refused", "StoreUnavailable").await?;
    namespace.wait_until_repository_refused("locked", "WrongPassword").await?;
    restic.check("restic", false)?;

    let secrets: Api<Secret> = namespace.api();
    let generated =
        secrets.get("generated").await?.data.and_then(|data| data.into_values().next()).context("no password")?;
    let Credentials { access_key_id, secret_access_key, password } = credentials();
    let canaries = [
        ("the repository's password", password),
        ("the id of the access key", access_key_id),
        ("the secret access key", secret_access_key),
        ("the password of a command", LOGIN.to_owned()),
        ("a row of a dump", ROW.to_owned()),
        ("the wrong secret access key", WRONG_KEY.to_owned()),
        ("the wrong password", WRONG_PASSWORD.to_owned()),
        ("the generated password", String::from_utf8(generated.0)?),
    ];
    let all = kubectl(namespace, &["get", "secrets", "-o", "json"])?;
    for (name, canary) in &canaries {
        ensure!(!lines_with(&all, canary).is_empty(), "the search does not find {name} in its Secret");
    }
    search(namespace, &canaries, &command_lines).await
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_appear_only_where_they_are_used() -> Result<()> {
    let _alone = alone().await;
    in_namespace("canaries", async |namespace: &Namespace| {
        if !namespace.cluster.is_built_in() {
            skipped("command lines of another machine cannot be seen from here");
            return Ok(());
        }
        set_log_level(namespace, &format!("{LEVEL}=trace"))?;
        let result = run_everything(namespace).await;
        set_log_level(namespace, &format!("{LEVEL}-"))?;
        result
    })
    .await
}
