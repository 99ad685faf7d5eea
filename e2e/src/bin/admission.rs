//! Measures the latency, CPU time and memory of the webhook, and of a minimal axum handler that parses the same review
//! and responds over the same TLS. The minimal handler is the lower bound of the cost of such a server. Server and load
//! run on one CPU each. Prints Markdown tables.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1, header::CONTENT_TYPE};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use stowaway_e2e::{Cluster, measure, process};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use webhook_certs::Authority;

/// The DNS name of the certificate.
const NAME: &str = "stowaway-webhook.stowaway-system.svc";
/// The number of idle connections that the API server keeps to one webhook (client-go, transport/cache.go).
const CONNECTIONS: usize = 25;
/// The approximate size of a review of a pod with the fields that an API server has filled in.
const REVIEW_BYTES: usize = 10 * 1024;

/// Compares the webhook with a minimal handler.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Duration of each measurement, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Number of repetitions of all measurements.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

#[derive(Subcommand)]
enum Role {
    /// Runs the minimal handler.
    #[command(hide = true)]
    Floor {
        /// Address to listen on.
        address: SocketAddr,
        /// Folder of the certificate and its key.
        certificates: std::path::PathBuf,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Role::Floor { address, certificates }) = &arguments.role {
        return floor(*address, certificates).await;
    }
    pin("1", std::process::id())?;
    let folder = tempfile::tempdir()?;
    let authority = Authority::issue("bench", jiff::Timestamp::now())?;
    let leaf = authority.issue_leaf(&[NAME.to_owned()], jiff::Timestamp::now())?;
    fs::write(folder.path().join("tls.crt"), pem("CERTIFICATE", leaf.certificate()))?;
    fs::write(folder.path().join("tls.key"), pem("PRIVATE KEY", leaf.key()))?;
    let connector = connector(authority.certificate())?;
    let cluster = Cluster::connect().await?;

    println!("| server | review | p50 ms | p99 ms | p99.9 ms | CPU us a request | requests/s a core |");
    println!("|---|---|---|---|---|---|---|");
    for _ in 0..arguments.rounds {
        for (what, is_floor) in [("webhook", false), ("floor", true)] {
            let server = Server::start(&cluster, folder.path(), is_floor, &connector).await?;
            for (kind, review) in [("injected", review(true)?), ("skipped", review(false)?)] {
                server.row(what, kind, &review, arguments.seconds).await?;
            }
        }
    }
    println!(
        "\n| server | start to ready ms | new connections/s | p99 ms of them | idle MiB | MiB with 1,000 connections |"
    );
    println!("|---|---|---|---|---|---|");
    for _ in 0..arguments.rounds {
        for (what, is_floor) in [("webhook", false), ("floor", true)] {
            let server = Server::start(&cluster, folder.path(), is_floor, &connector).await?;
            server.second_row(what, &review(false)?, arguments.seconds).await?;
        }
    }
    Ok(())
}

/// A server under test. Dropping this kills the server.
struct Server {
    child: Child,
    address: SocketAddr,
    connector: TlsConnector,
    ready: Duration,
}

impl Server {
    /// Starts the server, and waits until it responds.
    async fn start(cluster: &Cluster, certificates: &Path, is_floor: bool, connector: &TlsConnector) -> Result<Self> {
        let free = || anyhow::Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free()?));
        let mut command = if is_floor {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("floor").arg(address.to_string()).arg(certificates);
            command
        } else {
            let mut command = Command::new(process::stowaway()?);
            command
                .args(["--log-level", "warn", "webhook", "--image", "stowaway", "--port", &address.port().to_string()])
                .args(["--health-port", &free()?.to_string(), "--certificates-folder"])
                .arg(certificates)
                .env("KUBECONFIG", &cluster.kubeconfig)
                .env("POD_NAMESPACE", "stowaway-system");
            command
        };
        let started = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("failed to start a server")?;
        pin("0", child.id())?;
        let mut server = Self { child, address, connector: connector.clone(), ready: Duration::ZERO };
        let review = review(false)?;
        while server.new_connection(&review).await.is_err() {
            ensure!(started.elapsed() < Duration::from_mins(1), "the server does not respond");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.ready = started.elapsed();
        Ok(server)
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(self.connector.connect(ServerName::try_from(NAME)?, stream).await?)
    }

    async fn sender(&self) -> Result<http1::SendRequest<Full<Bytes>>> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.connect().await?)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn new_connection(&self, review: &Bytes) -> Result<Duration> {
        let started = Instant::now();
        send(&mut self.sender().await?, review).await?;
        Ok(started.elapsed())
    }

    /// Prints a row with the latencies at 1,000 requests a second, and the CPU time per request at full load.
    async fn row(&self, what: &str, kind: &str, review: &Bytes, seconds: u64) -> Result<()> {
        let latencies = self.steady(review, 1000, seconds).await?;
        let at = |thousandths| quantile(&mut latencies.clone(), thousandths);
        let (p50, p99, p999) = (at(500), at(990), at(999));
        let before = measure::cpu_time(self.child.id())?.0;
        let started = Instant::now();
        let count = self.as_fast_as_possible(review, seconds).await?;
        let cpu = measure::cpu_time(self.child.id())?.0.saturating_sub(before);
        ensure!(started.elapsed() >= cpu, "the server used more than one core");
        let per_request = cpu.as_secs_f64() / f64::from(count);
        println!(
            "| {what} | {kind} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            p50 * 1e3,
            p99 * 1e3,
            p999 * 1e3,
            per_request * 1e6,
            1.0 / per_request
        );
        Ok(())
    }

    /// Returns the seconds until each response, counted from the time at which its request was due, so that a stall of
    /// the server counts for all requests that it delays.
    async fn steady(&self, review: &Bytes, rate: u32, seconds: u64) -> Result<Vec<f64>> {
        let begin = Instant::now() + Duration::from_millis(50);
        let total = u64::from(rate) * seconds;
        let connections = CONNECTIONS as u64;
        let each = stream::iter(0..connections).map(async |first| {
            let mut sender = self.sender().await?;
            let mut taken = Vec::new();
            for number in (first..total).step_by(CONNECTIONS) {
                let due = begin + Duration::from_secs(1) * u32::try_from(number)? / rate;
                tokio::time::sleep_until(due.into()).await;
                // The resolution of the client's timer is a millisecond, which must not count as latency of the server.
                let started = Instant::now().max(due);
                send(&mut sender, review).await?;
                taken.push(started.elapsed().as_secs_f64());
            }
            anyhow::Ok(taken)
        });
        Ok(each.buffer_unordered(CONNECTIONS).try_collect::<Vec<_>>().await?.concat())
    }

    async fn as_fast_as_possible(&self, review: &Bytes, seconds: u64) -> Result<u32> {
        let end = Instant::now() + Duration::from_secs(seconds);
        let each = stream::iter(0..CONNECTIONS).map(async |_| {
            let mut sender = self.sender().await?;
            let mut count = 0;
            while Instant::now() < end {
                send(&mut sender, review).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
        Ok(each.buffer_unordered(CONNECTIONS).try_collect::<Vec<u32>>().await?.into_iter().sum())
    }

    async fn second_row(&self, what: &str, review: &Bytes, seconds: u64) -> Result<()> {
        let idle = resident(self.child.id())?;
        let end = Instant::now() + Duration::from_secs(seconds);
        let started = Instant::now();
        let each = stream::iter(std::iter::from_fn(|| (Instant::now() < end).then_some(())));
        let mut taken: Vec<f64> = each
            .map(async |()| anyhow::Ok(self.new_connection(review).await?.as_secs_f64()))
            .buffer_unordered(200)
            .try_collect()
            .await?;
        let rate = f64::from(u32::try_from(taken.len())?) / started.elapsed().as_secs_f64();
        let p99 = quantile(&mut taken, 990);
        let mut open = Vec::new();
        for _ in 0..1000 {
            open.push(self.connect().await?);
        }
        let with_connections = resident(self.child.id())?;
        println!(
            "| {what} | {:.0} | {rate:.0} | {:.1} | {idle:.1} | {with_connections:.1} |",
            self.ready.as_secs_f64() * 1e3,
            p99 * 1e3
        );
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn send(sender: &mut http1::SendRequest<Full<Bytes>>, review: &Bytes) -> Result<()> {
    sender.ready().await?;
    let request = Request::post("/pods?timeout=3s").header("host", NAME).header(CONTENT_TYPE, "application/json");
    let response = sender.send_request(request.body(Full::new(review.clone()))?).await?;
    ensure!(response.status().is_success(), "the server responded with {}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(
        body.windows(14).any(|window| window == br#""allowed":true"#),
        "refused: {}",
        String::from_utf8_lossy(&body)
    );
    Ok(())
}

/// The quantile of the values, in thousandths.
fn quantile(values: &mut [f64], thousandths: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = values.len() * thousandths / 1000;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// A review of about [`REVIEW_BYTES`], as the API server sends it.
fn review(is_annotated: bool) -> Result<Bytes> {
    let annotations = if is_annotated { json!({ "stowaway.dev/backupcommand": "pg_dump shop" }) } else { json!({}) };
    let fields: Vec<Value> = (0..190)
        .map(|number| json!({ format!("f:field-{number}"): { "f:name": {}, "f:value": { ".": {} } } }))
        .collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "shop-6898bf765d-", "namespace": "shop", "annotations": annotations,
            "managedFields": [{ "manager": "kube-controller-manager", "operation": "Update", "fieldsV1": fields }],
        },
        "spec": { "containers": [{ "name": "postgres", "image": "postgres", "env": [{ "name": "PGDATA", "value": "/data" }],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }] },
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "requestKind": { "group": "", "version": "v1", "kind": "Pod" },
            "requestResource": { "group": "", "version": "v1", "resource": "pods" },
            "namespace": "shop", "operation": "CREATE", "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller" },
            "object": pod, "oldObject": null, "dryRun": false, "options": { "apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions" },
        },
    });
    let bytes = serde_json::to_vec(&review)?;
    ensure!(
        (REVIEW_BYTES * 9 / 10..REVIEW_BYTES * 11 / 10).contains(&bytes.len()),
        "a review of {} bytes",
        bytes.len()
    );
    Ok(bytes.into())
}

/// Serves the minimal handler, which parses the review and allows it, with the same TLS and HTTP libraries as the
/// webhook.
async fn floor(address: SocketAddr, certificates: &Path) -> Result<()> {
    let certificate = CertificateDer::from_pem_file(certificates.join("tls.crt"))?;
    let key = PrivateKeyDer::from_pem_file(certificates.join("tls.key"))?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let router = axum::Router::new().route(
        "/pods",
        axum::routing::post(async |body: Bytes| {
            let review: Value = serde_json::from_slice(&body).unwrap_or_default();
            let response = json!({
                "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "response": { "uid": review["request"]["uid"], "allowed": true },
            });
            ([(CONTENT_TYPE, "application/json")], response.to_string())
        }),
    );
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper_util::service::TowerToHyperService::new(router);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn connector(authority: &str) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    // Without session resumption, so that each connection costs a full handshake.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<String> =
        text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Pins all threads of a process to one CPU.
fn pin(cpu: &str, pid: u32) -> Result<()> {
    process::run(Command::new("taskset").args(["--all-tasks", "--cpu-list", "--pid", cpu, &pid.to_string()]))?;
    Ok(())
}

/// The resident memory in MiB.
fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes / 1024.0)
}
