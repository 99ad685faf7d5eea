//! The purpose of the protocol: whatever happens to a stream in transit, only a complete and unchanged stream is
//! accepted.
//!
//! The tests try every offset and every bit of one stream, and random changes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]
#![allow(clippy::cast_possible_truncation, reason = "known sizes")]

use proptest::prelude::*;
use stowaway_protocol::{
    Fault, Frame, FrameDecoder, FrameEncoder, FrameError, MAX_PAYLOAD, Nonce, Opener, Outcome, Sealer, Trailer, Window,
};

fn nonce() -> Nonce {
    Nonce::new(0x00c0_ffee)
}

/// Bytes that do not compress.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(next).collect()
}

/// The frames of a stream of these pieces; each piece is flushed.
fn sealed(pieces: &[Vec<u8>], outcome: Outcome) -> Vec<Vec<u8>> {
    let mut sealer = Sealer::new(&nonce(), Window::DUMP).unwrap();
    let mut wires = Vec::new();
    let mut step = |run: &mut dyn FnMut(&mut Sealer, &mut Vec<u8>)| {
        let mut wire = Vec::new();
        run(&mut sealer, &mut wire);
        wires.push(wire);
    };
    for piece in pieces {
        step(&mut |sealer, wire| sealer.push(piece, wire).unwrap());
        step(&mut |sealer, wire| sealer.flush(wire).unwrap());
        step(&mut |sealer, wire| sealer.encode(&Frame::Heartbeat, wire));
    }
    step(&mut |sealer, wire| sealer.finish(outcome, wire).unwrap());
    frames(&wires.concat())
}

/// Splits a valid stream into its frames, by the lengths in their headers.
fn frames(mut wire: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while !wire.is_empty() {
        let length = 17 + u32::from_be_bytes(wire[1..5].try_into().unwrap()) as usize;
        frames.push(wire[..length].to_vec());
        wire = &wire[length..];
    }
    frames
}

/// Reads as a receiver does: the data, if the stream is complete and only heartbeats follow.
fn read(wire: &[u8], cut_into: usize) -> Option<(Vec<u8>, Outcome)> {
    let mut decoder = FrameDecoder::new(&nonce());
    let mut opener = Opener::new(Window::DUMP).unwrap();
    let mut data = Vec::new();
    let mut end: Option<Trailer> = None;
    let mut buffer = [0; 5000];
    for chunk in wire.chunks(cut_into) {
        decoder.push(chunk);
        while let Some(frame) = decoder.next_frame().ok()? {
            match frame {
                Frame::Data(payload) if end.is_none() => {
                    opener.take(payload).ok()?;
                    loop {
                        match opener.pull(&mut buffer).ok()? {
                            0 => break,
                            length => data.extend_from_slice(&buffer[..length]),
                        }
                    }
                }
                Frame::Trailer(trailer) if end.is_none() => {
                    opener.verify(&trailer).ok()?;
                    end = Some(trailer);
                }
                Frame::Heartbeat => {}
                _ => return None,
            }
        }
    }
    end.map(|trailer| (data, trailer.outcome))
}

/// A stream of a few thousand bytes in some dozens of frames.
fn example() -> (Vec<Vec<u8>>, Vec<u8>) {
    let pieces: Vec<Vec<u8>> = (1..15_usize)
        .map(|n| if n % 3 == 0 { b"INSERT INTO stowage ".repeat(n * 40) } else { noise(n * 20, n as u32) })
        .collect();
    (sealed(&pieces, Outcome::Exited(0)), pieces.concat())
}

#[test]
fn whole_stream_is_whole_however_it_is_cut_into_chunks() {
    let (frames, data) = example();
    let wire = frames.concat();
    for cut_into in (1..200).chain([4096, wire.len()]) {
        assert_eq!(read(&wire, cut_into), Some((data.clone(), Outcome::Exited(0))), "{cut_into}");
    }
    for outcome in [Outcome::Exited(7), Outcome::Killed(9), Outcome::InputLeft] {
        assert_eq!(read(&sealed(&[], outcome).concat(), 3), Some((vec![], outcome)));
    }
}

#[test]
fn stream_cut_at_any_offset_is_not_whole() {
    let wire = example().0.concat();
    for end in 0..wire.len() {
        assert_eq!(read(&wire[..end], 1024), None, "{end} of {}", wire.len());
    }
}

#[test]
fn stream_with_any_bit_flipped_is_not_whole() {
    let mut wire = example().0.concat();
    assert!(wire.len() * 8 >= 10_000);
    for bit in 0..wire.len() * 8 {
        wire[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(read(&wire, 4096), None, "bit {bit}");
        wire[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn stream_with_frames_lost_doubled_or_moved_is_not_whole() {
    let (frames, _) = example();
    for at in 0..frames.len() {
        let mut lost = frames.clone();
        let frame = lost.remove(at);
        assert_eq!(read(&lost.concat(), 4096), None, "lost {at}");
        for to in 0..=frames.len() {
            let mut doubled = frames.clone();
            doubled.insert(to, frame.clone());
            assert_eq!(read(&doubled.concat(), 4096), None, "doubled {at} to {to}");
            if to < frames.len() && to != at {
                let mut moved = lost.clone();
                moved.insert(to, frame.clone());
                assert_eq!(read(&moved.concat(), 4096), None, "moved {at} to {to}");
            }
        }
    }
}

#[test]
fn frames_of_another_run_are_none_of_this_one() {
    let mut wire = Vec::new();
    FrameEncoder::new(&Nonce::new(1)).encode(&Frame::Go, &mut wire);
    let mut decoder = FrameDecoder::new(&nonce());
    decoder.push(&wire);
    assert_eq!(decoder.next_frame(), Err(FrameError::Changed));
    // No frame is accepted after that.
    let mut wire = Vec::new();
    FrameEncoder::new(&nonce()).encode(&Frame::Go, &mut wire);
    decoder.push(&wire);
    assert_eq!(decoder.next_frame(), Err(FrameError::Changed));
}

#[test]
fn hostile_length_is_refused_by_its_header_alone() {
    for length in [MAX_PAYLOAD as u32 + 1, u32::MAX] {
        let mut wire = vec![1];
        wire.extend(length.to_be_bytes());
        wire.extend([0; 12]);
        let mut decoder = FrameDecoder::new(&nonce());
        decoder.push(&wire);
        assert_eq!(decoder.next_frame(), Err(FrameError::Malformed));
    }
}

#[test]
fn frame_that_swells_is_pulled_in_small_pieces() {
    let data = vec![0; 50_000_000];
    let frames = sealed(std::slice::from_ref(&data), Outcome::Exited(0));
    let wire: usize = frames.iter().map(Vec::len).sum();
    assert!(wire < 20_000, "{wire}");
    assert_eq!(read(&frames.concat(), 4096), Some((data, Outcome::Exited(0))));
}

#[test]
fn second_stream_in_the_data_of_one_is_refused() {
    let data_of = |seed| match frames_of(&sealed(&[noise(100, seed)], Outcome::Exited(0)).concat()).swap_remove(0) {
        Frame::Data(data) => data,
        other => panic!("{other:?}"),
    };
    let mut sealer = Sealer::new(&nonce(), Window::DUMP).unwrap();
    let mut wire = Vec::new();
    sealer.push(&noise(100, 1), &mut wire).unwrap();
    sealer.finish(Outcome::Exited(0), &mut wire).unwrap();
    let Frame::Data(whole) = frames_of(&wire).swap_remove(0) else { panic!("no data") };
    let mut opener = Opener::new(Window::DUMP).unwrap();
    let mut buffer = [0; 1000];
    opener.take([&whole[..], &data_of(2)].concat().into()).unwrap();
    assert_eq!(opener.pull(&mut buffer).unwrap(), 100);
    opener.pull(&mut buffer).unwrap_err();
}

#[test]
fn window_closes_and_opens_with_acknowledgements() {
    let window = Window { bytes: 100_000, acknowledge_every: 50_000 };
    let mut sealer = Sealer::new(&nonce(), window).unwrap();
    let mut opener = Opener::new(window).unwrap();
    let mut wire = Vec::new();
    while sealer.has_room() {
        sealer.push(&noise(30_000, wire.len() as u32), &mut wire).unwrap();
    }
    assert!(wire.len() < 250_000);
    sealer.acknowledged(u64::MAX).unwrap_err();
    let mut due = None;
    let mut buffer = [0; 4096];
    for frame in frames_of(&wire) {
        let Frame::Data(data) = frame else { panic!("not data") };
        opener.take(data).unwrap();
        while opener.pull(&mut buffer).unwrap() > 0 {}
        due = opener.due().or(due);
    }
    sealer.acknowledged(due.unwrap()).unwrap();
    assert!(sealer.has_room());
    sealer.acknowledged(due.unwrap() - 1).unwrap_err();
}

fn frames_of(wire: &[u8]) -> Vec<Frame> {
    let mut decoder = FrameDecoder::new(&nonce());
    decoder.push(wire);
    std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
}

#[test]
fn every_frame_is_decoded_as_it_was_encoded() {
    let trailer = Trailer { bytes: u64::MAX, digest: [9; 32], outcome: Outcome::InputLeft };
    let faults = [Fault::Corrupt, Fault::Silence, Fault::Cancelled, Fault::Continued, Fault::Internal, Fault::HeldOpen]
        .map(Frame::Fault);
    let sent = [
        Frame::Data(noise(MAX_PAYLOAD, 1).into()),
        Frame::Heartbeat,
        Frame::Trailer(trailer),
        Frame::Acknowledge(1 << 40),
        Frame::Got,
        Frame::Go,
        Frame::Stdout("NOTICE".into()),
        Frame::Stderr("WARNING".into()),
        Frame::Ended(Outcome::Killed(15)),
        Frame::Done,
    ];
    let sent: Vec<Frame> = sent.into_iter().chain(faults).collect();
    let mut encoder = FrameEncoder::new(&nonce());
    let mut wire = Vec::new();
    for frame in &sent {
        encoder.encode(frame, &mut wire);
    }
    assert_eq!(frames_of(&wire), sent);
    // A long payload is split into several frames, and an empty one needs no frame.
    let mut wire = Vec::new();
    let mut encoder = FrameEncoder::new(&nonce());
    encoder.encode(&Frame::Stdout(vec![1; MAX_PAYLOAD + 1].into()), &mut wire);
    encoder.encode(&Frame::Stdout(vec![].into()), &mut wire);
    assert_eq!(frames_of(&wire).len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_no_stream(wire in prop::collection::vec(any::<u8>(), 0..300), cut_into in 1_usize..50) {
        prop_assert_eq!(read(&wire, cut_into), None);
    }

    #[test]
    fn valid_headers_with_arbitrary_payloads_are_no_stream(
        sent in prop::collection::vec((1_u8..11, prop::collection::vec(any::<u8>(), 0..60)), 0..6),
    ) {
        let mut encoder = FrameEncoder::new(&nonce());
        let mut wire = Vec::new();
        for (kind, payload) in sent {
            match kind {
                1 => encoder.encode(&Frame::Data(payload.into()), &mut wire),
                3 => encoder.encode(
                    &Frame::Trailer(Trailer { bytes: payload.len() as u64, digest: [0; 32], outcome: Outcome::Exited(0) }),
                    &mut wire,
                ),
                _ => encoder.encode(&Frame::Stdout(payload.into()), &mut wire),
            }
        }
        prop_assert_eq!(read(&wire, 64), None);
    }

    #[test]
    fn mangled_streams_are_never_whole(
        at in any::<prop::sample::Index>(), length in 0_usize..40, with in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (frames, _) = example();
        let wire = frames.concat();
        let at = at.index(wire.len());
        let mut mangled = wire.clone();
        mangled.splice(at..(at + length).min(wire.len()), with);
        if mangled != wire {
            prop_assert_eq!(read(&mangled, 4096), None);
        }
    }
}
