//! The effect of `pipefail` in front of a script under real shells: it changes whether a pipe fails, and nothing else.

use std::process::{Command, Output};

use stowaway::{
    model::{PIPEFAIL_MISSING, ShellScript},
    runner::JudgedCommand,
};

use super::strings;

/// Shells which support the option. `OLD` does not support it everywhere.
const WITH: [&[&str]; 4] = [&["bash"], &["bash", "--posix"], &["busybox", "sh"], &["/usr/bin/env", "A=b", "bash"]];
const OLD: &[&str] = &["dash"];

fn run(argv: &[String]) -> Output {
    Command::new(&argv[0]).args(&argv[1..]).output().unwrap()
}

/// The output of the script in this shell without the option and with it.
fn both(shell: &[&str], options: &[&str], script: &str) -> (Output, Output) {
    let argv = strings(&[shell, options, &[script, "name", "one", "two parts"]].concat());
    (run(&argv), run(JudgedCommand::new(argv, true).argv()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn has_pipefail(shell: &[&str]) -> bool {
    run(&strings(&[shell, &["-c", "set -o pipefail"]].concat())).status.success()
}

#[test]
fn first_command_of_a_pipe_counts() {
    for shell in WITH {
        for (script, status) in [
            ("false | cat", 1),
            ("exit 7 | cat | cat", 7),
            ("cat /no/such/file | gzip", 1),
            ("no-such-program | cat", 127),
            ("yes | head -n 1", 141),
            ("true | false", 1),
            ("true | true", 0),
        ] {
            let (_, judged) = both(shell, &["-c"], script);
            assert_eq!(judged.status.code(), Some(status), "{shell:?} {script}");
        }
    }
}

#[test]
fn nothing_else_changes() {
    let scripts = [
        (&["-c"][..], "printf '<%s>' \"$0\" \"$@\" \"$#\" \"$-\"; exit 3"),
        (&["-c"], "echo $?"),
        (&["-c"], "false\necho $?"),
        (&["-ec"], "echo a; false; echo b"),
        (&["-ec"], "echo a; true && echo b"),
        (&["-uc"], "echo a; echo \"$unset\"; echo b"),
        (&["-e", "-c"], "true"),
        (&["-c"], "#!/bin/sh\n# A comment | with a pipe\necho $LINENO \"don't | split\"\n"),
        (&["-c"], ""),
        (&["-c"], "\n \n echo x"),
        (&["-c"], "cat <<END\na | b\nEND"),
        (&["-c"], "echo 'not closed"),
        (&["-c"], "trap 'echo bye' EXIT; false"),
        (&["-c"], "kill -9 $$"),
        (&["-c"], "kill -15 $$"),
        (&["-c"], "exec cat /proc/self/comm"),
        (&["-c"], "echo failed >&2; exit 2"),
    ];
    for shell in WITH.into_iter().chain([OLD]) {
        for (options, script) in scripts {
            let (plain, judged) = both(shell, options, script);
            let stderr = text(&judged.stderr).replace(&format!("{PIPEFAIL_MISSING}\n"), "");
            assert_eq!(stderr, text(&plain.stderr), "{shell:?} {script:?}");
            assert_eq!(text(&judged.stdout), text(&plain.stdout), "{shell:?} {script:?}");
            assert_eq!(judged.status, plain.status, "{shell:?} {script:?}");
        }
    }
}

#[test]
fn shell_without_pipefail_reports_it_once_and_only_for_a_pipe() {
    if has_pipefail(OLD) {
        eprintln!("this dash has pipefail: not tried");
        return;
    }
    for (script, times) in [("false | cat", 1), ("true", 0), ("echo 'a|b' || true", 0)] {
        let (plain, judged) = both(OLD, &["-c"], script);
        assert_eq!(text(&judged.stderr).matches(PIPEFAIL_MISSING).count(), times, "{script}");
        assert_eq!(judged.status, plain.status, "{script}");
    }
}

#[test]
fn opt_out_and_scripts_that_decide_themselves_are_left_alone() {
    for (argv, pipefail) in [
        (&["bash", "-c", "false | cat"][..], false),
        (&["bash", "-c", "set +o pipefail; false | cat"], true),
        (&["bash", "-o", "pipefail", "-c", "false | cat"], true),
        (&["cat", "-c", "false | cat"], true),
    ] {
        assert_eq!(JudgedCommand::new(strings(argv), pipefail).argv(), argv);
    }
    // The positional parameters of a script stay unchanged, whatever they contain.
    let argv = strings(&["bash", "-c", "printf %s \"$1\"", "name", "a | b"]);
    assert_eq!(text(&run(&ShellScript::of(&argv).unwrap().with_pipefail()).stdout), "a | b");
}
