//! What the definitions promise to the API server.

use super::*;

#[test]
fn definitions_are_built_without_panic_and_carry_the_house_habits() {
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

/// Go through every part of every schema: an API server warns of formats that it doesn't know, and refuses `oneOf`
/// with properties of its own.
#[test]
fn schemas_hold_only_what_an_api_server_knows() {
    fn walk(value: &serde_json::Value, path: &str) {
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
fn every_duration_that_the_schema_lets_through_is_parsed() {
    for text in ["90s", "1h30m", "1.5h", "999999h999999m", "1ms"] {
        assert!(text.parse::<kube::core::Duration>().is_ok(), "{text}");
    }
}
