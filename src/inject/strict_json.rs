//! Strict parsing of JSON: duplicate keys, large texts and deeply nested values are rejected. Two parsers which
//! disagree on which of two equal keys counts would decide on different pods. The API server sends no duplicate keys,
//! so a request with one is an attack or a mistake.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value, map::Entry};

/// The largest request that the API server accepts.
pub const MAX_BYTES: usize = 3 * 1024 * 1024;

/// Why a text was rejected.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("it has {0} bytes, but a Kubernetes object has at most {MAX_BYTES}")]
    TooLarge(usize),
    /// It is not JSON, is nested too deeply, or has a duplicate key.
    #[error("it cannot be parsed as JSON: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Parses JSON, nested at most 128 levels deep.
///
/// # Errors
/// If the text is too large, is not JSON, is nested too deeply, or has a duplicate key.
pub fn read_json(text: &[u8]) -> Result<Value, ReadError> {
    if text.len() > MAX_BYTES {
        return Err(ReadError::TooLarge(text.len()));
    }
    let StrictJson(value) = serde_json::from_slice(text)?;
    Ok(value)
}

/// A value of JSON or YAML without duplicate keys.
#[derive(Clone, Debug, PartialEq)]
pub struct StrictJson(pub Value);

impl<'de> Deserialize<'de> for StrictJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

/// The error of a duplicate key.
pub fn twice<E: Error>(key: &str) -> E {
    let shown = &key[..key.floor_char_boundary(64)];
    E::custom(format_args!("the key {shown:?} is there twice"))
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that JSON cannot represent"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(StrictJson(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((key, StrictJson(value))) = map.next_entry::<String, StrictJson>()? {
            match values.entry(key) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(entry) => return Err(twice(entry.key())),
            };
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        for text in [r#"{"a": 1, "a": 1}"#, r#"{"x": [{"a": 1, "\u0061": 2}]}"#] {
            let refused = read_json(text.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(r#"the key "a" is there twice"#), "{refused}");
        }
        let refused = yaml_serde::from_str::<StrictJson>("a: 1\na: 2\n").unwrap_err().to_string();
        assert!(refused.contains(r#"the key "a" is there twice"#), "{refused}");
        // The message shortens long keys at a character boundary.
        let long = "\u{e4}".repeat(1000);
        let refused = read_json(format!(r#"{{"{long}": 1, "{long}": 2}}"#).as_bytes()).unwrap_err().to_string();
        assert!(refused.contains(&format!("{:?}", &long[..64])) && refused.len() < 200, "{refused}");
    }

    #[test]
    fn deep_and_large_texts_are_refused_at_once() {
        for text in ["[".repeat(1_000_000), "{\"a\":".repeat(500_000)] {
            assert!(read_json(text.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
        }
        assert!(matches!(read_json(&vec![b' '; MAX_BYTES + 1]), Err(ReadError::TooLarge(_))));
    }

    #[test]
    fn valid_texts_are_parsed_as_by_serde_json() {
        let text = r#"{"a": [null, true, -1, 18446744073709551615, 1.5, "x", {}], "/~": {"a": {}}}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(read_json(text.as_bytes()).unwrap(), expected);
        assert_eq!(yaml_serde::from_str::<StrictJson>(text).unwrap().0, expected);
        assert_eq!(
            yaml_serde::from_str::<StrictJson>("a: {b: ~, c: 1e3}").unwrap().0,
            json!({"a": {"b": null, "c": 1e3}})
        );
    }
}
