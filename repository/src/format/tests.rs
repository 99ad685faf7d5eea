//! Tests of the formats: what restic and rustic wrote is read, and what Stowaway writes does not change.

mod files;
mod names;
mod nodes;
mod rustic;

use serde::{Serialize, de::DeserializeOwned};

/// Reads JSON, and asserts that it is written back unchanged.
fn unchanged<T: DeserializeOwned + Serialize>(json: &str) -> T {
    let value: T = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_string(&value).unwrap(), json);
    value
}
