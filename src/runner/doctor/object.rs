//! Finds the problems which the status of a Repository object reports. Pure.

use super::{Complaint, Diagnosis, Weight};
use crate::api::{self, Repository, condition};

/// Adds the problems in the object's status.
pub fn add_object(diagnosis: &mut Diagnosis, object: &Repository) {
    let conditions = object.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let mut add = |weight, what: String, remedy: &str| {
        diagnosis.complaints.push(Complaint { weight, what, remedy: vec![remedy.to_owned()] });
    };
    match condition(conditions, api::READY) {
        None => add(
            Weight::Risk,
            "the controller has not reconciled the Repository yet".to_owned(),
            "check that the controller runs: kubectl get pods -A -l app.kubernetes.io/name=stowaway",
        ),
        Some(ready) if ready.status != "True" => add(
            Weight::Risk,
            format!("the Repository is not Ready: {}", ready.message),
            "runs wait until it is; the controller retries automatically, and immediately when the spec changes",
        ),
        Some(_) => {}
    }
    for (kind, remedy) in [
        (
            api::SIZE_ANOMALY,
            "check whether this is intended; if so, forget its older snapshots: stowaway forget --repository REPOSITORY \
             ID ...",
        ),
        (api::RETENTION_DIFFERS, "set the same retention and timeZone in all of these Repositories"),
        (api::INSECURE_TRANSPORT, "use TLS, with spec.tls if the store has a certificate authority of its own"),
    ] {
        if let Some(found) = condition(conditions, kind).filter(|found| found.status == "True") {
            add(Weight::Risk, format!("{kind}: {}", found.message), remedy);
        }
    }
    if object.spec.check.is_none() {
        let what = "it has no schedule for checks".to_owned();
        add(Weight::Note, what, "set spec.check, which regularly reads all of its data");
    }
    diagnosis.complaints.sort_by_key(|complaint| complaint.weight);
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::{RepositoryStatus, set_condition};

    fn complaints(check: bool, conditions: &[(&str, bool)]) -> Vec<(Weight, String)> {
        let mut spec = serde_json::json!({ "volume": { "emptyDir": {} }, "passwordSecretRef": { "name": "key" } });
        if check {
            spec["check"] = serde_json::json!({ "schedule": "@daily" });
        }
        let mut object = Repository::new("main", serde_json::from_value(spec).unwrap());
        let mut status = RepositoryStatus::default();
        for (kind, holds) in conditions {
            set_condition(&mut status.conditions, kind, *holds, ("Reason", "as it is"), None, Timestamp::UNIX_EPOCH);
        }
        object.status = Some(status);
        let mut diagnosis = Diagnosis::default();
        add_object(&mut diagnosis, &object);
        diagnosis.complaints.into_iter().map(|complaint| (complaint.weight, complaint.what)).collect()
    }

    #[test]
    fn problems_in_the_status_are_reported() {
        assert_eq!(complaints(true, &[(api::READY, true), (api::SIZE_ANOMALY, false)]), []);
        let reported =
            complaints(false, &[(api::READY, false), (api::SIZE_ANOMALY, true), (api::INSECURE_TRANSPORT, true)]);
        let weights: Vec<Weight> = reported.iter().map(|(weight, _)| *weight).collect();
        assert_eq!(weights, [Weight::Risk, Weight::Risk, Weight::Risk, Weight::Note], "{reported:?}");
        assert!(reported[0].1.ends_with("not Ready: as it is"), "{reported:?}");
        assert!(complaints(true, &[])[0].1.contains("has not reconciled"));
    }
}
