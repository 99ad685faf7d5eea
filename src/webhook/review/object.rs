//! Parses an object of a review without `metadata.managedFields`. These are often half of an object, consist of very
//! many small parts, and are not used here. Skipping them costs almost nothing. Everything else is parsed strictly.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, map::Entry};

use crate::inject::{StrictJson, twice};

/// The object.
pub(super) struct Object(pub Value);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields::<Whole>(PhantomData)).map(Self)
    }
}

/// The metadata of an object.
struct Metadata(Value);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields::<OfMetadata>(PhantomData)).map(Self)
    }
}

/// Parses the value of one field; none for a field that is skipped.
trait Read {
    fn field<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Value>, A::Error>;
}

struct Whole;

impl Read for Whole {
    fn field<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Value>, A::Error> {
        if name == "metadata" {
            return map.next_value::<Metadata>().map(|Metadata(value)| Some(value));
        }
        map.next_value::<StrictJson>().map(|StrictJson(value)| Some(value))
    }
}

struct OfMetadata;

impl Read for OfMetadata {
    fn field<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Value>, A::Error> {
        if name == "managedFields" {
            return map.next_value::<IgnoredAny>().map(|_| None);
        }
        map.next_value::<StrictJson>().map(|StrictJson(value)| Some(value))
    }
}

/// Parses a map without duplicate keys.
struct Fields<R>(PhantomData<R>);

impl<'de, R: Read> Visitor<'de> for Fields<R> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let Some(value) = R::field(&name, &mut map)? else { continue };
            match fields.entry(name) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(entry) => return Err(twice(entry.key())),
            };
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Value, serde_json::Error> {
        serde_json::from_str(text).map(|Object(value)| value)
    }

    #[test]
    fn only_the_managed_fields_are_skipped() {
        let text = json!({
            "metadata": { "name": "a", "managedFields": [{ "x": 1 }], "annotations": { "managedFields": "kept" } },
            "spec": { "managedFields": 1, "metadata": { "managedFields": 2 } },
            "managedFields": [3],
        });
        let mut expected = text.clone();
        expected["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(read(&text.to_string()).unwrap(), expected);
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused_at_every_depth() {
        for text in [
            r#"{"spec": 1, "spec": 2}"#,
            r#"{"metadata": {}, "metadata": {}}"#,
            r#"{"metadata": {"name": 1, "name": 1}}"#,
            r#"{"metadata": {"annotations": {"a": "", "a": ""}}}"#,
            r#"{"spec": [{"a": 1, "a": 1}]}"#,
        ] {
            assert!(read(text).unwrap_err().to_string().starts_with("the key "), "{text}");
        }
    }
}
