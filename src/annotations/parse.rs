//! Reads a pod's annotations: a request, or everything that is wrong with them at once.
//!
//! It must not know what the pod looks like; whether a container exists is found out by `plan::sources`.
//!
//! Precedence, for each key by itself: our own wins over those of other tools, and of those the newest generation. What
//! loses is told in a warning. (K8up 2 can be told to read the older keys of commands and extensions, and reads its own
//! key of the container beside them, so generations do stand side by side.)

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    keys::{Form, KEYS, Key, PREFIX, Role, key_of, nearest},
    request::{CommandRequest, Generation, Injection, Lenient, Problem, Problems, Request, Warning},
    resources::resources,
    values::{self, Command},
};
use crate::model::ShellScript;

/// What the annotations ask for; `None` when nothing here concerns us.
pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Option<Request>, Problems> {
    let Lenient { request, passed_over } = parse_lenient(annotations)?;
    if passed_over.is_empty() {
        return Ok(request);
    }
    Err(Problems { problems: passed_over, warnings: request.map_or_else(Vec::new, |request| request.warnings) })
}

/// What the annotations ask for, whatever may be wrong with those of other tools. These speak of the plain command alone:
/// where one of them is wrong, the request is without it.
pub fn parse_lenient(annotations: &BTreeMap<String, String>) -> Result<Lenient, Problems> {
    let mut reader = Reader::default();
    reader.collect_own(annotations);
    reader.collect_foreign(annotations);
    let mut request = Request { commands: reader.commands(), ..Request::default() };
    reader.settings(&mut request);
    if reader.problems.iter().any(Problem::is_ours) {
        return Err(Problems { problems: reader.problems, warnings: reader.warnings });
    }
    if !reader.problems.is_empty() {
        request.commands.retain(|command| command.name.is_some());
    }
    if request.commands.is_empty() && reader.own.is_empty() && reader.warnings.is_empty() {
        return Ok(Lenient { request: None, passed_over: reader.problems });
    }
    request.warnings = reader.warnings;
    Ok(Lenient { request: Some(request), passed_over: reader.problems })
}

/// An annotation: its whole key and its value.
#[derive(Clone, Copy)]
struct Entry<'a> {
    key: &'a str,
    value: &'a str,
}

/// What was read so far.
#[derive(Default)]
struct Reader<'a> {
    /// By role and name of the command.
    own: BTreeMap<(Role, Option<&'a str>), Entry<'a>>,
    /// Keys of other tools that ours don't override; they speak of the plain command.
    foreign: BTreeMap<Role, (Generation, Entry<'a>)>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// How many keys of our prefix nobody reads.
    unknown: usize,
}

impl<'a> Reader<'a> {
    /// Finds our own keys, and what is only similar to them.
    fn collect_own(&mut self, annotations: &'a BTreeMap<String, String>) {
        for (key, value) in annotations {
            let Some(own) = key.strip_prefix(PREFIX) else { continue };
            let entry = Entry { key, value };
            if let Some(known) = KEYS.iter().find(|known| known.name == own) {
                if !known.is_of_pods() {
                    self.warn(key, format!("has no effect on a pod; it is read on {}", known.carrier));
                    continue;
                }
                self.own.insert((known.role, None), entry);
                continue;
            }
            let named = own
                .split_once('.')
                .and_then(|(base, name)| Some((KEYS.iter().find(|known| known.named && known.name == base)?, name)));
            let Some((known, name)) = named else {
                self.unknown(key, own);
                continue;
            };
            if let Err(reason) = values::label(name) {
                self.problem(known, entry, format!("the command's name, {name:?}, is not allowed: {reason}"));
            } else {
                self.own.insert((known.role, Some(name)), entry);
            }
        }
    }

    /// Finds the keys of other tools that count, and warns of those that don't.
    fn collect_foreign(&mut self, annotations: &'a BTreeMap<String, String>) {
        for key in KEYS.iter().filter(|key| key.is_of_pods()) {
            let mut winner = self.own.get(&(key.role, None)).map(|entry| entry.key);
            for (generation, foreign) in key.foreign {
                let Some((foreign, value)) = annotations.get_key_value(*foreign) else { continue };
                if let Some(winner) = winner {
                    self.warn(foreign, format!("is ignored, since {winner} is present and wins"));
                } else {
                    winner = Some(foreign);
                    self.foreign.insert(key.role, (*generation, Entry { key: foreign, value }));
                }
            }
        }
        let has_command = self.own.contains_key(&(Role::Command, None)) || self.foreign.contains_key(&Role::Command);
        if !has_command {
            for (_, entry) in std::mem::take(&mut self.foreign).into_values() {
                // Alone it concerns nobody: its own tool ignores it, too.
                if !self.own.is_empty() {
                    self.warn(entry.key, "is ignored, since there is no plain command that it could belong to");
                }
            }
        }
    }

    /// The commands, and the problems of keys that belong to none.
    fn commands(&mut self) -> Vec<CommandRequest> {
        let is_named = |role: Role| key_of(role).is_some_and(|key| key.named);
        let mut names: BTreeSet<Option<&'a str>> =
            self.own.keys().filter(|(role, _)| is_named(*role)).map(|(_, name)| *name).collect();
        if !self.foreign.is_empty() {
            names.insert(None);
        }
        names.into_iter().filter_map(|name| self.command(name)).collect()
    }

    /// One command; `None` when there is no such one, or it has problems.
    fn command(&mut self, name: Option<&'a str>) -> Option<CommandRequest> {
        let entry = |role: Role| {
            let own = self.own.get(&(role, name)).map(|entry| (Generation::Stowaway, *entry));
            own.or_else(|| self.foreign.get(&role).filter(|_| name.is_none()).copied())
        };
        let command = entry(Role::Command);
        let [container, extension, restore, pipefail] =
            [Role::Container, Role::FileExtension, Role::RestoreCommand, Role::Pipefail]
                .map(|role| entry(role).map(|(_, entry)| entry));

        if command.is_none() {
            let missing = format!("{PREFIX}backupcommand{}", name.map(|name| format!(".{name}")).unwrap_or_default());
            let orphans = [
                (Role::Container, container),
                (Role::FileExtension, extension),
                (Role::RestoreCommand, restore),
                (Role::Pipefail, pipefail),
            ];
            for (role, entry) in orphans {
                if let (Some(entry), Some(key)) = (entry, key_of(role)) {
                    self.problem(key, entry, format!("there is no {missing} that it could belong to"));
                }
            }
        }
        let argv = command.and_then(|(generation, entry)| match generation {
            Generation::Stowaway => self.argv(Role::Command, entry, values::command),
            _ => self.argv(Role::Command, entry, values::split_command),
        });
        let restore_argv = restore.and_then(|entry| self.argv(Role::RestoreCommand, entry, values::command));
        let checked = |result: Result<(), String>, value: &str| result.map(|()| value.to_owned());
        let container = container
            .and_then(|entry| self.check(Role::Container, entry, |value| checked(values::label(value), value)));
        let file_extension = extension
            .and_then(|entry| self.check(Role::FileExtension, entry, |value| checked(values::extension(value), value)));
        let pipefail = pipefail.and_then(|entry| self.check(Role::Pipefail, entry, values::boolean)).unwrap_or(true);
        for (entry, argv) in [(command.map(|(_, entry)| entry), &argv), (restore, &restore_argv)] {
            if let (Some(entry), Some(argv), true) = (entry, argv, pipefail) {
                self.warn_of_pipes(entry.key, argv);
            }
        }
        Some(CommandRequest {
            name: name.map(str::to_owned),
            pipefail,
            argv: argv?,
            restore_argv,
            container,
            file_extension: file_extension.unwrap_or_default(),
            generation: command?.0,
        })
    }

    /// Warns of pipes whose first commands may fail unseen: the shell of the container is not known here.
    fn warn_of_pipes(&mut self, key: &str, argv: &[String]) {
        let Some(script) = ShellScript::of(argv).filter(|script| !script.decides()) else { return };
        if script.has_pipe() {
            let message = "has a pipe: a failure of each of its commands counts only where the container's shell has \
                pipefail, as bash and busybox have; elsewhere only the last command is judged";
            self.warn(key, message);
        } else if script.has_nested_pipe() {
            let message = "has a pipe in a shell within the script, where pipefail is not set: only the pipe's last \
                command is judged; begin that inner script with `set -o pipefail;`";
            self.warn(key, message);
        }
    }

    /// What is said of all commands of the pod.
    fn settings(&mut self, request: &mut Request) {
        request.repository = self.setting(Role::Repository, values::repository_name);
        request.timeout = self.setting::<Duration>(Role::Timeout, values::positive_duration);
        request.idle_timeout = self.setting(Role::IdleTimeout, values::positive_duration);
        request.accept_unproven = self.setting(Role::AcceptUnproven, values::boolean).unwrap_or_default();
        request.skip_format_check = !self.setting(Role::FormatCheck, values::boolean).unwrap_or(true);
        request.allow_empty = self.setting(Role::AllowEmpty, values::boolean).unwrap_or_default();
        request.allow_missing = self.setting(Role::AllowMissing, values::boolean).unwrap_or_default();
        request.inject = self.setting(Role::Inject, values::injection);
        request.volumes = self.setting(Role::Volumes, values::volume_names).unwrap_or_default();
        request.restore_on_empty = self.setting(Role::Restore, values::on_empty).unwrap_or_default();
        request.secrets = self.setting(Role::Secrets, values::secret_names).unwrap_or_default();
        request.sidecar_resources = self.setting(Role::SidecarResources, resources);
        let restore = self.own.get(&(Role::Restore, None)).copied();
        if let (Some(Injection::None), true, Some(entry), Some(key)) =
            (request.inject, request.restore_on_empty, restore, key_of(Role::Restore))
        {
            // To start the app on an empty volume would be the wrong one of the two.
            self.problem(key, entry, format!("contradicts {PREFIX}inject, which is \"none\""));
        }
        if self.problems.is_empty() {
            self.warn_of_idle_settings(request);
        }
    }

    /// Tells which settings have nothing that they could be a setting of.
    fn warn_of_idle_settings(&mut self, request: &Request) {
        let by_sidecar = request.inject == Some(Injection::Sidecar);
        let by_helper = !request.commands.is_empty() && request.inject != Some(Injection::None)
            || request.inject == Some(Injection::Helper);
        let settings: Vec<(Role, &str)> = self.own.iter().map(|((role, _), entry)| (*role, entry.key)).collect();
        for (role, key) in settings {
            let (works, wanted) = match role {
                Role::Inject
                | Role::Restore
                | Role::Command
                | Role::Backup
                | Role::Exclude
                | Role::SnapshotClass
                | Role::AcceptShrunken => continue,
                Role::Volumes => {
                    (by_sidecar || request.restore_on_empty, "inject: sidecar and no stowaway.dev/restore")
                }
                Role::Secrets => (by_helper, "backupcommand that the helper would run"),
                Role::SidecarResources => (by_sidecar, "inject: sidecar"),
                Role::Repository => (by_sidecar || request.restore_on_empty, "backupcommand"),
                Role::Timeout | Role::IdleTimeout => (by_sidecar, "backupcommand"),
                Role::Container
                | Role::FileExtension
                | Role::RestoreCommand
                | Role::Pipefail
                | Role::FormatCheck
                | Role::AcceptUnproven
                | Role::AllowEmpty
                | Role::AllowMissing => (false, "backupcommand"),
            };
            let has_command = wanted == "backupcommand" && !request.commands.is_empty();
            if !works && !has_command {
                self.warn(key, format!("has no effect, since there is no {PREFIX}{wanted}"));
            }
        }
    }

    fn setting<T>(&mut self, role: Role, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let entry = *self.own.get(&(role, None))?;
        self.check(role, entry, parse)
    }

    fn argv(
        &mut self,
        role: Role,
        entry: Entry<'a>,
        parse: impl FnOnce(&str) -> Result<Command, String>,
    ) -> Option<Vec<String>> {
        let command = self.check(role, entry, parse)?;
        if command.open_quote {
            self.warn(entry.key, "has a quote that is never closed; it runs to the end of the line, as with K8up");
        }
        Some(command.argv)
    }

    fn check<T>(&mut self, role: Role, entry: Entry<'a>, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match (parse(entry.value), key_of(role)) {
            (Err(reason), Some(key)) => {
                self.problem(key, entry, reason);
                None
            }
            (result, _) => result.ok(),
        }
    }

    fn problem(&mut self, key: &Key, entry: Entry<'a>, reason: String) {
        let value = if key.form == Form::Command {
            format!("a command line of {} bytes", entry.value.len())
        } else {
            values::shown(entry.value)
        };
        self.problems.push(Problem { key: entry.key.to_owned(), value, reason });
    }

    /// Warns of a key that nobody reads. Whoever may make a pod decides how many there are, so only some are looked into.
    fn unknown(&mut self, key: &str, own: &str) {
        self.unknown += 1;
        match self.unknown.cmp(&MAXIMUM_UNKNOWN) {
            Ordering::Greater => {}
            Ordering::Equal => {
                self.warn(PREFIX, "has more unknown keys than are told here; none of them has an effect");
            }
            Ordering::Less => match nearest(own) {
                Some(nearest) => {
                    self.warn(key, format!("is not known and has no effect; the nearest known one is {nearest}"));
                }
                None => self.warn(PREFIX, "has a key that is too long to be one of ours, and has no effect"),
            },
        }
    }

    fn warn(&mut self, key: &str, message: impl Into<String>) {
        self.warnings.push(Warning { key: key.to_owned(), message: message.into() });
    }
}

/// From how many on unknown keys are no longer told one by one.
const MAXIMUM_UNKNOWN: usize = 16;
