//! Tests of the definitions that are given to the API server.

use super::*;

#[test]
fn definitions_are_built_without_panic_and_follow_the_conventions() {
    for crd in crds() {
        let names = &crd.spec.names;
        assert_eq!(crd.spec.group, GROUP);
        assert_eq!(names.categories.as_deref(), Some(["stowaway".to_owned()].as_slice()));
        assert!(names.short_names.as_ref().unwrap()[0].starts_with("st"), "{names:?}");
        let version = &crd.spec.versions[0];
        assert_eq!(version.name, VERSION);
        assert!(version.subresources.as_ref().unwrap().status.is_some());
        assert!(version.additional_printer_columns.as_ref().unwrap().iter().any(|column| column.name == "Age"));
    }
}

/// The API server accepts only fields of these types, and no fields of the metadata.
#[test]
fn objects_are_selected_by_verdict_repository_and_source() {
    for crd in crds() {
        let expected: &[&str] = match crd.spec.names.kind.as_str() {
            "Backup" => &[".spec.repositoryRef.name", ".status.verdict"],
            "Restore" => &[".spec.from.source", ".spec.repositoryRef.name", ".status.verdict"],
            _ => &[],
        };
        let version = &crd.spec.versions[0];
        let fields = version.selectable_fields.iter().flatten().map(|field| field.json_path.as_str());
        assert_eq!(fields.collect::<Vec<_>>(), expected, "{}", crd.spec.names.kind);
        let schema = serde_json::to_value(&version.schema).unwrap();
        for field in expected {
            let pointer = format!("/openAPIV3Schema{}/type", field.replace('.', "/properties/"));
            assert_eq!(schema.pointer(&pointer), Some(&serde_json::json!("string")), "{field}");
        }
    }
}

/// `kubectl explain` prints the descriptions, which are doc comments, to users who do not read Rust.
#[test]
fn descriptions_contain_no_rust() {
    fn walk(value: &serde_json::Value, path: &str, found: &mut usize) {
        if let Some(text) = value.get("description").and_then(serde_json::Value::as_str) {
            *found += 1;
            for rust in ["[`", "`]", "](", "`None`", "`Some", "`Self", "Option<", "Vec<"] {
                assert!(!text.contains(rust), "{path}: {rust} in {text}");
            }
            let is_path = |pair: (&str, &str)| {
                pair.0.ends_with(char::is_alphanumeric) && pair.1.starts_with(char::is_alphanumeric)
            };
            assert!(!text.split_once("::").is_some_and(is_path), "{path}: a path of Rust in {text}");
        }
        for (index, child) in value.as_array().into_iter().flatten().enumerate() {
            walk(child, &format!("{path}.{index}"), found);
        }
        for (key, child) in value.as_object().into_iter().flatten() {
            walk(child, &format!("{path}.{key}"), found);
        }
    }
    let mut found = 0;
    for crd in crds() {
        walk(&serde_json::to_value(&crd).unwrap(), &crd.spec.names.kind, &mut found);
    }
    assert!(found > 300, "{found} descriptions");
}

#[test]
fn time_of_a_restore_keeps_its_fraction_of_a_second_when_it_is_sent() {
    for time in ["2026-05-04T03:02:01.937123456Z", "2026-05-04T03:02:01Z"] {
        let from = serde_json::json!({ "source": "pvc/casks", "asOf": time });
        let read: RestoreFrom = serde_json::from_value(from.clone()).unwrap();
        assert_eq!(read.as_of.unwrap().to_string(), time);
        assert_eq!(serde_json::to_value(&read).unwrap(), from);
    }
}

/// Checks every part of every schema, because an API server warns of unknown formats, and rejects `oneOf` with
/// properties of its own.
#[test]
fn schemas_hold_only_what_an_api_server_knows() {
    fn walk(value: &serde_json::Value, path: &str) {
        for (index, child) in value.as_array().into_iter().flatten().enumerate() {
            walk(child, &format!("{path}.{index}"));
        }
        if let Some(object) = value.as_object() {
            if let Some(format) = object.get("format").and_then(|format| format.as_str()) {
                assert!(["int32", "int64", "date-time", "int-or-string"].contains(&format), "{path}: {format}");
            }
            for (key, child) in object {
                walk(child, &format!("{path}.{key}"));
            }
        }
    }
    for crd in crds() {
        walk(&serde_json::to_value(&crd).unwrap(), &crd.spec.names.kind);
    }
}

#[test]
fn every_duration_that_the_schema_accepts_is_parsed() {
    for text in ["90s", "1h30m", "1.5h", "999999h999999m", "1ms"] {
        assert!(text.parse::<kube::core::Duration>().is_ok(), "{text}");
    }
}

#[test]
fn quantities_are_read_as_kubernetes_reads_them() {
    for (text, expected) in [
        ("1", Some(1)),
        ("10Mi", Some(10 << 20)),
        ("10M", Some(10_000_000)),
        ("1500k", Some(1_500_000)),
        ("64Ki", Some(64 << 10)),
        ("2G", Some(2_000_000_000)),
        ("2Gi", Some(2 << 30)),
        ("", None),
        ("Mi", None),
        ("10m", None),
        ("1.5Mi", None),
        ("99999999999999Gi", None),
    ] {
        assert_eq!(bytes_per_second(text), expected, "{text}");
    }
}

#[test]
fn archive_is_in_its_own_store_and_readable_only_by_its_user() {
    let on_volume =
        |kind: &str| serde_json::json!({ "volume": { "persistentVolumeClaim": { "claimName": "c" }, "path": kind } });
    let to: RestoreArchive = serde_json::from_value(on_volume("shop")).unwrap();
    let mut spec = on_volume("shop");
    spec["passwordSecretRef"] = serde_json::json!({ "name": "p" });
    let spec: RepositorySpec = serde_json::from_value(spec).unwrap();
    let path = |config: Option<crate::model::BackendConfig>| match config {
        Some(crate::model::BackendConfig::Folder { path }) => path,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (path(backend_config(&to)), path(backend_config(&spec))),
        ("/archive/shop".into(), "/repository/shop".into())
    );
    assert!(connection(&spec).shared_folder && !connection(&to).shared_folder);
    assert_eq!(to.format, crate::model::ArchiveFormat::TarGzip);
    assert!(backend_config(&RestoreArchive::default()).is_none());
}

#[test]
fn everything_that_a_spec_names_is_mounted_and_expected() {
    let key = |name: &str| serde_json::json!({ "name": name, "key": "key" });
    let spec: RepositorySpec = serde_json::from_value(serde_json::json!({
        "sftp": {
            "host": "cellar", "user": "miller", "path": "x",
            "credentials": { "privateKeySecretRef": key("a") }, "hostKeysSecretRef": key("b"),
        },
        "tls": {
            "caConfigMapRef": key("c"), "clientCertificateSecretRef": key("d"), "clientKeySecretRef": key("e"),
        },
        "limits": { "upload": "10Mi", "connections": 3 },
        "passwordSecretRef": { "name": "f" },
    }))
    .unwrap();
    let sources = credential_sources(&spec);
    let names: Vec<&str> = sources.iter().map(|(_, source, _)| source.reference().name.as_str()).collect();
    assert_eq!(names, ["a", "b", "d", "e", "c"]);
    assert!(matches!(sources[4].1, CredentialSource::ConfigMap(_)));
    let connection = connection(&spec);
    assert_eq!(connection.credentials, sources.iter().map(|(credential, ..)| *credential).collect());
    assert_eq!(connection.limits.upload_bytes_per_second, Some(10 << 20));
    assert_eq!((connection.limits.download_bytes_per_second, connection.limits.connections), (None, Some(3)));
    assert!(!connection.insecure_skip_verify);
    // Each file has a name of its own.
    let files: std::collections::BTreeSet<&str> = sources.iter().map(|(credential, ..)| credential.file()).collect();
    assert_eq!(files.len(), sources.len());
}

/// An object that the types here cannot hold must not be created, so the schema makes the API server reject it.
#[test]
fn times_and_counts_that_cannot_be_read_are_refused_by_the_schema() {
    fn walk(value: &serde_json::Value, path: &str, found: &mut usize) {
        if value["format"] == "date-time" {
            assert_eq!(value["pattern"], TIME, "{path}");
            *found += 1;
        }
        for (key, child) in value.as_object().into_iter().flatten() {
            walk(child, &format!("{path}/{key}"), found);
        }
    }
    let mut times = 0;
    for crd in crds() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        walk(&schema, &crd.spec.names.kind, &mut times);
        let status = |pointer: &str| {
            let properties = "/openAPIV3Schema/properties/status/properties";
            schema.pointer(&format!("{properties}/{pointer}/minimum")).and_then(serde_json::Value::as_f64)
        };
        let counts: &[&str] = match crd.spec.names.kind.as_str() {
            "Repository" => &["attempt", "prune/properties/attempt", "prune/properties/repackedBytes"],
            "Backup" => &["bytes", "sources/items/properties/attempt", "sources/items/properties/bytes"],
            _ => &["bytes", "scaled/properties/replicas", "found/properties/bytes"],
        };
        for count in counts {
            assert_eq!(status(count), Some(0.0), "{count}");
        }
    }
    assert!(times > 10, "{times}");
    for unreadable in ["2026-01-01T00:00:00+99:99", "9999-12-31T23:59:59Z", "2026-01-01T00:00:00.1234567890Z"] {
        assert!(unreadable.parse::<jiff::Timestamp>().is_err(), "{unreadable}");
    }
}
