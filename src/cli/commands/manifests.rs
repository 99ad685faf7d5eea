//! `stowaway manifests`: writes the manifests of an installation. Also writes the manual pages of the commands.

use std::{fs, path::Path};

use clap::CommandFactory;

use crate::cli::{
    CliError,
    args::{Arguments, ManifestsArguments},
};
use crate::{
    resources::manifests::{Amounts, AmountsError, Installation, files},
    telemetry::LogFormat,
};

/// Runs `stowaway manifests`.
pub fn run(arguments: &ManifestsArguments) -> Result<u8, CliError> {
    let wrong = |error: AmountsError| CliError::Usage(error.to_string());
    let (requests, limits) = (arguments.controller_requests.clone(), arguments.controller_limits.clone());
    let controller = Amounts::of_controller(requests.unwrap_or_default(), limits.unwrap_or_default()).map_err(wrong)?;
    let (requests, limits) = (arguments.webhook_requests.clone(), arguments.webhook_limits.clone());
    let webhook = Amounts::of_webhook(requests.unwrap_or_default(), limits.unwrap_or_default()).map_err(wrong)?;
    let installation = Installation {
        image: &arguments.image,
        namespace: &arguments.namespace,
        cert_manager: arguments.cert_manager,
        pull_secrets: &arguments.image_pull_secrets,
        json_logs: arguments.component_log_format == LogFormat::Json,
        controller: Some(&controller),
        webhook: Some(&webhook),
    };
    let files =
        files(&installation).map_err(|error| CliError::Usage(format!("the manifests cannot be written: {error}")))?;
    for (name, text) in files {
        let path = arguments.output.join(name);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(&path, text)).map_err(CliError::Output)?;
    }
    Ok(0)
}

/// Writes a manual page for each command that `stowaway help` lists.
pub fn write_manual_pages(folder: &Path) -> Result<u8, CliError> {
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), folder))
        .map_err(CliError::Output)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::Command;

    fn written(options: &[&str]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().to_str().unwrap();
        let arguments = ["stowaway", "manifests", "--output", output].into_iter().chain(options.iter().copied());
        let arguments = Arguments::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let Command::Manifests(arguments) = arguments.command else { panic!("another command") };
        run(&arguments).map_err(|error| error.to_string())?;
        Ok(fs::read_to_string(folder.path().join("install.yaml")).unwrap())
    }

    #[test]
    fn installation_has_the_parameters_of_the_options() {
        let image = format!("registry.example:5000/backup/stowaway@sha256:{}", "0a".repeat(32));
        let options = [
            ["--image", &image],
            ["--namespace", "backups"],
            ["--image-pull-secret", "registry"],
            ["--component-log-format", "json"],
            ["--controller-limits", "memory=777Mi"],
            ["--webhook-requests", "cpu=33m"],
        ];
        let yaml = written(&options.concat()).unwrap();
        for text in [
            &format!("image: {image}\n")[..],
            "namespace: backups\n",
            "imagePullSecrets:\n      - name: registry\n",
            "value: json\n",
            "memory: 777Mi\n",
            "cpu: 33m\n",
        ] {
            assert!(yaml.contains(text), "{text:?} is not in {yaml}");
        }
        assert_eq!(written(&[]).unwrap(), crate::resources::manifests::install_yaml(&Installation::default()).unwrap());
    }

    #[test]
    fn wrong_parameters_are_refused_before_a_file_is_written() {
        for (options, reason) in [
            (["--image", "stowaway@sha256:12"], "64 hexadecimal digits"),
            (["--namespace", "Backups"], "lower-case"),
            (["--image-pull-secret", "a/b"], "is not an object's name"),
            (["--controller-requests", "memory"], "RESOURCE=AMOUNT"),
            (["--controller-requests", "memory=1Gi"], "is more than its limit"),
        ] {
            let error = written(&options).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn every_listed_command_has_a_manual_page() {
        let folder = tempfile::tempdir().unwrap();
        write_manual_pages(folder.path()).unwrap();
        for command in Arguments::command().get_subcommands() {
            let page = folder.path().join(format!("stowaway-{}.1", command.get_name()));
            assert_eq!(page.exists(), !command.is_hide_set(), "{}", page.display());
        }
    }
}
