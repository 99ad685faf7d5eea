//! Tests of pipes in scripts: which annotations get a warning, and which commands run with `pipefail`.

use super::{problems, request};

#[test]
fn pipe_of_a_script_gets_a_warning_unless_the_author_has_decided() {
    for (key, value, part) in [
        ("stowaway.dev/backupcommand", "sh -c 'pg_dump shop | gzip'", "the container's shell has pipefail"),
        ("stowaway.dev/backupcommand", r#"["bash", "-c", "a | b"]"#, "the container's shell has pipefail"),
        ("k8up.io/backupcommand", "sh -c 'pg_dump shop | gzip'", "the container's shell has pipefail"),
        ("stowaway.dev/backupcommand", "sh -c 'su postgres -c \"pg_dump shop | gzip\"'", "begin that inner script"),
    ] {
        let request = request(&[(key, value)]);
        assert!(request.commands[0].pipefail);
        let [warning] = &request.warnings[..] else { panic!("{value}: {:?}", request.warnings) };
        assert_eq!(warning.key, key);
        assert!(warning.message.contains(part), "{value}: {}", warning.message);
    }
    for (value, pipefail) in [
        ("sh -c 'pg_dump shop'", "true"),
        ("sh -c 'grep \"a|b\" file || true'", "true"),
        ("bash -c 'set -o pipefail; pg_dump shop | gzip'", "true"),
        ("bash -c 'set +o pipefail; pg_dump shop | gzip'", "true"),
        ("sh -c 'pg_dump shop | gzip'", "false"),
        ("pg_dump a | gzip", "true"),
    ] {
        let request = request(&[("/backupcommand", value), ("/pipefail", pipefail)]);
        assert_eq!(request.warnings, [], "{value}");
        assert_eq!(request.commands[0].pipefail, pipefail == "true");
    }
    let request = request(&[("/backupcommand", "cat x"), ("/restorecommand", "sh -c 'gunzip | psql'")]);
    assert_eq!(request.warnings[0].key, "stowaway.dev/restorecommand");
}

#[test]
fn pipefail_belongs_to_one_command_and_is_a_boolean() {
    let request = request(&[
        ("/backupcommand", "a"),
        ("/pipefail", "false"),
        ("/backupcommand.other", "b"),
        ("k8up.io/backupcommand", "c"),
    ]);
    let pipefail: Vec<bool> = request.commands.iter().map(|command| command.pipefail).collect();
    assert_eq!(pipefail, [false, true]);
    for wrong in [("/pipefail", "no"), ("/pipefail.b", "false")] {
        let problems = problems(&[("/backupcommand", "a"), wrong]);
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
    // K8up's command, with the key that only Stowaway has.
    let request = super::request(&[("k8up.io/backupcommand", "sh -c 'a | b'"), ("/pipefail", "false")]);
    assert!(!request.commands[0].pipefail && request.warnings.is_empty());
}
