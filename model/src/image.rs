//! References of container images, and whether two references are the same program.

/// Whether both references are the same program, of any version or tag.
pub fn is_same_program(one: &str, other: &str) -> bool {
    is_same_content(one, other) || repository(one) == repository(other)
}

/// Whether both references are the same image, from any registry.
pub fn is_same_content(one: &str, other: &str) -> bool {
    one == other || digest(one).is_some() && digest(one) == digest(other)
}

/// The digest of an image reference, which identifies the content of the image.
fn digest(image: &str) -> Option<&str> {
    image.split_once('@').map(|(_, digest)| digest).filter(|digest| digest.starts_with("sha256:"))
}

/// An image reference without tag and digest.
pub(super) fn repository(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(repository, _)| repository);
    match image.rsplit_once(':') {
        // A slash behind the colon means that the colon precedes a port.
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_distinguished_by_repository_and_digest() {
        for (image, expected) in [
            ("stowaway", "stowaway"),
            ("stowaway:1", "stowaway"),
            ("registry:5000/a/stowaway", "registry:5000/a/stowaway"),
            ("registry:5000/a/stowaway:1@sha256:00", "registry:5000/a/stowaway"),
            ("registry:5000/a/stowaway@sha256:00", "registry:5000/a/stowaway"),
        ] {
            assert_eq!(repository(image), expected, "{image}");
        }
        assert_eq!(digest("a@sha256:00"), Some("sha256:00"));
        assert_eq!(digest("a@md5:00"), None);
        assert!(is_same_program("mirror/stowaway@sha256:00", "registry/stowaway@sha256:00"));
        assert!(!is_same_program("mallory/stowaway:1", "registry/stowaway:1"));
    }
}
