//! Tests of the verdict on scripts.

use proptest::prelude::*;

use super::*;

fn verdict(argv: &[&str]) -> Option<Unjudged> {
    let argv: Vec<String> = argv.iter().map(|argument| (*argument).to_owned()).collect();
    ShellScript::of(&argv)?.unjudged()
}

fn assert_all(expected: Option<Unjudged>, scripts: &[&str]) {
    for script in scripts {
        assert_eq!(verdict(&["sh", "-c", script]), expected, "{script}");
    }
}

#[test]
fn script_that_continues_after_a_failed_command_has_a_finding() {
    assert_all(
        Some(Unjudged::Earlier),
        &[
            "pg_dump a; pg_dump b",
            "pg_dump a\npg_dump b",
            "pg_dump a\r\npg_dump b\r\n",
            "pg_dump a;pg_dump b",
            "pg_dump a; echo done >&2",
            "pg_dump a; true",
            "pg_dump a; exit 0",
            "pg_dump a | gzip; pg_dump b | gzip",
            "pg_dump a | gzip\necho done",
            "false | cat; echo ok",
            "pg_dump a && pg_dump b; pg_dump c",
            "pg_dump a || pg_dump -h replica a; pg_dump b",
            "(pg_dump a; pg_dump b)",
            "( pg_dump a ); pg_dump b",
            "{ pg_dump a; pg_dump b; } | gzip",
            "pg_dump a || (echo failed >&2; exit 1); pg_dump b",
            "if test -f x; then pg_dump a; pg_dump b; fi",
            "if test -f x; then pg_dump a; else pg_dump b; fi; pg_dump c",
            "if test -f x\nthen\n  pg_dump a\nelif true\nthen\n  pg_dump b\nelse\n  tar c /x\nfi\npg_dump c",
            "for db in a b; do pg_dump $db; done",
            "for db in a b\ndo\n  pg_dump $db\ndone",
            "for db do pg_dump $db; done",
            "for ((i = 0; i < 3; i++)); do pg_dump $i; done",
            "psql -Atc 'select datname from pg_database' | while read -r db; do pg_dump \"$db\"; done",
            "case $x in a) pg_dump a; pg_dump b;; *) exit 1;; esac",
            "case $x in (a|b) pg_dump a ;; *) pg_dump b ;; esac; pg_dump c",
            "dump() { pg_dump a; pg_dump b; }; dump",
            "dump() { pg_dump \"$1\"; }; dump a; dump b",
            "function dump { pg_dump a; pg_dump b; }; dump",
            "function dump() { pg_dump a; pg_dump b; }\ndump",
            "cd /data; tar c .",
            "cd; tar c .",
            ". /etc/environment; pg_dump $DB",
            "DB=$(psql -Atc 'select 1'); pg_dump $DB",
            "export DB=`psql -Atc 'select 1'`; pg_dump $DB",
            "redis-cli save; cat /data/dump.rdb",
            "pg_dump a; set -e; pg_dump b",
            "set -e; set +e; pg_dump a; pg_dump b",
            "(set -e; pg_dump a; pg_dump b); pg_dump c",
            "pg_dump a > x & pg_dump b > y; wait $!",
            "set -u; set -o pipefail; pg_dump a; pg_dump b",
            "#!/bin/sh -e\npg_dump a\npg_dump b",
            "pg_dump a # a comment; it's here\npg_dump b",
            "cat <<EOF; pg_dump b\nfirst; line's\nEOF\n",
            "psql <<'EOF'\nselect 1;\nEOF\npg_dump b",
            "psql <<-EOF\n\tselect 1;\n\tEOF\npg_dump b",
            "pg_dump \"a;b\" 'c;d'; pg_dump b",
            "pg_dump a 2>&1 >/dev/null; pg_dump b",
            "pg_dump a &>/dev/null; pg_dump b",
            "pg_dump \"$(echo \"a)\" | tr a b)\"; pg_dump b",
            "pg_dump a \\\n  --verbose\npg_dump b",
            "[[ $a == b ]]; pg_dump a; pg_dump b",
            "X=(a b); pg_dump a; pg_dump b",
            "su postgres -c 'pg_dump a; pg_dump b'",
            "exec su postgres -c \"pg_dump a; pg_dump b\"",
            "timeout 60 sh -c \"pg_dump \\\"a\\\"; pg_dump b\"",
            "set -e; su postgres -c 'pg_dump a; pg_dump b'",
            "pg_dump a & p=$!; pg_dump b & q=$!; wait $p; wait $q",
        ],
    );
}

#[test]
fn script_that_a_failure_ends_or_whose_author_has_treated_it_has_none() {
    assert_all(
        None,
        &[
            "",
            "pg_dump a",
            "pg_dump a;",
            "pg_dump a\n",
            "\n\npg_dump a\n\n# the end; of it\n",
            "pg_dump a | gzip",
            "pg_dump a && pg_dump b",
            "pg_dump a &&\n  pg_dump b\n",
            "pg_dump a |\n  gzip\n",
            "set -e; pg_dump a; pg_dump b",
            "set -eu\npg_dump a\npg_dump b",
            "set -euo pipefail; pg_dump a; pg_dump b",
            "set -o errexit; pg_dump a; pg_dump b",
            "set -o pipefail -e; pg_dump a; pg_dump b",
            "set -e; for db in a b; do pg_dump $db; done",
            "set -e; (pg_dump a; pg_dump b); pg_dump c",
            "set -e; dump() { pg_dump a; pg_dump b; }; dump",
            "set -u; pg_dump a",
            "export PGPASSWORD=\"$POSTGRES_PASSWORD\"; pg_dump a",
            "PGPASSWORD=$(cat /run/secrets/password); export PGPASSWORD; pg_dump a",
            "DAY=`date +%F`; X=$((1 + 2)); Y=$(<file); pg_dump a",
            "A='$(x)'; pg_dump a",
            "IFS= read -r PGPASSWORD < /secret; pg_dump a",
            "umask 077; trap 'rm -f x' EXIT; echo begin >&2; cd /; exec tar c data",
            "exec 3>&1; pg_dump a >&3",
            "pg_dump a || true; pg_dump b",
            "pg_dump a || :; pg_dump b",
            "pg_dump a || exit 1; pg_dump b",
            "pg_dump a || exit; pg_dump b",
            "cd /data || exit 1; tar c .",
            "cd /data && tar c .",
            "pg_dump a || { echo failed >&2; exit 1; }; pg_dump b",
            "die() { echo \"$1\" >&2; exit 1; }\npg_dump a || die a\npg_dump b",
            "if ! pg_dump a; then exit 1; fi; pg_dump b",
            "if pg_dump a; then echo yes; fi",
            "pg_dump a; exit $?",
            "pg_dump a; exit",
            "pg_dump a; rc=$?; rm -f x; exit $rc",
            "pg_dump a; if [ $? -ne 0 ]; then exit 1; fi; pg_dump b",
            "pg_dump a; [ \"$?\" = 0 ] || exit 1; pg_dump b",
            "pg_dump a | gzip; exit ${PIPESTATUS[0]}",
            "case $? in 0) pg_dump a ;; *) exit 1 ;; esac",
            "case $x in a) pg_dump a ;; *) pg_dump b ;; esac",
            "case $x in\n  a|b)\n    pg_dump a\n    ;;\n  *)\n    pg_dump b\nesac\n",
            "if true; then pg_dump a; else pg_dump b; fi",
            "until pg_isready; do sleep 1; done; pg_dump a",
            "while ! pg_isready; do sleep 1; done\npg_dump a",
            "[ -f x ] && rm x; pg_dump a",
            "[[ -f x && -f y || ( -f z ) ]] && rm x; pg_dump a",
            "((x > 1)) && rm x; pg_dump a",
            "command -v pg_dump >/dev/null; pg_dump a",
            "for db in a b; do pg_dump $db || exit 1; done",
            "cleanup() { psql -c 'drop x'; rm -f y; }; trap cleanup EXIT; pg_dump a",
            "pg_dump -t 'a;b' \"c;d\" e\\;f",
            "psql -c 'select 1; select 2'",
            "curl http://host/?a=1\\&b=2",
            "psql <<EOF\nselect 1;\nselect 2;\nEOF",
            "psql <<'EOF' | gzip\nit's; a & b\nEOF\n",
            "psql <<<'select 1; select 2'",
            "diff <(pg_dump a; true) <(pg_dump b)",
            "pg_dump a 2>&1",
            "pg_dump a >&2 <&0",
            "pg_dump a # ; pg_dump b",
            "echo ${x#a;b} ${y:-'a;b'} \"${z:-it's; so}\" $#; pg_dump a",
            "su postgres -c 'pg_dump a | gzip'",
            "su postgres -c 'set -e; pg_dump a; pg_dump b'",
            "sh -ec 'pg_dump a; pg_dump b'",
            "pg_dump a > x & wait $!",
            "sleep 1 & pg_dump a",
            "ssh -N tunnel & pg_dump a; s=$?; kill $!; exit $s",
        ],
    );
}

#[test]
fn command_in_the_background_that_nothing_waits_for_has_a_finding() {
    assert_all(
        Some(Unjudged::Background),
        &[
            "pg_dump a & pg_dump b",
            "pg_dump a &",
            "pg_dump a > x & wait",
            "set -e; pg_dump a & pg_dump b",
            "(pg_dump a &)",
            "pg_dump a &\npg_dump b\n",
            "sh -c 'pg_dump a & wait'",
        ],
    );
}

#[test]
fn script_that_is_not_understood_has_no_finding() {
    assert_all(
        None,
        &[
            "pg_dump a; 'pg_dump b",
            "pg_dump a; \"pg_dump b",
            "pg_dump a; $(pg_dump b",
            "pg_dump a; fi; pg_dump b",
            "pg_dump a; if true; then pg_dump b",
            "pg_dump a; pg_dump b)",
            "pg_dump a; ((b) | (c) ) | d",
            "pg_dump a; pg_dump b; coproc c",
            "pg_dump a; pg_dump b &&",
            "pg_dump a; ${b",
            "pg_dump a; pg_dump b >",
            "x=$(case a in a) true;; esac); pg_dump a; pg_dump b)",
        ],
    );
}

#[test]
fn options_of_the_shell_count() {
    for argv in [
        &["sh", "-ec", "pg_dump a; pg_dump b"][..],
        &["bash", "-euo", "pipefail", "-c", "pg_dump a; pg_dump b"],
        &["bash", "-o", "errexit", "-c", "pg_dump a; pg_dump b"],
        &["env", "-i", "sh", "-e", "-c", "pg_dump a; pg_dump b"],
    ] {
        assert_eq!(verdict(argv), None, "{argv:?}");
    }
    assert_eq!(verdict(&["bash", "-o", "pipefail", "-c", "pg_dump a; pg_dump b"]), Some(Unjudged::Earlier));
    assert_eq!(verdict(&["sh", "+e", "-c", "pg_dump a; pg_dump b"]), Some(Unjudged::Earlier));
    assert_eq!(verdict(&["su", "postgres", "-c", "pg_dump a; pg_dump b"]), Some(Unjudged::Earlier));
    // An argument is no part of the script.
    assert_eq!(verdict(&["sh", "-c", "pg_dump \"$1\"", "sh", "a; b"]), None);
}

#[test]
fn long_and_deeply_nested_scripts_are_examined_in_linear_time_without_recursion() {
    // With quadratic time each of them would take minutes, and with recursion the stack would overflow.
    for part in [
        "(",
        ")",
        "((",
        "( (",
        "{ ",
        "$(",
        "${",
        "\"$(",
        "`",
        "\"",
        "'",
        "if a; then ",
        "case a in a) ",
        "a; ",
        "a\n",
        "a|",
        "f() { ",
        "<<E\n",
        "<<E ",
        "\\",
        "#",
        "<(",
        "x=(",
        "$((",
        "! ",
        "a=$(b) ",
        "sh -c ",
        "2>",
        "esac ",
        "a[",
        "trap f ",
        "[[ ",
    ] {
        let many = part.repeat(200_000);
        let _ = verdict(&["sh", "-c", &many]);
        let _ = verdict(&["sh", "-c", &format!("{many}\nE\n}}; fi; pg_dump b)")]);
    }
    let group = format!("{}pg_dump a; pg_dump b{}", "( ".repeat(100_000), " )".repeat(100_000));
    assert_eq!(verdict(&["sh", "-c", &group]), Some(Unjudged::Earlier));
}

proptest! {
    #[test]
    fn any_text_is_examined(script in any::<String>()) {
        let _ = verdict(&["sh", "-c", &script]);
    }

    #[test]
    fn any_syntax_is_examined(
        script in "(a|é|;|;;|&|&&|\\||\n|\r|if |then |else |fi|for |do |done|case |in |esac|\\{ |\\}|\\(|\\)|'|\"|`|\\$|\\\\|<|>|<<E|E|#| |=|\\[\\[ |set -e|sh -c |exit|wait 1|2){0,40}"
    ) {
        let _ = verdict(&["sh", "-c", &script]);
    }

    #[test]
    fn errexit_in_front_leaves_only_findings_of_the_background(script in "(a|b|;|&&|\\|\\||\n|\\(|\\)|'|\"| ){0,20}") {
        prop_assert_eq!(verdict(&["sh", "-ec", &script]), None);
    }
}
