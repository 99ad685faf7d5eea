//! Bundles: concatenated certificates in PEM, as in a `caBundle`.

use x509_parser::pem::Pem;

/// The certificates of a bundle in DER, up to the first one that cannot be parsed.
pub(crate) fn certificates(bundle: &str) -> Vec<Vec<u8>> {
    let blocks = Pem::iter_from_buffer(bundle.as_bytes());
    blocks.map_while(Result::ok).filter(|block| block.label == "CERTIFICATE").map(|block| block.contents).collect()
}

/// Whether the bundle contains every certificate of `wanted`, regardless of their PEM formatting.
pub fn holds(bundle: &str, wanted: &str) -> bool {
    let (found, wanted) = (certificates(bundle), certificates(wanted));
    !wanted.is_empty() && wanted.iter().all(|certificate| found.contains(certificate))
}

/// Whether the text consists of valid certificates and nothing else.
pub fn is_bundle(text: &str) -> bool {
    let blocks: Vec<_> = Pem::iter_from_buffer(text.as_bytes()).collect();
    let is_certificate = |block: &Result<Pem, _>| {
        block.as_ref().is_ok_and(|block| block.label == "CERTIFICATE" && block.parse_x509().is_ok())
    };
    !blocks.is_empty() && blocks.iter().all(is_certificate)
}

/// Whether both bundles contain the same certificates in the same order.
pub(crate) fn same(bundle: &str, other: &str) -> bool {
    certificates(bundle) == certificates(other)
}
