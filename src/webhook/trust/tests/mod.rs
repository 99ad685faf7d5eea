//! Whatever happens to the objects, each replica that serves is trusted by the bundles which the API server holds.
//!
//! The clock is stopped unless a test moves it, and a round follows every change, so that nothing waits for real time.

mod api;
mod folder;

use std::{
    io::{Cursor, Write},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    time_provider::TimeProvider,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;
use tracing_subscriber::fmt::MakeWriter;

use self::api::Api;
use super::*;

const NAMESPACE: &str = "orchard";
const HOST: &str = "stowaway-webhook.orchard.svc";
const START: i64 = 1_800_000_000;
const SECRET: &str = "secrets/stowaway-webhook-authority";
const LEASE: &str = "leases/stowaway-webhook";
const PROPOSAL: &str = "configmaps/stowaway-trust";
const MUTATING: &str = "mutatingwebhookconfigurations/stowaway-webhook";
const VALIDATING: &str = "validatingwebhookconfigurations/stowaway-webhook";
/// Timeout of a test; only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A TLS handshake like the API server's at each new connection.
fn handshake(certificates: &Arc<Certificates>, bundle: &str, now: i64) -> Result<(), rustls::Error> {
    #[derive(Debug)]
    struct Now(i64);
    impl TimeProvider for Now {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.unsigned_abs())))
        }
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap())?;
    }
    let provider = Arc::new(ring::default_provider());
    let client = ClientConfig::builder_with_details(provider.clone(), Arc::new(Now(now)))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates.clone());
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from(HOST).unwrap())?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut Cursor::new(&wire)).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut Cursor::new(&wire)).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

/// A cluster, its clock, and replicas.
struct World {
    api: Api,
    clock: Arc<AtomicI64>,
    /// The writer of the bundles, until it is dropped.
    writer: Option<DropGuard>,
}

struct Running {
    certificates: Arc<Certificates>,
    bundles: watch::Receiver<Vec<String>>,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap();
    }
}

impl World {
    fn new() -> Self {
        Log::of_this_process();
        let api = Api::new();
        let entry = |name: &str| json!({ "name": name, "clientConfig": { "service": { "path": "/pods" } }, "sideEffects": "None", "admissionReviewVersions": ["v1"] });
        for (kind, name, entries) in [
            (
                "MutatingWebhookConfiguration",
                MUTATING,
                vec![entry("inject.stowaway.dev"), entry("restore.stowaway.dev")],
            ),
            ("ValidatingWebhookConfiguration", VALIDATING, vec![entry("objects.stowaway.dev")]),
        ] {
            let version = "admissionregistration.k8s.io/v1";
            api.put(
                &format!("/apis/{version}/{name}"),
                json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "stowaway-webhook" }, "webhooks": entries }),
            );
        }
        let mut world = Self { api, clock: Arc::new(AtomicI64::new(START)), writer: None };
        world.start_writer();
        world
    }

    fn start_writer(&mut self) {
        let (token, client) = (CancellationToken::new(), self.api.writer());
        self.writer = Some(token.clone().drop_guard());
        tokio::spawn(async move { writer::follow(client, NAMESPACE, &token).await });
    }

    fn start(&self, instance: &str) -> Running {
        let settings =
            Settings { namespace: NAMESPACE.to_owned(), instance: instance.to_owned(), certificates_folder: None };
        let (certificates, token, clock) = (Certificates::new(), CancellationToken::new(), self.clock.clone());
        let (sender, bundles) = watch::channel(Vec::new());
        let now = move || Timestamp::from_second(clock.load(Ordering::SeqCst)).unwrap();
        let run = run_by_clock(self.api.client(), settings, certificates.clone(), sender, token.clone(), now);
        Running { certificates, bundles, token, task: tokio::spawn(run) }
    }

    fn now(&self) -> i64 {
        self.clock.load(Ordering::SeqCst)
    }

    /// Moves the clock, and lets every replica read it.
    fn pass(&self, seconds: i64) {
        self.clock.fetch_add(seconds, Ordering::SeqCst);
        self.api.change(MUTATING, |_| {});
    }

    /// The bundles of all entries, as the API server holds them.
    fn bundles(&self) -> Vec<String> {
        let objects = [MUTATING, VALIDATING].map(|name| self.api.get(name).unwrap_or_default());
        let entries = objects.iter().flat_map(|object| object["webhooks"].as_array().cloned().unwrap_or_default());
        let bundle = |entry: Value| {
            let bundle = entry["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_owned();
            String::from_utf8(BASE64_STANDARD.decode(bundle).unwrap()).unwrap()
        };
        entries.map(bundle).collect()
    }

    fn data(&self, key: &str) -> Option<String> {
        let value = self.api.get(SECRET)?["data"][key].as_str()?.to_owned();
        String::from_utf8(BASE64_STANDARD.decode(value).unwrap()).ok()
    }

    /// Whether every entry trusts this replica.
    fn is_trusted(&self, running: &Running) -> bool {
        let bundles = self.bundles();
        !bundles.is_empty()
            && bundles
                .iter()
                .all(|bundle| !bundle.is_empty() && handshake(&running.certificates, bundle, self.now()).is_ok())
    }

    /// Waits until the condition is true. It is checked after each change.
    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut changes = self.api.changes();
        while !holds() {
            assert!(Instant::now() < deadline, "never: {what}");
            // A replica can change its certificate without a change of an object.
            let _ = timeout(Duration::from_millis(50), changes.changed()).await;
        }
    }

    /// A world in which both replicas serve.
    async fn settled() -> (Self, [Running; 2]) {
        let world = Self::new();
        let replicas = [world.start("a"), world.start("b")];
        world.until("both serve", || replicas.iter().all(|running| world.is_trusted(running))).await;
        (world, replicas)
    }
}

#[tokio::test]
async fn first_replica_makes_everything_and_the_second_follows_it() {
    let (world, replicas) = World::settled().await;
    let authority = world.data("ca.crt").unwrap();
    let bundles = world.bundles();
    assert_eq!(bundles, vec![authority; 3]);
    world
        .until("both publish the bundles", || replicas.iter().all(|running| *running.bundles.borrow() == bundles))
        .await;
    let lease = world.api.get(LEASE).unwrap()["spec"].clone();
    assert_eq!(lease["leaseTransitions"], 1, "both led: {lease}");
    let entry = world.api.get(MUTATING).unwrap()["webhooks"][0].clone();
    assert_eq!(entry["clientConfig"]["service"]["path"], "/pods", "the rest of the entry stays");
}

#[tokio::test]
async fn deleted_or_damaged_secret_is_rewritten_and_no_replica_loses_trust() {
    for is_deleted in [true, false] {
        let (world, replicas) = World::settled().await;
        let old = world.data("ca.crt").unwrap();
        if is_deleted {
            world.api.delete(SECRET);
        } else {
            world.api.change(SECRET, |secret| secret["data"]["ca.key"] = json!(BASE64_STANDARD.encode("no key")));
        }
        world
            .until("the next authority is published beside the old one", || {
                assert!(replicas.iter().all(|running| world.is_trusted(running)), "trust was lost");
                let next = world.data("next.crt");
                next.is_some_and(|next| {
                    world.bundles().iter().all(|found| found.contains(&next) && found.contains(&old))
                })
            })
            .await;
        // Either it was seen on all entries at this moment, or in the next round.
        world
            .until("that is noted", || world.data("plan.json").is_some_and(|plan| plan.contains("nextPublished")))
            .await;
        world.pass(61);
        let leaf = |running: &Running| handshake(&running.certificates, &old, world.now()).is_ok();
        world
            .until("both have a leaf of the new one", || {
                assert!(replicas.iter().all(|running| world.is_trusted(running)), "trust was lost");
                replicas.iter().all(|running| !leaf(running))
            })
            .await;
        assert_ne!(world.data("ca.crt").unwrap(), old);
        assert!(world.bundles().iter().all(|bundle| bundle.contains(&old)), "old leaves live on for a while");
    }
}

#[tokio::test]
async fn bundle_that_was_wiped_is_written_again() {
    let (world, replicas) = World::settled().await;
    for name in [MUTATING, VALIDATING] {
        world.api.change(name, |configuration| {
            configuration["webhooks"][0]["clientConfig"].as_object_mut().unwrap().remove("caBundle");
        });
        world.until("it is back", || replicas.iter().all(|running| world.is_trusted(running))).await;
    }
    // Another installation replaced Stowaway's entries.
    world.api.change(MUTATING, |configuration| {
        configuration["webhooks"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "name": "new.stowaway.dev", "clientConfig": {} }));
    });
    world.until("the new entry has one, too", || replicas.iter().all(|running| world.is_trusted(running))).await;
}

#[tokio::test]
async fn missing_configuration_is_waited_for_and_one_alone_is_enough() {
    let world = World::new();
    let (mutating, validating) = (world.api.get(MUTATING).unwrap(), world.api.get(VALIDATING).unwrap());
    world.api.delete(MUTATING);
    world.api.delete(VALIDATING);
    let running = world.start("a");
    world.until("it leads", || world.api.get(LEASE).is_some_and(|lease| lease["spec"]["holderIdentity"] == "a")).await;
    assert!(!running.certificates.is_set(), "no client could trust it");
    let path = |name: &str| format!("/apis/admissionregistration.k8s.io/v1/{name}");
    world.api.put(&path(VALIDATING), validating);
    world.until("the first one trusts it", || world.is_trusted(&running)).await;
    world.api.put(&path(MUTATING), mutating);
    world.until("both trust it", || world.is_trusted(&running)).await;
}

#[tokio::test]
async fn api_server_that_fails_and_rivals_that_write_are_outlived() {
    let world = World::new();
    for name in [SECRET, LEASE, MUTATING] {
        world.api.rival(name);
        world.api.fail(2);
        let running = world.start("a");
        world.until("it serves", || world.is_trusted(&running)).await;
        if name != SECRET || world.api.rival_has_written() {
            assert_eq!(world.bundles(), vec![world.data("ca.crt").unwrap(); 3], "{name}");
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn lease_is_given_back_so_that_the_other_leads_at_once() {
    let (world, [first, second]) = World::settled().await;
    let holder = || world.api.get(LEASE).unwrap()["spec"]["holderIdentity"].as_str().map(str::to_owned);
    let (leader, other, other_name) =
        if holder().as_deref() == Some("a") { (first, second, "b") } else { (second, first, "a") };
    leader.stop().await;
    world.api.delete(SECRET);
    world.until("the other leads", || holder().as_deref() == Some(other_name)).await;
    world.until("it does what is due", || world.data("next.crt").is_some()).await;
    assert!(world.is_trusted(&other));
}

#[tokio::test]
async fn clock_that_jumps_back_or_far_ahead_is_survived() {
    for jump in [-30 * 24 * 3600, 2 * 365 * 24 * 3600] {
        let (world, replicas) = World::settled().await;
        world.pass(jump);
        world
            .until("an authority of now is noted", || {
                world.data("plan.json").is_some_and(|plan| plan.contains("nextPublished"))
            })
            .await;
        world.pass(61);
        world.until("both serve", || replicas.iter().all(|running| world.is_trusted(running))).await;
    }
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// All log events of this process. A log of a single test would miss events, because whether an event is enabled is
    /// determined once for all threads, and other tests reach the same events.
    fn of_this_process() -> Self {
        static LOG: LazyLock<Log> = LazyLock::new(|| {
            let log = Log::default();
            let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone());
            tracing::subscriber::set_global_default(all.finish()).unwrap();
            log
        });
        LOG.clone()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_key_is_logged_at_any_level() {
    let log = Log::of_this_process();
    let (world, _replicas) = World::settled().await;
    let key = world.data("ca.key").unwrap();
    world.api.change(SECRET, |secret| secret["data"]["ca.crt"] = json!(BASE64_STANDARD.encode(&key)));
    world
        .until("it is rewritten", || {
            world.data("ca.key").is_some_and(|found| found != key) || world.data("next.key").is_some()
        })
        .await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for expected in ["serving with a new certificate", "rewritten"] {
        assert!(text.contains(expected), "the log does not contain {expected:?}");
    }
    let inner: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    for secret in ["PRIVATE KEY", &inner[..40], &BASE64_STANDARD.encode(&key)[..40]] {
        assert!(!text.contains(secret), "a key is in the log");
    }
}

#[tokio::test]
async fn webhook_itself_writes_no_configuration_and_serves_once_another_account_has_written_it() {
    let mut world = World::new();
    world.writer = None;
    let running = world.start("a");
    world
        .until("it proposes a bundle", || world.api.get(PROPOSAL).is_some_and(|map| map["data"]["ca.crt"].is_string()))
        .await;
    assert!(world.bundles().iter().all(String::is_empty) && !running.certificates.is_set());
    world.start_writer();
    world.until("it is trusted", || world.is_trusted(&running)).await;
    assert_eq!(world.bundles(), vec![world.data("ca.crt").unwrap(); 3]);
}

#[tokio::test]
async fn proposal_that_is_no_bundle_is_never_written_and_nothing_but_the_bundle_changes() {
    let (world, replicas) = World::settled().await;
    let good = world.bundles();
    let before = world.api.get(MUTATING).unwrap()["webhooks"].clone();
    for replica in replicas {
        replica.stop().await;
    }
    let key = world.data("ca.key").unwrap();
    let log = Log::of_this_process();
    let refusals = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap().matches("is not written").count();
    for bad in [key, format!("{}garbage", "x".repeat(70_000)), "no certificate".to_owned(), String::new()] {
        let before = refusals();
        world.api.change(PROPOSAL, |map| map["data"]["ca.crt"] = json!(bad));
        world.until("it is refused", || refusals() > before).await;
        assert_eq!(world.bundles(), good);
    }
    let other = webhook_certs::Authority::issue("next", Timestamp::from_second(START).unwrap()).unwrap();
    world.api.change(PROPOSAL, |map| map["data"]["ca.crt"] = json!(other.certificate()));
    world.until("another bundle is written", || world.bundles() == vec![other.certificate().to_owned(); 3]).await;
    let mut after = world.api.get(MUTATING).unwrap()["webhooks"].clone();
    for (entry, old) in after.as_array_mut().unwrap().iter_mut().zip(before.as_array().unwrap()) {
        entry["clientConfig"]["caBundle"] = old["clientConfig"]["caBundle"].clone();
    }
    assert_eq!(after, before);
}
