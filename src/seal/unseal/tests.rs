//! The parser's results for data, for trailers, and for invalid bytes, however the bytes are split into chunks.

use proptest::prelude::*;

use super::*;

fn nonce() -> Nonce {
    Nonce::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)
}

fn other_nonce() -> Nonce {
    Nonce::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdee)
}

/// The stream in chunks of the given lengths, over and over.
fn unseal(stream: &[u8], lengths: &[usize]) -> (Vec<u8>, Result<u16, UnsealError>) {
    let mut unsealer = Unsealer::new(&nonce());
    let (mut data, mut rest) = (Vec::new(), stream);
    for length in lengths.iter().cycle() {
        let (chunk, after) = rest.split_at((*length).min(rest.len()));
        match unsealer.push(chunk) {
            Ok(released) => data.extend_from_slice(&released),
            Err(error) => return (data, Err(error)),
        }
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(unsealer.bytes(), data.len() as u64);
    (data, unsealer.finish())
}

fn sealed(data: &[u8], status: u16) -> Vec<u8> {
    [&nonce().ready()[..], data, nonce().trailer(status).as_bytes()].concat()
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..90, 1..20)
}

proptest! {
    #[test]
    fn whole_stream_is_given_back_however_it_is_cut(
        data in prop::collection::vec(any::<u8>(), 0..600), status in 0_u16..=256, lengths in lengths(),
    ) {
        prop_assert_eq!(unseal(&sealed(&data, status), &lengths), (data, Ok(status)));
    }

    #[test]
    fn every_proper_prefix_is_cut(data in prop::collection::vec(any::<u8>(), 0..200), lengths in lengths(), at in any::<prop::sample::Index>()) {
        let stream = sealed(&data, 0);
        let (released, end) = unseal(&stream[..at.index(stream.len())], &lengths);
        prop_assert!(matches!(end, Err(UnsealError::Cut { .. })), "{:?}", end);
        prop_assert!(data.starts_with(&released));
    }

    #[test]
    fn bytes_after_the_end_contradict_it(after in prop::collection::vec(any::<u8>(), 1..200), lengths in lengths()) {
        let stream = [&sealed(b"data", 0)[..], &after].concat();
        prop_assert_eq!(unseal(&stream, &lengths).1, Err(UnsealError::Contradicted { bytes: 4 }));
    }

    #[test]
    fn look_alike_with_another_nonce_is_data(lengths in lengths(), status in 0_u16..256) {
        let data = [b"x", other_nonce().trailer(0).as_bytes(), &nonce().as_str().as_bytes()[..31], b"\n0\n", b"0123456789"].concat();
        prop_assert_eq!(unseal(&sealed(&data, status), &lengths), (data, Ok(status)));
    }

    #[test]
    fn nothing_is_accepted_before_ready(noise in prop::collection::vec(any::<u8>(), 1..60), lengths in lengths()) {
        prop_assume!(noise[0] != b'0');
        let stream = [&noise[..], &sealed(b"data", 0)].concat();
        prop_assert_eq!(unseal(&stream, &lengths), (vec![], Err(UnsealError::NotReady)));
    }
}

#[test]
fn malformed_trailers_are_no_end() {
    for wrong in ["\n", "1234\n", "x", "0\r\n", "-1\n", " 0\n"] {
        let stream = [&nonce().ready()[..], nonce().as_str().as_bytes(), wrong.as_bytes()].concat();
        assert_eq!(unseal(&stream, &[7]).1, Err(UnsealError::Contradicted { bytes: 0 }), "{wrong:?}");
    }
}
