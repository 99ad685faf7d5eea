//! References of container images, and whether two references are the same program.

/// Whether both references are the same program, of any version or tag.
pub fn is_same_program(one: &str, other: &str) -> bool {
    is_same_content(one, other) || repository(one) == repository(other)
}

/// Whether both references are the same image, from any registry.
pub fn is_same_content(one: &str, other: &str) -> bool {
    one == other || digest(one).is_some() && digest(one) == digest(other)
}

/// Why the text is not an image reference.
pub fn reference_problem(image: &str) -> Option<String> {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter);
    if !image.starts_with(|letter: char| letter.is_ascii_alphanumeric()) || !image.chars().all(is_allowed) {
        return Some("is not an image reference such as registry.example.com/backup/stowaway:1.0".to_owned());
    }
    let (_, digest) = image.split_once('@')?;
    let is_hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let is_digest = digest.strip_prefix("sha256:").is_some_and(|sum| sum.len() == 64 && is_hexadecimal(sum));
    (!is_digest).then(|| {
        "does not end in a complete digest, which is @sha256: and 64 hexadecimal digits in lower case".to_owned()
    })
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

    #[test]
    fn references_with_blanks_or_an_incomplete_digest_are_refused() {
        let digest = format!("registry:5000/a/stowaway:1@sha256:{}", "0a".repeat(32));
        for image in ["stowaway", "stowaway:1.0", "registry:5000/a/stowaway", &digest] {
            assert_eq!(reference_problem(image), None, "{image}");
        }
        for image in ["", " stowaway", "stowaway:1 x", "@sha256:00", "'stowaway'"] {
            assert!(reference_problem(image).unwrap().contains("is not an image reference"), "{image:?}");
        }
        let upper = digest.replace('a', "A");
        for image in ["stowaway@sha256:00", "stowaway@", "stowaway@sha512:00", "stowaway@latest", &upper] {
            assert!(reference_problem(image).unwrap().contains("64 hexadecimal digits"), "{image}");
        }
    }
}
