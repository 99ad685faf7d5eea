//! Names the option of the command line behind each field of a Restore or Backup in a message. The webhook, the
//! controller and the runs name fields, because an object may also come from a manifest.

/// The fields which the CLI sets, and their options. Of two entries which match, the longer one counts. The option is
/// empty if no option sets the field.
const OPTIONS: [(&str, &str); 25] = [
    ("spec.selector", "--selector"),
    ("spec.retryLimit", "--retry-limit"),
    ("spec.repositoryRef", "--repository-name"),
    ("spec.timeout", "--timeout"),
    ("spec.idleTimeout", "--idle-timeout"),
    ("spec.scaleDown", "--scale-down"),
    ("spec.from.source", "--source"),
    ("spec.from.snapshot", "--snapshot"),
    ("spec.from.asOf", "--as-of"),
    ("spec.from.host", "--host"),
    ("spec.from.paths", "--path"),
    ("spec.to.pod", "--pod"),
    ("spec.to.container", "--container"),
    ("spec.to.command", "the command after --"),
    ("spec.to.claim", "--claim"),
    ("spec.to.claim.overwrite", "--overwrite"),
    ("spec.to.claim.path", ""),
    ("spec.to.claim.create", "--create"),
    ("spec.to.claim.create.size", "--size"),
    ("spec.to.claim.create.volumeMode", ""),
    ("spec.to.claim.create.accessModes", ""),
    ("spec.to.archive", "--archive"),
    ("spec.to.archive.format", "--format"),
    ("spec.to.archive.overwrite", "--overwrite"),
    ("spec.to.archive.name", ""),
];

/// The message, followed by the options which set the fields that the message names.
pub(super) fn with_options(message: &str) -> String {
    let mut options: Vec<String> = Vec::new();
    for (start, _) in message.match_indices("spec.") {
        let is_inside = message[..start].ends_with(|before: char| before.is_alphanumeric() || before == '.');
        let rest = &message[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
        let field = rest[..end].trim_end_matches('.');
        let option = option_of(field).filter(|_| !is_inside).map(|option| format!("{option} sets {field}"));
        options.extend(option.filter(|option| !options.contains(option)));
    }
    if options.is_empty() {
        return message.to_owned();
    }
    format!("{message} ({})", options.join(", "))
}

fn option_of(field: &str) -> Option<&'static str> {
    let is_of = |entry: &str| field.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let matching = OPTIONS.iter().filter(|(entry, _)| is_of(entry));
    matching.max_by_key(|(entry, _)| entry.len()).map(|(_, option)| *option).filter(|option| !option.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Arguments;

    #[test]
    fn fields_of_a_message_are_followed_by_their_options() {
        for (message, expected) in [
            ("set spec.to.claim.overwrite.", "set spec.to.claim.overwrite. (--overwrite sets spec.to.claim.overwrite)"),
            (
                "set spec.from.host or (spec.to.claim.create.storageClassName); spec.from.host",
                "set spec.from.host or (spec.to.claim.create.storageClassName); spec.from.host \
                 (--host sets spec.from.host, --create sets spec.to.claim.create.storageClassName)",
            ),
            ("spec.to.claim.path is wrong", "spec.to.claim.path is wrong"),
            ("spec.tls.caBundle of the Repository", "spec.tls.caBundle of the Repository"),
            ("template.spec.timeout", "template.spec.timeout"),
            ("no field", "no field"),
        ] {
            assert_eq!(with_options(message), expected);
        }
    }

    #[test]
    fn every_option_exists() {
        let command = Arguments::command();
        let of = |name: &str| command.find_subcommand(name).unwrap().get_arguments().filter_map(clap::Arg::get_long);
        let known: Vec<&str> = of("restore").chain(of("backup")).collect();
        for option in OPTIONS.iter().filter_map(|(_, option)| option.strip_prefix("--")) {
            assert!(known.contains(&option), "{option}");
        }
    }
}
