//! Commands of the CLI which use the cluster, against a fake API server: the requests, the output and the exit status,
//! in particular when the API server refuses a request.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

/// A fake API server. It answers with `answer(method and path with query, body)` and records the requests.
struct ApiServer {
    port: u16,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl ApiServer {
    fn start(answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (seen, answer) = (requests.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (seen.clone(), answer.clone());
                thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self { port, requests }
    }

    /// Runs `stowaway` with a kubeconfig of this server.
    fn run(&self, arguments: &[&str]) -> Output {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        let cluster = format!("{{ name: a, cluster: {{ server: 'http://127.0.0.1:{}' }} }}", self.port);
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{cluster}]\nusers: [{{ name: a, user: {{}} }}]\n\
             contexts: [{{ name: a, context: {{ cluster: a, user: a, namespace: shop }} }}]\ncurrent-context: a\n"
        );
        std::fs::write(&config, text).unwrap();
        Command::new(env!("CARGO_BIN_EXE_stowaway"))
            .env_clear()
            .env("KUBECONFIG", &config)
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Method and path of all requests.
    fn lines(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    /// The bodies which were sent to create objects of this resource.
    fn created(&self, plural: &str) -> Vec<Value> {
        let end = format!("/{plural}");
        let requests = self.requests.lock().unwrap();
        let is_it = |line: &str| line.starts_with("POST ") && line.split(['?', ' ']).nth(1).unwrap().ends_with(&end);
        requests.iter().filter(|(line, _)| is_it(line)).map(|(_, body)| body.clone()).collect()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<(String, Value)>>, answer: &dyn Fn(&str, &Value) -> (u16, Value)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let line = first.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
        let (status, reply) = answer(&line, &body);
        seen.lock().unwrap().push((line, body));
        let reply = reply.to_string();
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", reply.len());
        if writer.write_all(format!("{head}{reply}").as_bytes()).is_err() {
            return;
        }
    }
}

fn status(code: u16, message: &str) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "Forbidden" };
    (
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code }),
    )
}

/// The answer to a `SelfSubjectAccessReview`: every right is allowed but those in `without`.
fn reviewed(body: &Value, without: &[&str]) -> (u16, Value) {
    let attributes = &body["spec"]["resourceAttributes"];
    let attribute = |key: &str| attributes[key].as_str().unwrap_or_default().to_owned();
    let right = format!("{} {}/{}", attribute("verb"), attribute("resource"), attribute("subresource"));
    let mut review = body.clone();
    review["status"] = json!({ "allowed": !without.contains(&right.trim_end_matches('/')) });
    (201, review)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const REVIEWS: &str = "/selfsubjectaccessreviews";

#[test]
fn wait_without_the_right_to_watch_is_refused_before_anything_is_created() {
    for (missing, verb) in [("watch backups", "backup"), ("list backups", "backup"), ("watch restores", "restore")] {
        let server = ApiServer::start(move |line, body| {
            if line.contains(REVIEWS) { reviewed(body, &[missing]) } else { status(500, "not expected") }
        });
        let rest: &[&str] = if verb == "restore" { &["--source", "pvc/data", "--claim", "data"] } else { &[] };
        let output = server.run(&[&[verb, "--wait"][..], rest].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(&format!("the right to {missing}.stowaway.dev in namespace shop")), "{message}");
        assert!(server.created("backups").is_empty() && server.created("restores").is_empty());
    }
}

#[test]
fn wait_without_the_right_to_read_logs_continues_and_reports_it() {
    let done = |name: &str| {
        json!({
            "apiVersion": "stowaway.dev/v1alpha1", "kind": "Backup",
            "metadata": { "name": name, "namespace": "shop", "uid": "u", "resourceVersion": "1" }, "spec": {},
            "status": {
                "verdict": "Succeeded",
                "skipped": [{ "name": "scratch", "reason": "OptedOut", "message": "its annotation opts out" }],
                "annotationWarnings": [{
                    "object": "deployment mill", "key": "stowaway.dev/backup-comand", "message": "is not known",
                }],
                "annotationWarningsNotListed": 3,
            },
        })
    };
    let server = ApiServer::start(move |line, body| {
        if line.contains(REVIEWS) {
            reviewed(body, &["get pods/log"])
        } else if line.starts_with("POST") {
            (201, done(body["metadata"]["name"].as_str().unwrap()))
        } else {
            let list = json!({ "kind": "BackupList", "apiVersion": "stowaway.dev/v1alpha1", "metadata": { "resourceVersion": "1" }, "items": [done("one")] });
            (200, list)
        }
    });
    let output = server.run(&["backup", "--wait", "--name", "one"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(message.contains("the logs of the runs are not shown: that needs the right to get pods/log"), "{message}");
    assert!(message.contains("pvc/scratch: not backed up (OptedOut): its annotation opts out"), "{message}");
    let mistake =
        "probably a mistake in an annotation or label: deployment mill: stowaway.dev/backup-comand: is not known";
    assert!(message.contains(mistake), "{message}");
    assert!(message.contains("3 more annotations or labels probably have a mistake"), "{message}");
}

#[test]
fn controller_that_is_down_is_reported_by_the_cli() {
    let done = json!({
        "apiVersion": "stowaway.dev/v1alpha1", "kind": "Backup",
        "metadata": { "name": "one", "namespace": "shop", "uid": "u", "resourceVersion": "1" }, "spec": {},
        "status": { "verdict": "Succeeded" },
    });
    let server = ApiServer::start(move |line, body| {
        if line.contains(REVIEWS) {
            reviewed(body, &[])
        } else if line.contains("/namespaces/stowaway-system/leases/stowaway-controller") {
            let spec = json!({ "holderIdentity": "pod-1", "renewTime": "2020-01-01T00:00:00.000000Z" });
            (200, json!({ "kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {}, "spec": spec }))
        } else if line.starts_with("POST") {
            (201, done.clone())
        } else {
            let list = json!({ "kind": "BackupList", "apiVersion": "stowaway.dev/v1alpha1", "metadata": { "resourceVersion": "1" }, "items": [done] });
            (200, list)
        }
    });
    let output = server.run(&["backup", "--wait", "--name", "one"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(message.contains("has not renewed its Lease since 2020-01-01T00:00:00Z"), "{message}");
    assert!(
        message.contains("kubectl --namespace stowaway-system describe deployment/stowaway-controller"),
        "{message}"
    );
}

#[test]
fn refused_object_is_one_sentence_without_a_dump() {
    let message =
        "Backup.stowaway.dev \"x\" is invalid: spec.retryLimit: Invalid value: 11: should be less than or equal to 10";
    let server = ApiServer::start(move |_, _| status(422, message));
    let output = server.run(&["backup", "--retry-limit", "11"]);
    assert_eq!(output.status.code(), Some(2));
    let option = "(--retry-limit sets spec.retryLimit)";
    assert_eq!(
        stderr(&output),
        format!("stowaway: failed to create the Backup in namespace shop: {message} {option}\n")
    );
}

#[test]
fn objects_of_one_second_have_different_names() {
    let server = ApiServer::start(|_, body| (201, body.clone()));
    for _ in 0..4 {
        assert!(server.run(&["backup"]).status.success());
    }
    let mut names: Vec<String> =
        server.created("backups").iter().map(|one| one["metadata"]["name"].to_string()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn object_is_printed_without_its_managed_fields() {
    let server = ApiServer::start(|_, body| {
        let mut made = body.clone();
        made["metadata"]["managedFields"] = json!([{ "manager": "stowaway", "operation": "Update" }]);
        (201, made)
    });
    let restore = &["restore", "--source", "pvc/data", "--claim", "data"][..];
    for verb in [&["backup"][..], restore] {
        let output = server.run(&[verb, &["-o", "json"]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            printed["metadata"]["name"].is_string() && printed["metadata"].get("managedFields").is_none(),
            "{printed}"
        );
    }
}

#[test]
fn options_that_would_be_ignored_are_refused() {
    let server = ApiServer::start(|_, _| status(500, "not expected"));
    for option in [&["--allow-empty"][..], &["--host", "x"]] {
        let output = server.run(&[&["backup"][..], option].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(option[0]), "{}", stderr(&output));
    }
    for verb in ["check", "prune", "unlock"] {
        let output = server.run(&[verb, "--namespace", "shop"]);
        assert_eq!(output.status.code(), Some(2), "{verb}");
        assert!(stderr(&output).contains("no meaning here"), "{}", stderr(&output));
    }
    assert!(server.lines().is_empty(), "{:?}", server.lines());
}

/// A cluster with one Repository. `deployment` answers the request for the controller's Deployment.
fn cluster(deployment: impl Fn() -> (u16, Value) + Send + Sync + 'static) -> ApiServer {
    ApiServer::start(move |line, _| {
        let repository = json!({
            "apiVersion": "stowaway.dev/v1alpha1", "kind": "Repository",
            "metadata": { "name": "main", "namespace": "shop", "uid": "u" },
            "spec": { "rest": { "url": "http://rest:8000/r" }, "passwordSecretRef": { "name": "p" } },
        });
        if line.contains("/repositories") {
            (
                200,
                json!({ "kind": "RepositoryList", "apiVersion": "stowaway.dev/v1alpha1", "metadata": {}, "items": [repository] }),
            )
        } else if line.contains("/deployments") {
            deployment()
        } else {
            status(403, "no more is needed")
        }
    })
}

#[test]
fn image_comes_from_the_named_deployment_of_the_installation_and_from_no_list() {
    let deployment = || {
        let container = json!({ "name": "controller", "image": "own", "env": [{ "name": "STOWAWAY_IMAGE", "value": "of-the-installation" }] });
        let spec = json!({ "selector": {}, "template": { "spec": { "containers": [container] } } });
        (
            200,
            json!({ "kind": "Deployment", "apiVersion": "apps/v1", "metadata": { "name": "stowaway-controller" }, "spec": spec }),
        )
    };
    for (more, namespace) in [(&[][..], "stowaway-system"), (&["--system-namespace", "backups"], "backups")] {
        let server = cluster(deployment);
        let output = server.run(&[&["snapshots"][..], more].concat());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let lines = server.lines();
        let deployments = lines.iter().filter(|line| line.contains("/deployments"));
        let deployments: Vec<&str> = deployments.map(|line| line.trim_end_matches(['?', '&'])).collect();
        assert_eq!(deployments, [format!("GET /apis/apps/v1/namespaces/{namespace}/deployments/stowaway-controller")]);
        let jobs = server.created("jobs");
        assert_eq!(jobs[0]["spec"]["template"]["spec"]["containers"][0]["image"], "of-the-installation");
    }
}

#[test]
fn nothing_is_started_where_the_deployment_is_not_there_or_cannot_be_read() {
    for (code, code_of_exit, expected) in [(404, 2, "--system-namespace"), (403, 1, "stowaway-cli")] {
        let server = cluster(move || status(code, "no"));
        let output = server.run(&["snapshots"]);
        assert_eq!(output.status.code(), Some(code_of_exit));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert!(server.created("jobs").is_empty());
    }
}
