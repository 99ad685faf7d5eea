//! The properties that must hold for arbitrary input bytes. Each function is the fuzz target of the same name, and
//! `make test` replays the seeds in `corpus/` through the same functions. The name of a seed states what it exercises.
//! `make fuzz` writes the inputs that it finds to `found/`, which is not versioned.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use stowaway::{
    annotations,
    annotations::Injection,
    api::Repository,
    inject::{Cause, Effect, InjectionFacts, inject},
    webhook::{
        decision::{AdmissionEndpoint, DecisionFacts, decide},
        review,
    },
};
use stowaway_protocol::{
    Frame, FrameDecoder, FrameEncoder, Nonce, Opener, Outcome, SealError, Sealer, Trailer, Window, parse_answer,
    parse_hello,
};

/// Parses annotations, one `KEY=VALUE` per line. A key that begins with `.` or `-` is appended to
/// `stowaway.dev/backupcommand`.
///
/// Parsing does not panic, has the same result twice, and names at least one problem if it fails.
pub fn annotations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let map: BTreeMap<String, String> = text
        .split('\n')
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            let prefix = if key.starts_with(['.', '-']) { "stowaway.dev/backupcommand" } else { "" };
            (format!("{prefix}{key}"), value.replace('\u{b6}', "\n"))
        })
        .collect();
    let read = annotations::parse(&map);
    assert_eq!(format!("{read:?}"), format!("{:?}", annotations::parse(&map)));
    match read {
        Err(problems) => assert!(!problems.problems.is_empty(), "refused without a reason"),
        Ok(Some(request)) => {
            assert!(
                request.commands.iter().all(|command| command.argv.first().is_some_and(|program| !program.is_empty())),
                "a command without a program"
            );
        }
        Ok(None) => {}
    }
}

/// Reads the sealed protocol: the input as the bytes of a hostile peer, and a valid stream in which one byte was
/// changed in transit.
///
/// Nothing panics, and a stream is accepted as complete only if it is.
pub fn protocol(data: &[u8]) {
    let nonce = Nonce::new(7);
    let _ = parse_hello(data);
    let _ = parse_answer(&nonce, data);
    let cut = data.first().map_or(1, |byte| usize::from(*byte) + 1);
    let _ = receive(data, cut, &nonce);
    assert!(receive(&forged(data, &nonce), cut, &nonce).is_none(), "a forged stream is accepted as complete");

    let Some((&[high, low, flip], content)) = data.split_first_chunk::<3>() else { return };
    let Ok(mut wire) = send(content, &nonce) else { return };
    let position = usize::from(u16::from_be_bytes([high, low])) % wire.len();
    wire[position] ^= flip;
    match receive(&wire, cut, &nonce) {
        Some(received) => assert!(received == content, "a changed stream is accepted as complete"),
        None => assert!(flip != 0, "a complete stream is rejected"),
    }
}

/// Well-formed frames with a payload that no sender compressed, and with the trailer of another stream.
fn forged(payload: &[u8], nonce: &Nonce) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut encoder = FrameEncoder::new(nonce);
    encoder.encode(&Frame::Data(Bytes::copy_from_slice(payload)), &mut wire);
    encoder.encode(&Frame::Trailer(Trailer { bytes: 7, digest: [7; 32], outcome: Outcome::Exited(0) }), &mut wire);
    wire
}

/// The wire bytes of a stream, as its sender seals it.
fn send(content: &[u8], nonce: &Nonce) -> Result<Vec<u8>, SealError> {
    let mut wire = Vec::new();
    let mut sealer = Sealer::new(nonce, Window::DUMP)?;
    sealer.push(content, &mut wire)?;
    sealer.finish(Outcome::Exited(0), &mut wire)?;
    Ok(wire)
}

/// Returns the stream if the receiver accepts it as complete. The wire bytes arrive in chunks of `chunk` bytes.
fn receive(wire: &[u8], chunk: usize, nonce: &Nonce) -> Option<Vec<u8>> {
    let mut decoder = FrameDecoder::new(nonce);
    let mut opener = Opener::new(Window::DUMP).ok()?;
    let mut received = Vec::new();
    let mut buffer = vec![0; 4096];
    for part in wire.chunks(chunk) {
        decoder.push(part);
        while let Some(frame) = decoder.next_frame().ok()? {
            match frame {
                Frame::Data(payload) => {
                    opener.take(payload).ok()?;
                    loop {
                        let count = opener.pull(&mut buffer).ok()?;
                        if count == 0 {
                            break;
                        }
                        received.extend_from_slice(&buffer[..count]);
                        // Stops here, because a small frame may decompress to any size, and more data tests nothing
                        // new.
                        if received.len() > 1 << 20 {
                            return None;
                        }
                    }
                }
                Frame::Trailer(trailer) => return opener.verify(&trailer).ok().map(|()| received),
                _ => {}
            }
        }
    }
    None
}

/// Decides on an arbitrary `AdmissionReview`. The first byte selects the path of the request. Among the digits, `2`, `3`
/// and `4` select pods (in a namespace with sidecars, without injection, with helpers), `0` workloads, and `1` objects.
///
/// Nothing panics, every decision can be serialized, and a patch applies and leaves nothing to inject.
pub fn admission(data: &[u8]) {
    let Some((path, text)) = data.split_first() else { return };
    let by_namespace = [None, Some(Injection::Helper), Some(Injection::Sidecar)][usize::from(*path) % 3];
    let endpoint = match path % 5 {
        0..=2 => AdmissionEndpoint::Pods(by_namespace),
        3 => AdmissionEndpoint::Workloads,
        _ => AdmissionEndpoint::Objects,
    };
    let Ok(request) = review::read(text) else { return };
    let repositories = repositories(&request.namespace);
    let Ok(decision) = decide(endpoint, &request, DecisionFacts { image: "stowaway", repositories: &repositories })
    else {
        return;
    };
    assert!(decision.answer.write(&request).is_ok(), "a decision that cannot be serialized");
    assert_eq!(decision.effect == Effect::Refuse, decision.answer.refusal.is_some());
    if decision.effect != Effect::Inject {
        assert!(decision.answer.patch.is_empty(), "a patch without injection");
        return;
    }
    let AdmissionEndpoint::Pods(by_namespace) = endpoint else { panic!("a workload is never changed") };
    let mut pod = request.object().cloned().unwrap_or_default();
    assert!(json_patch::patch(&mut pod, &decision.answer.patch).is_ok(), "a patch that does not apply");
    let facts = InjectionFacts {
        namespace: &request.namespace,
        on_create: true,
        by_namespace,
        image: "stowaway",
        repositories: &repositories,
    };
    assert_eq!(inject(&pod, &facts).cause, Cause::AlreadyInjected);
}

fn repositories(namespace: &str) -> Vec<Repository> {
    let secret = |key: &str| json!({ "name": "store", "key": key });
    let repository = json!({
        "apiVersion": "stowaway.dev/v1alpha1", "kind": "Repository",
        "metadata": { "name": "main", "namespace": namespace, "annotations": { "stowaway.dev/is-default": "true" } },
        "spec": {
            "s3": { "endpoint": "http://s3", "bucket": "backups", "credentials": {
                "accessKeyIdSecretRef": secret("id"), "secretAccessKeySecretRef": secret("key"),
            } },
            "passwordSecretRef": { "name": "password" },
        },
    });
    vec![serde_json::from_value(repository).unwrap_or_else(|error| panic!("{error}"))]
}
