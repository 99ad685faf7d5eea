//! Tests of pipes, of several commands in one script, and of shell syntax without a shell: which annotations get a
//! warning, and which commands run with `pipefail`.

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
        ("pg_dump 'a | gzip'", "true"),
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

#[test]
fn script_that_continues_after_a_failed_command_gets_a_warning_for_every_key_of_a_command() {
    for (pairs, key) in [
        (&[("/backupcommand", "sh -c 'pg_dump a; pg_dump b'")][..], "stowaway.dev/backupcommand"),
        (&[("/backupcommand.x", r#"["bash", "-c", "pg_dump a\npg_dump b"]"#)], "stowaway.dev/backupcommand.x"),
        (&[("k8up.io/backupcommand", "sh -c \"pg_dump a; pg_dump b\"")], "k8up.io/backupcommand"),
        (&[("appuio.ch/backupcommand", "su x -c 'pg_dump a; pg_dump b'")], "appuio.ch/backupcommand"),
        (&[("/backupcommand", "a"), ("/restorecommand", "sh -c 'psql; psql'")], "stowaway.dev/restorecommand"),
        // The pipe is another matter.
        (&[("/backupcommand", "sh -c 'pg_dump a; b'"), ("/pipefail", "false")], "stowaway.dev/backupcommand"),
    ] {
        let request = request(pairs);
        let [warning] = &request.warnings[..] else { panic!("{pairs:?}: {:?}", request.warnings) };
        assert_eq!(warning.key, key);
        assert!(warning.message.contains("begin the script with `set -e;`"), "{}", warning.message);
    }
    for value in ["sh -c 'set -e; pg_dump a; pg_dump b'", "sh -ec 'pg_dump a; pg_dump b'", "sh -c 'a && b'"] {
        assert_eq!(request(&[("/backupcommand", value)]).warnings, [], "{value}");
    }
}

#[test]
fn shell_syntax_without_a_shell_gets_a_warning_and_keeps_its_meaning() {
    for (pairs, argv, part) in [
        (&[("/backupcommand", "cat a | gzip")][..], &["cat", "a", "|", "gzip"][..], "`|` is passed to cat as text"),
        (&[("k8up.io/backupcommand", "echo $HOME")], &["echo", "$HOME"], "`$NAME`"),
        (&[("k8up.io/backupcommand", "echo \"$HOME\"")], &["echo", "$HOME"], "`$NAME`"),
        (&[("/backupcommand", "echo $(HOME)")], &["echo", "$(HOME)"], "Kubernetes does not replace"),
        (&[("/backupcommand", "sh -c 'cat a' | gzip")], &["sh", "-c", "cat a", "|", "gzip"], "not part of the script"),
        (&[("/backupcommand", r#"["cat", "a", "|", "gzip"]"#)], &["cat", "a", "|", "gzip"], "runs without a shell"),
    ] {
        let request = request(pairs);
        assert_eq!(request.commands[0].argv, argv);
        let [warning] = &request.warnings[..] else { panic!("{pairs:?}: {:?}", request.warnings) };
        assert!(warning.message.contains(part), "{}", warning.message);
        assert_eq!(request.commands[0].literal.as_ref().map(ToString::to_string).as_ref(), Some(&warning.message));
    }
    let request = super::request(&[("/backupcommand", "cat a"), ("/restorecommand", "psql > /dev/null")]);
    assert_eq!(request.warnings[0].key, "stowaway.dev/restorecommand");
    assert!(request.commands[0].restore_literal.is_some() && request.commands[0].literal.is_none());
    for value in ["grep 'a|b' file", "awk '{print $1}' file", "mysql -e 'select 1; select 2'", "sh -c 'cat a | gzip'"] {
        let request = super::request(&[("/backupcommand", value), ("/pipefail", "false")]);
        assert_eq!(request.warnings, [], "{value}");
    }
}
