//! What must hold for any bytes at all. Each function is a fuzz target of its name; `make test` replays the corpus that
//! fuzzing found through the same functions.
//!
//! It must not know where the bytes come from.

use std::collections::BTreeMap;

use bytes::Bytes;
use stowaway::annotations;
use stowaway_seal::{
    Frame, FrameDecoder, FrameEncoder, Nonce, Opener, Outcome, SealError, Sealer, Trailer, Window, parse_answer, parse_hello,
};

/// Annotations, a line each: `KEY=VALUE`. A key that begins with `.` or `-` continues our own prefix's commonest one.
///
/// They are read without a panic, the same way twice, and what is refused names at least one problem.
pub fn annotations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let map: BTreeMap<String, String> = text
        .split('\n')
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            let prefix = if key.starts_with(['.', '-']) { "stowaway.dev/backupcommand" } else { "" };
            (format!("{prefix}{key}"), value.replace('\u{b6}', "\n"))
        })
        .collect();
    let read = annotations::parse(&map);
    assert_eq!(format!("{read:?}"), format!("{:?}", annotations::parse(&map)));
    match read {
        Err(problems) => assert!(!problems.0.is_empty(), "refused without a reason"),
        Ok(Some(request)) => {
            assert!(request.commands.iter().all(|command| command.argv.first().is_some_and(|program| !program.is_empty())), "a command without a program");
        }
        Ok(None) => {}
    }
}

/// The sealed protocol: as bytes from a hostile peer, and as a stream of which one byte was changed on its way.
///
/// No bytes make either side panic, and a stream is only called whole when it is.
pub fn protocol(data: &[u8]) {
    let nonce = Nonce::new(7);
    let _ = parse_hello(data);
    let _ = parse_answer(&nonce, data);
    let cut = data.first().map_or(1, |byte| usize::from(*byte) + 1);
    let _ = receive(data, cut, &nonce);
    assert!(receive(&forged(data, &nonce), cut, &nonce).is_none(), "a forged stream is called whole");

    let Some((&[high, low, flip], content)) = data.split_first_chunk::<3>() else { return };
    let Ok(mut wire) = send(content, &nonce) else { return };
    let position = usize::from(u16::from_be_bytes([high, low])) % wire.len();
    wire[position] ^= flip;
    match receive(&wire, cut, &nonce) {
        Some(received) => assert!(received == content, "another stream than was sent is called whole"),
        None => assert!(flip != 0, "a whole stream is refused"),
    }
}

/// Well-formed frames around bytes that no sender compressed, with the end of another stream.
fn forged(payload: &[u8], nonce: &Nonce) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut encoder = FrameEncoder::new(nonce);
    encoder.encode(&Frame::Data(Bytes::copy_from_slice(payload)), &mut wire);
    encoder.encode(&Frame::Trailer(Trailer { bytes: 7, digest: [7; 32], outcome: Outcome::Exited(0) }), &mut wire);
    wire
}

/// A stream as its sender seals it, acknowledged as fast as it is sent.
fn send(content: &[u8], nonce: &Nonce) -> Result<Vec<u8>, SealError> {
    let mut wire = Vec::new();
    let mut sealer = Sealer::new(nonce, Window::DUMP)?;
    sealer.push(content, &mut wire)?;
    sealer.finish(Outcome::Exited(0), &mut wire)?;
    Ok(wire)
}

/// The stream, if its receiver takes it for whole. The wire comes in pieces of that many bytes.
fn receive(wire: &[u8], piece: usize, nonce: &Nonce) -> Option<Vec<u8>> {
    let mut decoder = FrameDecoder::new(nonce);
    let mut opener = Opener::new(Window::DUMP).ok()?;
    let mut received = Vec::new();
    let mut buffer = vec![0; 4096];
    for part in wire.chunks(piece) {
        decoder.push(part);
        while let Some(frame) = decoder.next_frame().ok()? {
            match frame {
                Frame::Data(payload) => {
                    opener.take(payload).ok()?;
                    loop {
                        let count = opener.pull(&mut buffer).ok()?;
                        if count == 0 {
                            break;
                        }
                        received.extend_from_slice(&buffer[..count]);
                        // A small frame may swell to anything; what holds for a megabyte holds for more.
                        if received.len() > 1 << 20 {
                            return None;
                        }
                    }
                }
                Frame::Trailer(trailer) => return opener.verify(&trailer).ok().map(|()| received),
                _ => {}
            }
        }
    }
    None
}
