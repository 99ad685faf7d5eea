//! Tests of settings without an effect: which of them are mistakes, and which are remarks.

use super::*;

#[test]
fn settings_that_the_label_of_the_namespace_can_give_an_effect_are_remarks_and_no_mistakes() {
    for setting in [
        ("/volumes", "data"),
        ("/secrets", "login"),
        ("/sidecar-resources", r#"{"limits":{"cpu":"1"}}"#),
        ("/repository", "offsite"),
        ("/timeout", "1h"),
        ("/idle-timeout", "90s"),
    ] {
        let only = |pairs: &[(&str, &str)]| {
            let warnings = request(pairs).warnings;
            let [warning] = &warnings[..] else { panic!("{pairs:?}: {warnings:?}") };
            assert!(warning.key.ends_with(setting.0), "{warning}");
            warning.clone()
        };
        let remark = only(&[setting]);
        let label = ", unless the label of the Namespace requests the injection";
        assert!(!remark.is_mistake && remark.message.ends_with(label), "{remark}");
        // The annotation of the pod counts instead of the label.
        let mistake = only(&[setting, ("/inject", "none")]);
        assert!(mistake.is_mistake && mistake.message.starts_with("has no effect"), "{mistake}");
        assert!(!mistake.message.contains("Namespace"), "{mistake}");
    }
}

#[test]
fn settings_of_commands_are_mistakes_without_a_command_because_no_label_requests_one() {
    for setting in
        [("/accept-unproven", "true"), ("/allow-empty", "true"), ("/allow-missing", "true"), ("/format-check", "false")]
    {
        let warnings = request(&[setting]).warnings;
        assert!(matches!(&warnings[..], [warning] if warning.is_mistake), "{setting:?}: {warnings:?}");
    }
}
