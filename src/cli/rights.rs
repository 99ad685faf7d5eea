//! Checks, before anything is created, whether the user has the rights which a command needs.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};

/// A right to one verb on a resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct Right {
    /// API group.
    pub group: &'static str,
    /// Resource, with its subresource after a slash.
    pub resource: &'static str,
    /// Verb.
    pub verb: &'static str,
}

/// A description of the first of these rights that the user lacks in the namespace. None if the user has all of them,
/// or if the API server does not report it.
pub(super) async fn missing(client: &Client, namespace: &str, name: Option<&str>, rights: &[Right]) -> Option<String> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    for right in rights {
        let review = review(*right, namespace, name);
        let answer = reviews.create(&PostParams::default(), &review).await.ok()?;
        if answer.status.is_some_and(|status| !status.allowed) {
            let Right { group, resource, verb } = right;
            let group = if group.is_empty() { String::new() } else { format!(".{group}") };
            return Some(format!("the right to {verb} {resource}{group} in namespace {namespace}"));
        }
    }
    None
}

fn review(Right { group, resource, verb }: Right, namespace: &str, name: Option<&str>) -> SelfSubjectAccessReview {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource)),
        None => (resource, None),
    };
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.map(str::to_owned),
                verb: Some(verb.to_owned()),
                namespace: Some(namespace.to_owned()),
                name: name.map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    }
}
