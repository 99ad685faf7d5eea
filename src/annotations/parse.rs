//! Parses a pod's annotations into a request, or into all of their problems at once. Whether a named container exists
//! is checked later, by `plan::sources`.
//!
//! Precedence of each key: Stowaway's own key wins over those of other tools, and of those, the newest dialect wins. A
//! key that loses gets a warning. (K8up 2 can be configured to read the older keys of commands and extensions, and
//! reads its own key of the container as well, so one pod may have keys of several dialects.)

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    keys::{Form, KEYS, Key, KeyId, PREFIX, key_of, nearest},
    near_miss::{Intended, MAX_UNKNOWN, Object, bounded, near_misses},
    request::{CommandRequest, Injection, KeyDialect, Lenient, Problem, Problems, Request, Warning},
    resources::resources,
    values::{self, Command},
};
use crate::model::command_warnings;

/// Parses the annotations; `None` when no annotation concerns Stowaway.
pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Option<Request>, Problems> {
    let Lenient { request, foreign_errors } = parse_lenient(annotations)?;
    if foreign_errors.is_empty() {
        return Ok(request);
    }
    Err(Problems { problems: foreign_errors, warnings: request.map_or_else(Vec::new, |request| request.warnings) })
}

/// Parses the annotations, and accepts that those of other tools are invalid. These set only the plain command. If one
/// of them is invalid, the request does not contain the plain command.
pub fn parse_lenient(annotations: &BTreeMap<String, String>) -> Result<Lenient, Problems> {
    let mut reader = Reader::default();
    reader.collect_own(annotations);
    reader.collect_foreign(annotations);
    reader.warnings.extend(bounded(near_misses(Object::Pod, Some(annotations))));
    let mut request = Request { commands: reader.commands(), ..Request::default() };
    reader.settings(&mut request);
    if reader.problems.iter().any(Problem::is_own) {
        return Err(Problems { problems: reader.problems, warnings: reader.warnings });
    }
    if !reader.problems.is_empty() {
        request.commands.retain(|command| command.name.is_some());
    }
    if request.commands.is_empty() && reader.own.is_empty() && reader.warnings.is_empty() {
        return Ok(Lenient { request: None, foreign_errors: reader.problems });
    }
    request.warnings = reader.warnings;
    Ok(Lenient { request: Some(request), foreign_errors: reader.problems })
}

/// An annotation: its complete key and its value.
#[derive(Clone, Copy)]
struct Entry<'a> {
    key: &'a str,
    value: &'a str,
}

/// The state of the parser.
#[derive(Default)]
struct Reader<'a> {
    /// By key and name of the command.
    own: BTreeMap<(KeyId, Option<&'a str>), Entry<'a>>,
    /// Keys of other tools which no own key overrides; they set the plain command.
    foreign: BTreeMap<KeyId, (KeyDialect, Entry<'a>)>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Number of unknown keys with Stowaway's prefix.
    unknown: usize,
}

impl<'a> Reader<'a> {
    /// Collects Stowaway's own keys, and reports similar keys.
    fn collect_own(&mut self, annotations: &'a BTreeMap<String, String>) {
        for (key, value) in annotations {
            let Some(own) = key.strip_prefix(PREFIX) else { continue };
            let entry = Entry { key, value };
            if let Some(known) = KEYS.iter().find(|known| known.name == own) {
                if !known.is_of_pods() {
                    self.warn(key, format!("has no effect on a pod; it is read on {}", known.carrier));
                    continue;
                }
                self.own.insert((known.id, None), entry);
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
                self.own.insert((known.id, Some(name)), entry);
            }
        }
    }

    /// Collects the keys of other tools that count, and warns of the others.
    fn collect_foreign(&mut self, annotations: &'a BTreeMap<String, String>) {
        for key in KEYS.iter().filter(|key| key.is_of_pods()) {
            let mut winner = self.own.get(&(key.id, None)).map(|entry| entry.key);
            for (dialect, foreign) in key.foreign {
                let Some((foreign, value)) = annotations.get_key_value(*foreign) else { continue };
                if let Some(winner) = winner {
                    self.remark(foreign, format!("is ignored, because {winner} is present and wins"));
                } else {
                    winner = Some(foreign);
                    self.foreign.insert(key.id, (*dialect, Entry { key: foreign, value }));
                }
            }
        }
        let has_command = self.own.contains_key(&(KeyId::Command, None)) || self.foreign.contains_key(&KeyId::Command);
        if !has_command {
            for (_, entry) in std::mem::take(&mut self.foreign).into_values() {
                // Without an own key nothing is reported, because the other tool ignores the key, too.
                if !self.own.is_empty() {
                    self.warn(entry.key, "is ignored, because there is no plain command for it");
                }
            }
        }
    }

    /// The commands, and the problems of keys that belong to no command.
    fn commands(&mut self) -> Vec<CommandRequest> {
        let is_named = |id: KeyId| key_of(id).is_some_and(|key| key.named);
        let mut names: BTreeSet<Option<&'a str>> =
            self.own.keys().filter(|(id, _)| is_named(*id)).map(|(_, name)| *name).collect();
        if !self.foreign.is_empty() {
            names.insert(None);
        }
        names.into_iter().filter_map(|name| self.command(name)).collect()
    }

    /// One command; `None` when it does not exist, or has problems.
    fn command(&mut self, name: Option<&'a str>) -> Option<CommandRequest> {
        let entry = |id: KeyId| {
            let own = self.own.get(&(id, name)).map(|entry| (KeyDialect::Stowaway, *entry));
            own.or_else(|| self.foreign.get(&id).filter(|_| name.is_none()).copied())
        };
        let command = entry(KeyId::Command);
        let [container, extension, restore, pipefail] =
            [KeyId::Container, KeyId::FileExtension, KeyId::RestoreCommand, KeyId::Pipefail]
                .map(|id| entry(id).map(|(_, entry)| entry));

        if command.is_none() {
            let missing = format!("{PREFIX}backupcommand{}", name.map(|name| format!(".{name}")).unwrap_or_default());
            let orphans = [
                (KeyId::Container, container),
                (KeyId::FileExtension, extension),
                (KeyId::RestoreCommand, restore),
                (KeyId::Pipefail, pipefail),
            ];
            for (id, entry) in orphans {
                if let (Some(entry), Some(key)) = (entry, key_of(id)) {
                    self.problem(key, entry, format!("there is no {missing} for it"));
                }
            }
        }
        let parsed = command.and_then(|(dialect, entry)| match dialect {
            KeyDialect::Stowaway => self.command_line(KeyId::Command, entry, values::command),
            _ => self.command_line(KeyId::Command, entry, values::split_command),
        });
        let parsed_restore = restore.and_then(|entry| self.command_line(KeyId::RestoreCommand, entry, values::command));
        let checked = |result: Result<(), String>, value: &str| result.map(|()| value.to_owned());
        let container = container
            .and_then(|entry| self.check(KeyId::Container, entry, |value| checked(values::label(value), value)));
        let file_extension = extension.and_then(|entry| {
            self.check(KeyId::FileExtension, entry, |value| checked(values::extension(value), value))
        });
        let pipefail = pipefail.and_then(|entry| self.check(KeyId::Pipefail, entry, values::boolean)).unwrap_or(true);
        for (entry, parsed) in [(command.map(|(_, entry)| entry), &parsed), (restore, &parsed_restore)] {
            if let (Some(entry), Some(parsed)) = (entry, parsed) {
                for warning in command_warnings(&parsed.argv, pipefail, parsed.literal.as_ref()) {
                    self.remark(entry.key, warning);
                }
            }
        }
        let parsed = parsed?;
        let (restore_argv, restore_literal) = parsed_restore.map(|parsed| (parsed.argv, parsed.literal)).unzip();
        Some(CommandRequest {
            name: name.map(str::to_owned),
            pipefail,
            argv: parsed.argv,
            literal: parsed.literal,
            restore_argv,
            restore_literal: restore_literal.flatten(),
            container,
            file_extension: file_extension.unwrap_or_default(),
            dialect: command?.0,
        })
    }

    /// The settings of all commands of the pod.
    fn settings(&mut self, request: &mut Request) {
        request.repository = self.setting(KeyId::Repository, values::repository_name);
        request.timeout = self.setting::<Duration>(KeyId::Timeout, values::positive_duration);
        request.idle_timeout = self.setting(KeyId::IdleTimeout, values::positive_duration);
        request.accept_unproven = self.setting(KeyId::AcceptUnproven, values::boolean).unwrap_or_default();
        request.skip_format_check = !self.setting(KeyId::FormatCheck, values::boolean).unwrap_or(true);
        request.allow_empty = self.setting(KeyId::AllowEmpty, values::boolean).unwrap_or_default();
        request.allow_missing = self.setting(KeyId::AllowMissing, values::boolean).unwrap_or_default();
        request.inject = self.setting(KeyId::Inject, values::injection);
        request.volumes = self.setting(KeyId::Volumes, values::volume_names).unwrap_or_default();
        request.restore_on_empty = self.setting(KeyId::Restore, values::on_empty).unwrap_or_default();
        request.secrets = self.setting(KeyId::Secrets, values::secret_names).unwrap_or_default();
        request.sidecar_resources = self.setting(KeyId::SidecarResources, resources);
        let restore = self.own.get(&(KeyId::Restore, None)).copied();
        if let (Some(Injection::None), true, Some(entry), Some(key)) =
            (request.inject, request.restore_on_empty, restore, key_of(KeyId::Restore))
        {
            // It is a problem, because to ignore the restore would start the app on an empty volume.
            self.problem(key, entry, format!("contradicts {PREFIX}inject, which is \"none\""));
        }
        if self.problems.is_empty() {
            self.warn_of_settings_without_effect(request);
        }
    }

    /// Warns about annotations without effect, such as `timeout` without `backupcommand`.
    fn warn_of_settings_without_effect(&mut self, request: &Request) {
        let by_sidecar = request.inject == Some(Injection::Sidecar);
        let by_helper = !request.commands.is_empty() && request.inject != Some(Injection::None)
            || request.inject == Some(Injection::Helper);
        let settings: Vec<(KeyId, &str)> = self.own.iter().map(|((id, _), entry)| (*id, entry.key)).collect();
        for (id, key) in settings {
            let (has_effect, wanted) = match id {
                KeyId::Inject
                | KeyId::Restore
                | KeyId::Command
                | KeyId::Backup
                | KeyId::Exclude
                | KeyId::SnapshotClass
                | KeyId::AcceptShrunken => continue,
                KeyId::Volumes => {
                    (by_sidecar || request.restore_on_empty, "inject: sidecar and no stowaway.dev/restore")
                }
                KeyId::Secrets => (by_helper, "backupcommand that the helper would run"),
                KeyId::SidecarResources => (by_sidecar, "inject: sidecar"),
                KeyId::Repository => (by_sidecar || request.restore_on_empty, "backupcommand"),
                KeyId::Timeout | KeyId::IdleTimeout => (by_sidecar, "backupcommand"),
                KeyId::Container
                | KeyId::FileExtension
                | KeyId::RestoreCommand
                | KeyId::Pipefail
                | KeyId::FormatCheck
                | KeyId::AcceptUnproven
                | KeyId::AllowEmpty
                | KeyId::AllowMissing => (false, "backupcommand"),
            };
            let has_command = wanted == "backupcommand" && !request.commands.is_empty();
            if has_effect || has_command {
                continue;
            }
            // The label of the Namespace, which is not known here, may request a helper or a sidecar.
            let may_have_effect = request.inject.is_none()
                && matches!(
                    id,
                    KeyId::Volumes
                        | KeyId::Secrets
                        | KeyId::SidecarResources
                        | KeyId::Repository
                        | KeyId::Timeout
                        | KeyId::IdleTimeout
                );
            let message = format!("has no effect, because there is no {PREFIX}{wanted}");
            if may_have_effect {
                self.remark(key, format!("{message}, unless the label of the Namespace requests the injection"));
            } else {
                self.warn(key, message);
            }
        }
    }

    fn setting<T>(&mut self, id: KeyId, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let entry = *self.own.get(&(id, None))?;
        self.check(id, entry, parse)
    }

    fn command_line(
        &mut self,
        id: KeyId,
        entry: Entry<'a>,
        parse: impl FnOnce(&str) -> Result<Command, String>,
    ) -> Option<Command> {
        let command = self.check(id, entry, parse)?;
        if command.open_quote {
            self.warn(entry.key, "has a quote that is never closed; it extends to the end of the line, as in K8up");
        }
        Some(command)
    }

    fn check<T>(&mut self, id: KeyId, entry: Entry<'a>, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match (parse(entry.value), key_of(id)) {
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

    /// Warns of an unknown key. The author of a pod decides how many there are, so only the first ones are compared
    /// with known keys.
    fn unknown(&mut self, key: &str, own: &str) {
        self.unknown += 1;
        match self.unknown.cmp(&MAX_UNKNOWN) {
            Ordering::Greater => {}
            Ordering::Equal => {
                self.warn(PREFIX, "has more unknown keys than are reported here; none of them has an effect");
            }
            Ordering::Less => match nearest(own, |_| true) {
                Some(nearest) => self.warn(key, Intended::own(nearest).message(Object::Pod)),
                None => self.warn(PREFIX, "has a key that is too long to be one of Stowaway's, and has no effect"),
            },
        }
    }

    fn warn(&mut self, key: &str, message: impl Into<String>) {
        self.warnings.push(Warning::mistake(key, message));
    }

    fn remark(&mut self, key: &str, message: impl Into<String>) {
        self.warnings.push(Warning::remark(key, message));
    }
}
