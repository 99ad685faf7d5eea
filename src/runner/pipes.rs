//! Runs shell scripts with `pipefail`, so that every command of a pipe counts, and explains in the report what that
//! means for a failed script, and which failures the exit status of a green one hides.

use crate::{
    model::{LiteralSyntax, Reason, RunReport, ShellScript, Verdict},
    seal::{dump_command, restore_command},
};

/// The status of a command which wrote into a pipe whose reader had ended (128 and SIGPIPE).
const BROKEN_PIPE: i32 = 141;

/// A command as it is run.
#[derive(Clone)]
pub struct JudgedCommand {
    argv: Vec<String>,
    /// Whether the option was added to a script which contains a pipe.
    has_judged_pipe: bool,
    /// Remarks for the report of a run that has not failed.
    remarks: Vec<String>,
}

impl JudgedCommand {
    /// Creates the command. The option is added in front of its script if `pipefail` is set and the script does not set
    /// it itself.
    pub fn new(argv: Vec<String>, pipefail: bool) -> Self {
        let script = ShellScript::of(&argv).filter(|script| pipefail && !script.decides());
        let changed = script.map(|script| (script.with_pipefail(), script.has_pipe()));
        let unjudged = ShellScript::of(&argv).and_then(|script| script.unjudged());
        let remarks = unjudged.map(|unjudged| unjudged.to_string()).into_iter().collect();
        // A command line which just fits into a request must still fit.
        let fits = |argv: &[String]| dump_command(argv).is_ok() && restore_command(argv).is_ok();
        match changed.filter(|(changed, _)| fits(changed)) {
            Some((argv, has_judged_pipe)) => Self { argv, has_judged_pipe, remarks },
            None => Self { argv, has_judged_pipe: false, remarks },
        }
    }

    /// Adds shell syntax which the program receives as text.
    #[must_use]
    pub fn with_literal(mut self, literal: Option<&LiteralSyntax>) -> Self {
        self.remarks.extend(literal.map(ToString::to_string));
        self
    }

    /// Program and arguments.
    pub fn argv(&self) -> &[String] {
        &self.argv
    }

    /// Adds to the report of a failed command that `pipefail` may be the cause, and how to run the script without it;
    /// to another report, which failures of the command the run cannot notice.
    pub fn explain(&self, mut report: RunReport) -> RunReport {
        if report.verdict != Verdict::Failed {
            for remark in &self.remarks {
                append(&mut report, remark);
            }
            return report;
        }
        let is_by_status =
            matches!(report.reason, Reason::CommandFailed | Reason::CommandKilled | Reason::CommandNotFound);
        if !self.has_judged_pipe || !is_by_status || has_missing(&report) {
            return report;
        }
        let why = if report.exit_code == Some(BROKEN_PIPE) {
            "a command of the pipe was still writing when a later command, such as head, had ended"
        } else {
            "the failed command may be any of the pipe"
        };
        report.message += "; the script runs with pipefail, so ";
        report.message += why;
        report.message += ": to judge only the last command, annotate stowaway.dev/pipefail: \"false\", or begin the \
                           script with `set +o pipefail;`";
        report
    }
}

/// The message about a script whose shell has no `pipefail`.
const MISSING: &str = "only the last command of the script's pipe was judged, because the shell has no pipefail: use \
                       bash or busybox sh for the script, or write the dump without a pipe";

/// Adds [`MISSING`] to the report if the script reported that its shell has no `pipefail`.
pub(super) fn report_missing(report: &mut RunReport, is_missing: bool) {
    if is_missing {
        append(report, MISSING);
    }
}

fn append(report: &mut RunReport, text: &str) {
    let separator = if report.message.is_empty() { "" } else { "; " };
    report.message.push_str(separator);
    report.message.push_str(text);
}

fn has_missing(report: &RunReport) -> bool {
    report.message.contains(MISSING)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Failure;

    fn judged(script: &str, pipefail: bool) -> JudgedCommand {
        JudgedCommand::new(vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()], pipefail)
    }

    fn failed(status: i32) -> RunReport {
        let failure = Failure::new(Reason::CommandFailed, "it failed").with_exit_code(status);
        RunReport::failed(failure, Duration::ZERO)
    }

    #[test]
    fn failed_pipe_names_the_option_and_how_to_disable_it() {
        for (status, part) in [(1, "any of the pipe"), (BROKEN_PIPE, "such as head")] {
            let message = judged("a | b", true).explain(failed(status)).message;
            for part in [part, "stowaway.dev/pipefail: \"false\"", "set +o pipefail"] {
                assert!(message.starts_with("it failed; ") && message.contains(part), "{message}");
            }
        }
    }

    #[test]
    fn option_is_not_named_where_it_is_not_the_cause() {
        for (command, report) in [
            (judged("a; b", true), failed(1)),
            (judged("a | b", false), failed(1)),
            (judged("set -o pipefail; a | b", true), failed(1)),
            (judged("a | b", true), RunReport::done(Duration::ZERO)),
            (judged("a | b", true), RunReport::failed(Failure::new(Reason::Timeout, "t"), Duration::ZERO)),
        ] {
            assert_eq!(command.explain(report.clone()), report);
        }
        let mut report = failed(1);
        report_missing(&mut report, true);
        assert_eq!(judged("a | b", true).explain(report.clone()), report);
    }

    #[test]
    fn green_run_reports_which_failures_it_cannot_notice() {
        let green = |message: &str| RunReport { message: message.to_owned(), ..RunReport::done(Duration::ZERO) };
        let message = judged("pg_dump a; pg_dump b", true).explain(green("")).message;
        assert!(message.starts_with("only the last command") && message.contains("`set -e;`"), "{message}");
        let message = judged("pg_dump a & pg_dump b", false).explain(green("3 left out")).message;
        assert!(message.starts_with("3 left out; ") && message.contains("`wait $!`"), "{message}");
        for script in ["set -e; pg_dump a; pg_dump b", "pg_dump a | gzip", "pg_dump a && pg_dump b"] {
            assert_eq!(judged(script, true).explain(green("")), green(""), "{script}");
        }
        let argv: Vec<String> = ["cat", "a", "|", "gzip"].map(str::to_owned).into();
        let literal = LiteralSyntax::of(&argv, &[]);
        let command = JudgedCommand::new(argv, true).with_literal(literal.as_ref());
        assert!(command.explain(green("")).message.starts_with("`|` is passed to cat"), "{literal:?}");
        assert_eq!(command.explain(failed(1)), failed(1), "the failure matters");
    }

    #[test]
    fn script_that_fits_without_the_option_is_not_made_too_long() {
        let longest = (1..16 * 1024).rev().map(|length| vec!["sh".to_owned(), "-c".to_owned(), "x".repeat(length)]);
        let longest = longest.into_iter().find(|argv| dump_command(argv).is_ok() && restore_command(argv).is_ok());
        let argv = longest.unwrap();
        assert_eq!(JudgedCommand::new(argv.clone(), true).argv(), argv);
        assert_ne!(judged("x", true).argv()[2], "x");
        assert_eq!(judged("x", false).argv()[2], "x");
    }
}
