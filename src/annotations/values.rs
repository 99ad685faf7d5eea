//! Parses the values of annotations: commands, names, extensions, durations, booleans. An error is a sentence for
//! users, and contains no part of a command.

use std::time::Duration;

use super::{
    Injection,
    split::{Scan, scan},
};
use crate::model::{Excludes, LiteralSyntax};

/// The longest command line that is accepted. An exec request carries it in its URL, and some servers reject longer
/// URLs.
pub const MAX_COMMAND_BYTES: usize = 16 * 1024;

/// The longest file extension. Namespace, container and command have at most 63 bytes each, and the name of a file has
/// at most 255 bytes.
pub const MAX_EXTENSION_BYTES: usize = 63;

/// The maximum number of names in one annotation.
pub const MAX_NAMES: usize = 16;

/// Parses a command line of Stowaway's own keys. A JSON array of strings is used as it is; anything else is split as
/// K8up does.
///
/// A value that begins with `[` is JSON, and never the program `[`. That program writes nothing, so it makes no dump,
/// and a broken array that runs as a program would be hard to diagnose. `["[", ...]` is still possible.
pub(super) fn command(value: &str) -> Result<Command, String> {
    let json = value.trim_ascii_start();
    if !json.starts_with('[') {
        return split_command(value);
    }
    check_length(value)?;
    // Parse arbitrary JSON first, because the library's message would quote an element that is not a string.
    let elements: Vec<serde_json::Value> = serde_json::from_str(json).map_err(|error| {
        format!(
            "begins with '[', so it must be a JSON array of strings, but is not: {error}; \
             a program with that name is written [\"[\", ...]"
        )
    })?;
    let argv = elements
        .into_iter()
        .enumerate()
        .map(|(index, element)| match element {
            serde_json::Value::String(argument) => Ok(argument),
            _ => Err(format!("element {} of the JSON array is not a string", index + 1)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    checked(argv, None)
}

/// Parses a command line of K8up's keys, which is always split.
pub(super) fn split_command(value: &str) -> Result<Command, String> {
    check_length(value)?;
    let scan = scan(value);
    checked(scan.arguments.iter().map(|argument| (*argument).to_owned()).collect(), Some(&scan))
}

/// Program and arguments.
pub(super) struct Command {
    /// The arguments; the first is not empty.
    pub argv: Vec<String>,
    /// Whether the last argument is a quote that is never closed.
    pub open_quote: bool,
    /// Shell syntax that the program receives as text.
    pub literal: Option<LiteralSyntax>,
}

fn check_length(value: &str) -> Result<(), String> {
    if value.len() > MAX_COMMAND_BYTES {
        return Err(format!(
            "has more than {MAX_COMMAND_BYTES} bytes; put the script into the image or a ConfigMap and call it"
        ));
    }
    Ok(())
}

/// Checks the arguments of a line, or of a list if there is no line.
fn checked(argv: Vec<String>, line: Option<&Scan<'_>>) -> Result<Command, String> {
    if argv.iter().any(|argument| argument.contains('\0')) {
        return Err("contains a NUL, which no argument can contain".into());
    }
    match argv.first() {
        None => Err("is empty; it must be a program and its arguments".into()),
        Some(program) if program.is_empty() => Err("begins with an empty argument instead of a program".into()),
        Some(_) => {
            let literal = LiteralSyntax::of(&argv, line.map_or(&[], |line| &line.quoting));
            Ok(Command { argv, open_quote: line.is_some_and(|line| line.open_quote), literal })
        }
    }
}

/// The name of a command or a container: a DNS label according to RFC 1123.
pub fn label(value: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=63).contains(&value.len()) && value.bytes().all(inner) && !value.starts_with('-') && !value.ends_with('-') {
        Ok(())
    } else {
        Err("a name here has 1 to 63 lower-case letters, digits and '-', and begins and ends with a letter or digit"
            .into())
    }
}

/// Kubernetes' limit for names of objects.
const MAX_NAME_BYTES: usize = 253;
/// The schema of a Repository has this limit, because the name becomes the value of a label.
const MAX_REPOSITORY_BYTES: usize = 63;

/// The name of a Repository.
pub(super) fn repository_name(value: &str) -> Result<String, String> {
    object_name(value)?;
    if value.len() > MAX_REPOSITORY_BYTES {
        return Err(format!("has more than {MAX_REPOSITORY_BYTES} bytes, the limit for the name of a Repository"));
    }
    Ok(value.to_owned())
}

/// The name of an object: DNS labels joined by dots, at most 253 bytes.
pub fn object_name(value: &str) -> Result<(), String> {
    if value.len() <= MAX_NAME_BYTES && value.split('.').all(|part| label(part).is_ok()) {
        Ok(())
    } else {
        Err("is not an object's name: lower-case letters, digits, '-' and '.', at most 253".into())
    }
}

/// The suffix of a file's name.
pub(super) fn extension(value: &str) -> Result<(), String> {
    if value.len() > MAX_EXTENSION_BYTES {
        Err(format!("has more than {MAX_EXTENSION_BYTES} bytes"))
    } else if value.chars().any(|c| c == '/' || c == '\\' || c == ',' || c.is_control()) {
        Err("contains a slash, a comma or a control character; it is appended to a file's name, for example .sql"
            .into())
    } else {
        Ok(())
    }
}

/// The truth table of Go's `strconv.ParseBool`, which Kubernetes users know.
pub fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("is neither \"true\" nor \"false\"".into()),
    }
}

pub(super) fn injection(value: &str) -> Result<Injection, String> {
    match value {
        "helper" => Ok(Injection::Helper),
        "sidecar" => Ok(Injection::Sidecar),
        "none" => Ok(Injection::None),
        _ => Err("is neither \"helper\" nor \"sidecar\" nor \"none\"".into()),
    }
}

/// When a volume is restored.
pub(super) fn on_empty(value: &str) -> Result<bool, String> {
    if value == "on-empty" { Ok(true) } else { Err("is not \"on-empty\", the only supported value".into()) }
}

/// Names of volumes in a pod.
pub(super) fn volume_names(value: &str) -> Result<Vec<String>, String> {
    names(value, |name| {
        let plain = "use the name in the pod's spec; a volume is always used as a whole, so there are no paths";
        label(name).map_err(|_| format!("{name:?} is not a volume's name: {plain}"))
    })
}

/// Names of Secrets in the pod's own namespace. References to other namespaces are rejected here, once for all users of
/// the value.
pub(super) fn secret_names(value: &str) -> Result<Vec<String>, String> {
    names(value, |name| match object_name(name) {
        Err(_) if name.contains('/') => Err(format!(
            "{name:?} points to another namespace or into a Secret; only whole Secrets of the pod's own namespace are \
             mounted, by their plain names"
        )),
        result => result.map_err(|reason| format!("{name:?} {reason}")),
    })
}

/// Names, separated by commas and optional blanks; all errors at once.
fn names(value: &str, check: impl Fn(&str) -> Result<(), String>) -> Result<Vec<String>, String> {
    let mut found: Vec<String> = Vec::new();
    let mut wrong: Vec<String> = Vec::new();
    for (index, name) in value.split(',').map(str::trim_ascii).enumerate() {
        if index == MAX_NAMES {
            wrong.push(format!("there are more than {MAX_NAMES} names"));
            break;
        }
        if name.is_empty() {
            wrong.push("a name is missing; names are separated by single commas".into());
        } else if found.iter().any(|earlier| earlier == name) {
            wrong.push(format!("{name:?} occurs twice"));
        } else if name.len() > MAX_NAME_BYTES {
            wrong.push(format!("a name has more than {MAX_NAME_BYTES} bytes"));
        } else if let Err(reason) = check(name) {
            wrong.push(reason);
        } else {
            found.push(name.to_owned());
        }
    }
    if wrong.is_empty() { Ok(found) } else { Err(wrong.join("; ")) }
}

/// Patterns of paths: a JSON array of strings, or one per line. A value that begins with `[` is JSON, as for a command.
pub(super) fn patterns(value: &str) -> Result<Vec<String>, String> {
    let patterns: Vec<String> = if value.trim_ascii_start().starts_with('[') {
        serde_json::from_str(value).map_err(|error| {
            format!(
                "begins with '[', so it must be a JSON array of strings, but is not: {error}; a pattern that \
                 begins so is written [\"[...\"]"
            )
        })?
    } else {
        let lines: Vec<String> =
            value.lines().map(str::trim_ascii).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        if lines.is_empty() {
            return Err("has no pattern; write [] to exclude nothing".into());
        }
        lines
    };
    Excludes::new(&patterns)?;
    Ok(patterns)
}

const SHOWN_BYTES: usize = 80;

/// A value as it may be shown: quoted and shortened.
pub(super) fn shown(value: &str) -> String {
    let shown = &value[..value.floor_char_boundary(SHOWN_BYTES)];
    format!("{shown:?}{}", if shown.len() < value.len() { "..." } else { "" })
}

/// A duration of more than zero, in the syntax of Go's `time.ParseDuration`.
pub fn positive_duration(value: &str) -> Result<Duration, String> {
    let (negative, nanoseconds) = go_duration(value)
        .ok_or("is not a duration such as 90s, 1h30m or 500ms (units: h, m, s, ms, us, ns; at most 292 years)")?;
    match nanoseconds {
        0 => Err("is zero; remove the annotation to have no limit".into()),
        _ if negative => Err("is negative".into()),
        _ => Ok(Duration::from_nanos(nanoseconds)),
    }
}

/// Go's grammar: `[-+]?([0-9]*(\.[0-9]*)?UNIT)+`, or a lone 0; at least one digit per number, at most 2^63-1
/// nanoseconds.
///
/// kube's own duration type panics at `1h-5m` and accepts the empty text.
fn go_duration(value: &str) -> Option<(bool, u64)> {
    let negative = value.starts_with('-');
    let mut rest = value.strip_prefix(['-', '+']).unwrap_or(value);
    if rest == "0" {
        return Some((negative, 0));
    }
    let mut total: u128 = 0;
    loop {
        let (whole, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit())?),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (unit, after) = after.split_at(after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len()));
        let nanoseconds: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        if !whole.is_empty() {
            total = total.checked_add(whole.parse::<u128>().ok()?.checked_mul(nanoseconds)?)?;
        }
        // Digits beyond the eighteenth are less than a nanosecond of any unit.
        let fraction = &fraction[..fraction.len().min(18)];
        if let (false, Ok(digits)) = (fraction.is_empty(), u32::try_from(fraction.len())) {
            total = total.checked_add(fraction.parse::<u128>().ok()? * nanoseconds / 10_u128.pow(digits))?;
        }
        if after.is_empty() {
            return (total <= i64::MAX as u128).then(|| u64::try_from(total).ok().map(|total| (negative, total)))?;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        let milliseconds = |text: &str| positive_duration(text).map(|duration| duration.as_millis()).ok();
        for (text, expected) in [
            ("1h30m", Some(5_400_000)),
            ("90s", Some(90_000)),
            ("500ms", Some(500)),
            ("+5s", Some(5_000)),
            ("1.5h", Some(5_400_000)),
            (".5s", Some(500)),
            ("1.s", Some(1_000)),
            ("1.5h30m", Some(7_200_000)),
            ("30m1h", Some(5_400_000)),
            ("1us", Some(0)),
            ("1000\u{b5}s", Some(1)),
            ("1000\u{3bc}s", Some(1)),
            ("0.000000000000000000000001h1s", Some(1_000)),
            ("2540400h10m10.000000000s", Some(9_145_440_610_000)),
        ] {
            assert_eq!(milliseconds(text), expected, "{text:?}");
        }
        for text in [
            "",
            "-",
            "+",
            "0",
            "-0",
            "0s",
            "0h0m",
            "-5s",
            "1h-5m",
            "5",
            "1h5",
            "h",
            ".s",
            "s5",
            "1 h",
            " 1h",
            "1h ",
            "1d",
            "1w",
            "1H",
            "1e3s",
            "infs",
            "nan",
            "PT1H",
            "3000000h",
            "9223372036854775808ns",
            "99999999999999999999999999999999999999999h",
            "٣s",
            "1,5s",
            "--5s",
            "0.1ns",
        ] {
            assert!(positive_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn truth_is_that_of_parse_bool() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(boolean(text), Ok(true));
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(boolean(text), Ok(false));
        }
        for text in ["", "yes", "no", "on", "tRUE", " true", "true\n", "2"] {
            assert!(boolean(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_duration_or_an_error(text in "[-+0-9.hmsunµ]{0,24}") {
            let _ = positive_duration(&text);
        }
    }
}
