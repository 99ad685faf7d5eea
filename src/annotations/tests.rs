//! Tests of requests from annotations: first invalid ones, then valid ones.

mod pipes;
mod without_effect;

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;

/// Annotations from pairs; a key that begins with `/` is one of Stowaway's.
fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let whole = |key: &str| key.strip_prefix('/').map_or(key.to_owned(), |own| format!("{PREFIX}{own}"));
    pairs.iter().map(|(key, value)| (whole(key), (*value).to_owned())).collect()
}

fn request(pairs: &[(&str, &str)]) -> Request {
    parse(&annotations(pairs)).unwrap().expect("the annotations make a request")
}

fn problems(pairs: &[(&str, &str)]) -> Vec<Problem> {
    parse(&annotations(pairs)).expect_err("something is wrong").problems
}

#[test]
fn warnings_are_reported_in_addition_to_problems() {
    for wrong in [("/timeout", "soon"), ("k8up.io/backupcommand", "")] {
        let pairs = annotations(&[("/backupcomand", "dump"), wrong]);
        let Problems { problems, warnings } = parse(&pairs).unwrap_err();
        assert_eq!((problems.len(), warnings.len()), (1, 1), "{problems:?} {warnings:?}");
        assert!(warnings[0].key.ends_with("/backupcomand"));
    }
}

fn warned_keys(request: &Request) -> Vec<&str> {
    request.warnings.iter().map(|warning| warning.key.trim_start_matches(PREFIX)).collect()
}

#[test]
fn wrong_values_are_problems() {
    let long = "x".repeat(MAX_COMMAND_BYTES + 1);
    let dotted = format!("{}r", "r.".repeat(32));
    let cases: &[(&str, &str, &str)] = &[
        ("/backupcommand", "", "empty"),
        ("/backupcommand", " \t ", "empty"),
        ("/backupcommand", "''", "empty argument"),
        ("/backupcommand", "[]", "empty"),
        ("/backupcommand", "[\"\"]", "empty argument"),
        ("/backupcommand", "[\"a\"", "JSON array"),
        ("/backupcommand", "[\"a\",]", "JSON array"),
        ("/backupcommand", "[\"a\"] b", "JSON array"),
        ("/backupcommand", "[ -f x ]", "[\"[\", ...]"),
        ("/backupcommand", "[\"a\", 7]", "element 2"),
        ("/backupcommand", "[[\"a\"]]", "element 1"),
        ("/backupcommand", "[\"a\\u0000b\"]", "NUL"),
        ("/backupcommand", &long, "16384 bytes"),
        ("/backupcommand.Roles", "a", "not allowed"),
        ("/backupcommand.", "a", "not allowed"),
        ("/backupcommand.a.b", "a", "not allowed"),
        ("/backupcommand.-a", "a", "not allowed"),
        ("/restorecommand", "", "empty"),
        ("/restorecommand.roles", "psql", "no stowaway.dev/backupcommand.roles"),
        ("/file-extension.roles", ".sql", "no stowaway.dev/backupcommand.roles"),
        ("/backupcommand-container.roles", "db", "no stowaway.dev/backupcommand.roles"),
        ("/backupcommand-container", "", "1 to 63"),
        ("/backupcommand-container", "Db", "lower-case"),
        ("/file-extension", "/../x", "slash"),
        ("/file-extension", ".a,b", "comma"),
        ("/file-extension", ".sql\n", "control"),
        ("/file-extension", &long, "63 bytes"),
        ("/repository", "", "object's name"),
        ("/repository", "a_b", "object's name"),
        ("/timeout", "5", "not a duration"),
        ("/timeout", "0s", "is zero"),
        ("/idle-timeout", "-5s", "negative"),
        ("/sidecar-resources", "1", "JSON object"),
        ("/sidecar-resources", "{}", "JSON object"),
        ("/sidecar-resources", r#"{"claims":{}}"#, "neither requests nor limits"),
        ("/sidecar-resources", r#"{"limits":{"gpu":"1"}}"#, "none of cpu"),
        ("/sidecar-resources", r#"{"limits":{"memory":"1GB"}}"#, "not a quantity"),
        ("/sidecar-resources", r#"{"limits":{"cpu":"1"},"requests":{"cpu":"2"}}"#, "more than limits"),
        ("/accept-unproven", "yes", "neither"),
        ("/allow-empty", "", "neither"),
        ("/repository", &dotted, "63 bytes"),
        ("/inject", "", "neither"),
        ("/inject", "Sidecar", "neither"),
        ("/inject", "true", "neither"),
        ("/restore", "", "on-empty"),
        ("/restore", "always", "on-empty"),
        ("/volumes", "", "missing"),
        ("/volumes", "data,", "missing"),
        ("/volumes", "data,data", "twice"),
        ("/volumes", "Data", "not a volume's name"),
        ("/volumes", "../etc", "no paths"),
        ("/volumes", "data/../../etc", "no paths"),
        ("/volumes", "/", "no paths"),
        ("/volumes", "data:/etc", "no paths"),
        ("/volumes", "data\0", "no paths"),
        ("/volumes", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q", "more than 16"),
        ("/secrets", "", "missing"),
        ("/secrets", "login,login", "twice"),
        ("/secrets", "kube-system/token", "another namespace"),
        ("/secrets", "../token", "another namespace"),
        ("/secrets", "..", "not an object's name"),
        ("/secrets", "login:key", "not an object's name"),
        ("/secrets", &long, "253 bytes"),
        ("k8up.io/backupcommand", "", "empty"),
        ("k8up.syn.tools/backupcommand", "\t", "empty"),
        ("appuio.ch/backupcommand", &long, "16384 bytes"),
        ("k8up.io/file-extension", "a/b", "slash"),
    ];
    for (key, value, reason) in cases {
        // A valid command in addition, so that nothing else is wrong.
        let mut pairs = vec![(*key, *value)];
        if !key.ends_with("/backupcommand") {
            pairs.push(("/backupcommand", "dump"));
        }
        let found = problems(&pairs);
        assert_eq!(found.len(), 1, "{key} {value:.80?}: {found:?}");
        assert!(found[0].reason.contains(reason), "{key} {value:.80?}: {}", found[0].reason);
        assert_eq!(found[0].key, key.strip_prefix('/').map_or((*key).to_owned(), |own| format!("{PREFIX}{own}")));
    }
}

#[test]
fn all_problems_come_at_once() {
    let found = problems(&[
        ("/backupcommand", "['a']"),
        ("/backupcommand.UP", "a"),
        ("/file-extension.other", ".x"),
        ("/file-extension", "/"),
        ("/restorecommand", "[1]"),
        ("/repository", "?"),
        ("/timeout", "soon"),
        ("/idle-timeout", "0"),
        ("/accept-unproven", "yes"),
        ("/allow-empty", "no"),
    ]);
    assert_eq!(found.len(), 10, "{found:#?}");
}

#[test]
fn all_wrong_names_of_one_list_come_at_once() {
    let found = problems(&[("/inject", "sidecar"), ("/volumes", "a, ../b,, a ,C")]);
    assert_eq!(found.len(), 1);
    for part in ["\"../b\"", "missing", "\"a\" occurs twice", "\"C\""] {
        assert!(found[0].reason.contains(part), "{part}: {}", found[0].reason);
    }
}

#[test]
fn a_restore_into_a_pod_without_injection_is_a_problem() {
    let found = problems(&[("/inject", "none"), ("/restore", "on-empty"), ("/volumes", "data")]);
    assert_eq!(found.len(), 1);
    assert!(found[0].reason.contains("contradicts stowaway.dev/inject"), "{found:?}");
}

#[test]
fn attributes_without_any_plain_command_are_problems() {
    for key in ["/file-extension", "/backupcommand-container", "/restorecommand"] {
        assert!(problems(&[(key, "x")])[0].reason.contains("no stowaway.dev/backupcommand "), "{key}");
        assert_eq!(problems(&[(key, "x"), ("/backupcommand.named", "dump")]).len(), 1, "{key}");
    }
}

#[test]
fn passwords_of_command_lines_are_never_printed() {
    let pairs = [
        ("/backupcommand", "mysqldump -phush"),
        ("/restorecommand", "mysql -phush"),
        ("/backupcommand.a", "sh -c 'hush"),
        ("k8up.io/backupcommand", "hush"),
    ];
    let request = request(&pairs);
    let texts: String = request.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(request.warnings.len(), 2);
    assert!(!format!("{request:?} {texts}").contains("hush"));
    for wrong in ["[\"hush\"", "[\"a\", [\"hush\"]]", "['hush']", "[hush]", "'' hush", &"hush".repeat(5000)] {
        for key in
            ["/backupcommand", "/backupcommand.a", "/backupcommand.A", "/restorecommand", "/restorecommand.orphan"]
        {
            let errors = parse(&annotations(&[("k8up.io/backupcommand", "x"), (key, wrong)])).expect_err(wrong);
            assert!(!format!("{errors} {errors:?}").contains("hush"), "{errors}");
        }
    }
}

#[test]
fn unknown_own_key_is_a_warning_with_the_nearest_known_one() {
    for (key, nearest) in [
        ("backupcomand", "backupcommand"),
        ("backup-command", "backupcommand"),
        ("BackupCommand", "backupcommand"),
        ("backupcomand.roles", "backupcommand"),
        ("fileextension", "file-extension"),
        ("container", "backupcommand-container"),
        ("timeout.roles", "timeout"),
        ("idletimeout", "idle-timeout"),
        ("restore-command", "restorecommand"),
        ("accept-unprooven", "accept-unproven"),
    ] {
        let request = request(&[(&format!("/{key}"), "x")]);
        assert_eq!(warned_keys(&request), [key]);
        assert!(request.warnings[0].message.ends_with(&format!("is {PREFIX}{nearest}")), "{:?}", request.warnings);
        assert!(request.commands.is_empty());
    }
}

#[test]
fn key_with_a_similar_prefix_is_a_warning_and_requests_nothing() {
    for key in ["stowaway.io/backupcommand", "stowawy.dev/backupcommand", "k8up.io/backupcomand"] {
        let request = request(&[(key, "hush")]);
        assert!(request.commands.is_empty(), "{key}");
        let [warning] = &request.warnings[..] else { panic!("{:?}", request.warnings) };
        assert!(warning.is_mistake && warning.key == key && !warning.to_string().contains("hush"), "{warning}");
    }
}

#[test]
fn remarks_about_valid_settings_are_no_mistakes() {
    let valid = [("/backupcommand", "sh -c 'pg_dump | gzip'"), ("k8up.io/backupcommand", "pg_dump")];
    let warnings = request(&valid).warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().all(|warning| !warning.is_mistake), "{warnings:?}");
}

#[test]
fn settings_without_a_command_get_a_warning() {
    assert_eq!(warned_keys(&request(&[("/timeout", "1h"), ("/repository", "main")])), ["repository", "timeout"]);
}

#[test]
fn settings_without_effect_get_a_warning() {
    for (pairs, expected) in [
        (&[("/volumes", "data"), ("/backupcommand", "dump")][..], &["volumes"][..]),
        (&[("/volumes", "data"), ("/inject", "sidecar")], &[]),
        (&[("/volumes", "data"), ("/restore", "on-empty")], &[]),
        (&[("/secrets", "login")], &["secrets"]),
        (&[("/secrets", "login"), ("/inject", "sidecar")], &["secrets"]),
        (&[("/secrets", "login"), ("/inject", "helper")], &[]),
        (&[("/secrets", "login"), ("/backupcommand", "dump")], &[]),
        (&[("/secrets", "login"), ("/k8up", "dump")], &["k8up", "secrets"]),
        (&[("/secrets", "login"), ("k8up.io/backupcommand", "dump")], &[]),
        (&[("/secrets", "login"), ("/backupcommand", "dump"), ("/inject", "none")], &["secrets"]),
        (&[("/repository", "main"), ("/restore", "on-empty")], &[]),
        (&[("/repository", "main"), ("/inject", "helper")], &["repository"]),
        (&[("/timeout", "1h"), ("/inject", "sidecar")], &[]),
        (&[("/timeout", "1h"), ("/restore", "on-empty")], &["timeout"]),
        (&[("/allow-empty", "1"), ("/inject", "sidecar")], &["allow-empty"]),
        (&[("/inject", "none")], &[]),
    ] {
        assert_eq!(warned_keys(&request(pairs)), expected, "{pairs:?}");
    }
}

#[test]
fn many_unknown_keys_are_reported_briefly_and_a_long_one_is_not_compared() {
    let many = (0..10_000).map(|number| (format!("{PREFIX}backupcomand-{number:05}"), String::new()));
    let long = (format!("{PREFIX}{}", "b".repeat(1_000_000)), String::new());
    let alone = parse(&[long.clone()].into()).unwrap().unwrap();
    assert!(alone.warnings[0].message.contains("too long to be one of Stowaway's"), "{:?}", alone.warnings);
    let request = parse(&many.chain([long]).collect()).unwrap().unwrap();
    assert_eq!(request.warnings.len(), 16);
    assert!(request.warnings.iter().all(|warning| warning.to_string().len() < 300));
}

#[test]
fn quote_that_is_never_closed_gets_a_warning() {
    for key in ["/backupcommand", "k8up.io/backupcommand"] {
        let request = request(&[(key, "sh -c 'pg_dump")]);
        assert_eq!(request.commands[0].argv, ["sh", "-c", "pg_dump"]);
        assert!(request.warnings[0].message.contains("never closed"));
    }
}

#[test]
fn annotations_that_do_not_concern_stowaway_make_no_request() {
    for pairs in [
        &[][..],
        &[("app", "shop"), ("prometheus.io/scrape", "true")],
        &[("k8up.io/file-extension", "/"), ("k8up.io/backup", "yes"), ("k8up.io/unknown", "x")],
        &[("velero.io/backup", "x"), ("example.com/backupcommand", "x")],
    ] {
        assert_eq!(parse(&annotations(pairs)), Ok(None), "{pairs:?}");
    }
}

#[test]
fn commands_are_split_or_taken_from_json() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("/backupcommand", "sh -c 'a | b' ", &["sh", "-c", "a | b"]),
        ("/backupcommand", "[\"sh\", \"-c\", \"a 'b' | c\"]", &["sh", "-c", "a 'b' | c"]),
        ("/backupcommand", " \n[\"[\", \"-f\", \"x\", \"]\"]\n", &["[", "-f", "x", "]"]),
        ("/backupcommand", "[\"\\u00e4\", \"\"]", &["ä", ""]),
        ("/backupcommand", "a [\"b\"]", &["a", "[\"b\"]"]),
        ("k8up.io/backupcommand", "[\"sh\", \"-c\"]", &["[\"sh\",", "-c", "]"]),
        ("k8up.io/backupcommand", "[ -f x ]", &["[", "-f", "x", "]"]),
        ("k8up.syn.tools/backupcommand", "pg_dump\tx\n", &["pg_dump", "x\n"]),
        ("appuio.ch/backupcommand", "'a b'\"c\"", &["a b", "c"]),
    ];
    for (key, value, argv) in cases {
        assert_eq!(request(&[(key, value)]).commands[0].argv, *argv, "{key} {value:?}");
    }
    let longest = "x".repeat(MAX_COMMAND_BYTES);
    assert_eq!(request(&[("/backupcommand", &longest)]).commands[0].argv, [longest]);
}

#[test]
fn every_own_key_is_understood() {
    let request = request(&[
        ("/backupcommand", "pg_dump shop"),
        ("/backupcommand-container", "db"),
        ("/file-extension", ".sql"),
        ("/restorecommand", "[\"psql\"]"),
        ("/backupcommand.roles", "pg_dumpall -r"),
        ("/backupcommand-container.roles", "admin"),
        ("/file-extension.roles", ".roles.sql"),
        ("/restorecommand.roles", "psql"),
        ("/backupcommand.bare-1", "x"),
        ("/pipefail.bare-1", "false"),
        ("/repository", "offsite.eu"),
        ("/timeout", "1h30m"),
        ("/idle-timeout", "90s"),
        ("/accept-unproven", "T"),
        ("/allow-empty", "1"),
        ("/format-check", "0"),
        ("/inject", "sidecar"),
        ("/volumes", " data , wal"),
        ("/restore", "on-empty"),
        ("/secrets", "login,tls.client"),
        ("/sidecar-resources", r#"{"limits":{"cpu":"1","memory":"256Mi"},"requests":{"cpu":"50m"}}"#),
    ]);
    let command =
        |name: Option<&str>, argv: &[&str], restore: Option<&str>, container: Option<&str>, extension: &str| {
            CommandRequest {
                name: name.map(str::to_owned),
                argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
                literal: None,
                restore_literal: None,
                restore_argv: restore.map(|program| vec![program.to_owned()]),
                container: container.map(str::to_owned),
                file_extension: extension.to_owned(),
                pipefail: name != Some("bare-1"),
                dialect: KeyDialect::Stowaway,
            }
        };
    assert_eq!(
        request,
        Request {
            commands: vec![
                command(None, &["pg_dump", "shop"], Some("psql"), Some("db"), ".sql"),
                command(Some("bare-1"), &["x"], None, None, ""),
                command(Some("roles"), &["pg_dumpall", "-r"], Some("psql"), Some("admin"), ".roles.sql"),
            ],
            repository: Some("offsite.eu".into()),
            timeout: Some(Duration::from_mins(90)),
            idle_timeout: Some(Duration::from_secs(90)),
            accept_unproven: true,
            allow_empty: true,
            skip_format_check: true,
            allow_missing: false,
            inject: Some(Injection::Sidecar),
            volumes: vec!["data".into(), "wal".into()],
            restore_on_empty: true,
            secrets: vec!["login".into(), "tls.client".into()],
            sidecar_resources: Some(serde_json::json!({
                "limits": { "cpu": "1", "memory": "256Mi" }, "requests": { "cpu": "50m" },
            })),
            warnings: vec![],
        }
    );
}

#[test]
fn own_keys_win_then_the_newest_dialect() {
    let extensions = [
        "/file-extension",
        "k8up.io/file-extension",
        "k8up.syn.tools/file-extension",
        "backup.appuio.ch/file-extension",
    ];
    let commands =
        ["/backupcommand", "k8up.io/backupcommand", "k8up.syn.tools/backupcommand", "appuio.ch/backupcommand"];
    let dialects = [KeyDialect::Stowaway, KeyDialect::K8up, KeyDialect::Syn, KeyDialect::Appuio];
    for first in 0..4 {
        // Every dialect from `first` on sets a value of its own.
        let commands = commands[first..].iter().map(|key| (*key, key.trim_start_matches('/')));
        let extensions =
            extensions[first..].iter().zip(first..).map(|(key, index)| (*key, [".0", ".1", ".2", ".3"][index]));
        let pairs: Vec<_> = commands.chain(extensions).collect();
        let request = request(&pairs);
        assert_eq!(request.commands.len(), 1);
        let command = &request.commands[0];
        assert_eq!(command.dialect, dialects[first]);
        assert_eq!(command.argv, [pairs[0].1]);
        assert_eq!(command.file_extension, format!(".{first}"));
        assert_eq!(request.warnings.len(), 2 * (3 - first), "{:?}", request.warnings);
        assert!(request.warnings.iter().all(|warning| warning.message.contains("wins")));
    }
}

#[test]
fn a_command_of_another_tool_coexists_with_own_named_ones_and_uses_own_settings() {
    let request = request(&[
        ("k8up.io/backupcommand", "pg_dump"),
        ("k8up.io/backupcommand-container", "db"),
        ("/restorecommand", "psql"),
        ("/backupcommand.roles", "pg_dumpall"),
        ("/timeout", "1h"),
    ]);
    let [plain, named] = &request.commands[..] else { panic!("{request:?}") };
    assert_eq!((plain.dialect, plain.container.as_deref()), (KeyDialect::K8up, Some("db")));
    assert_eq!(plain.restore_argv.as_deref(), Some(&["psql".to_owned()][..]));
    assert_eq!((named.dialect, named.name.as_deref()), (KeyDialect::Stowaway, Some("roles")));
    assert!(request.warnings.is_empty());
}

#[test]
fn attributes_of_another_tool_do_not_reach_named_commands() {
    let request = request(&[("/backupcommand.roles", "x"), ("k8up.io/file-extension", ".sql")]);
    assert_eq!(request.commands[0].file_extension, "");
    assert_eq!(warned_keys(&request), ["k8up.io/file-extension"]);
}

#[test]
fn documentation_lists_every_key() {
    let text = render();
    for key in KEYS {
        assert!(text.contains(&format!("| `{PREFIX}{}`", key.name)));
        assert!(key.foreign.iter().all(|(_, foreign)| text.contains(&format!("`{foreign}`"))));
        assert!(key.foreign.is_sorted_by_key(|(dialect, _)| *dialect), "newest first: {}", key.name);
        assert_eq!(KEYS.iter().filter(|other| other.id == key.id || other.name == key.name).count(), 1, "{}", key.name);
    }
    assert!(text.lines().all(|line| line.matches('|').count() == 8), "{text}");
}

/// Keys of the table, and keys that are similar to them.
fn any_key() -> impl Strategy<Value = String> {
    let foreign: Vec<&str> = KEYS.iter().flat_map(|key| key.foreign).map(|(_, foreign)| *foreign).collect();
    let own: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    prop_oneof![
        proptest::sample::select(foreign).prop_map(str::to_owned),
        (proptest::sample::select(own), "(\\.[a-zA-Z.-]{0,4})?")
            .prop_map(|(name, suffix)| format!("{PREFIX}{name}{suffix}")),
        any::<String>().prop_map(|key| format!("{PREFIX}{key}")),
        any::<String>(),
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\\[\\]\", 'a-c\\\\]{0,16}",
        Just("1h".to_owned()),
        Just("true".to_owned()),
        Just("name".to_owned()),
    ]
}

proptest! {
    #[test]
    fn any_annotations_are_a_request_or_problems(map in proptest::collection::btree_map(any_key(), any_value(), 0..12)) {
        match parse(&map) {
            Ok(None) => prop_assert!(map.keys().all(|key| !key.starts_with(PREFIX) && !key.ends_with("backupcommand"))),
            Ok(Some(request)) => {
                prop_assert!(request.commands.iter().all(|command| command.argv.first().is_some_and(|program| !program.is_empty())));
                // Nothing is lost: every own key is in the request, or in a warning.
                let commands = map.keys().filter(|key| {
                    let base = key.strip_prefix(PREFIX).unwrap_or_default();
                    base == "backupcommand" || base.starts_with("backupcommand.")
                });
                prop_assert!(request.commands.len() >= commands.count());
            }
            Err(problems) => {
                prop_assert!(!problems.problems.is_empty());
                prop_assert!(problems.problems.iter().all(|problem| map.contains_key(&problem.key)));
            }
        }
    }
}
