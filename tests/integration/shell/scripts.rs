//! The verdict on scripts of several commands, compared with real shells: a script has a finding exactly if it succeeds
//! although one of its commands fails.

use std::process::Command;

use stowaway::model::ShellScript;

use super::strings;

const SHELLS: [&[&str]; 3] = [&["bash"], &["dash"], &["busybox", "sh"]];
/// Scripts, in which each `RUN` is a command that may fail.
const SCRIPTS: [&str; 32] = [
    "RUN",
    "RUN; RUN",
    "RUN\nRUN\n",
    "RUN;\n\n# the end",
    "RUN && RUN && RUN",
    "RUN &&\n  RUN",
    "RUN && RUN; RUN",
    "RUN; echo end >&2",
    "echo begin >&2; RUN",
    "RUN; exit $?",
    "RUN; exit 0",
    "RUN; exit",
    "RUN; s=$?; rm -f /no/such/file; exit $s",
    "RUN || exit 1; RUN",
    "RUN || { echo failed >&2; exit 1; }; RUN",
    "RUN || (exit 1); RUN",
    "die() { exit 4; }; RUN || die; RUN",
    "set -e; RUN; RUN",
    "set -o errexit\nRUN\nRUN",
    "RUN; set -e; RUN",
    "(RUN; RUN)",
    "(RUN && RUN) && RUN",
    "(set -e; RUN; RUN); RUN",
    "{ RUN; RUN; }",
    "if true; then RUN; RUN; fi",
    "case x in y) exit 1;; x) RUN;; esac; RUN",
    "case x in x) RUN;; esac",
    "for x in 1 2; do [ $x = 2 ] || RUN; done",
    "for x in 1 2; do RUN || exit 1; done",
    "f() { RUN; RUN; }; f",
    "sh -c 'RUN; RUN'",
    "sh -ec 'RUN; RUN'",
];

#[test]
fn script_has_a_finding_exactly_if_it_hides_a_failure() {
    for shell in SHELLS {
        for script in SCRIPTS {
            let count = script.matches("RUN").count();
            let with_failure = |failing: usize| {
                let mut parts = script.split("RUN");
                let mut text = parts.next().unwrap().to_owned();
                for (index, part) in parts.enumerate() {
                    text.push_str(if index == failing { "env false" } else { "env true" });
                    text.push_str(part);
                }
                strings(&[shell, &["-c", &text]].concat())
            };
            let succeeds = |failing: usize| {
                let argv = with_failure(failing);
                Command::new(&argv[0]).args(&argv[1..]).output().unwrap().status.success()
            };
            assert!(succeeds(count), "{shell:?} {script:?} fails without a reason");
            let argv = with_failure(0);
            let has_finding = ShellScript::of(&argv).unwrap().unjudged().is_some();
            assert_eq!(has_finding, (0..count).any(succeeds), "{shell:?} {script:?}");
        }
    }
}
