//! Looks at a stream on its way to the repository: one whose format is known, and whose end is missing, is not stored.
//!
//! It must not know formats; `recognise` does.

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::info;

use crate::{
    model::{Failure, Reason},
    recognise::{FormatEnd, Recognised, Recogniser},
    stream::{Piece, pieces},
};

/// Passes what comes to the receiver that it gives, and puts a failure in the place of the end of a stream that was cut.
/// The look is taken in a thread of its own, beside what stores the stream.
pub(super) fn check_format(mut from: mpsc::Receiver<Piece>, allow_empty: bool) -> mpsc::Receiver<Piece> {
    let (to, checked) = pieces();
    tokio::task::spawn_blocking(move || {
        let mut recogniser = Some(Recogniser::default());
        while let Some(piece) = from.blocking_recv() {
            let bytes = if let Piece::Data(bytes) = &piece { bytes.clone() } else { Bytes::new() };
            let piece = match piece {
                Piece::End(end) => match verdict(recogniser.take(), allow_empty) {
                    Some(failure) => Piece::Broken(failure),
                    None => Piece::End(end),
                },
                piece => piece,
            };
            // The store begins with it at once.
            if to.blocking_send(piece).is_err() {
                return;
            }
            if let Some(recogniser) = &mut recogniser {
                recogniser.push(&bytes);
            }
        }
    });
    checked
}

/// Why the stream is not to be stored; logs what is known of others.
fn verdict(recogniser: Option<Recogniser>, allow_empty: bool) -> Option<Failure> {
    let Recognised { format, end } = recogniser?.finish()?;
    let what = match end {
        FormatEnd::Whole => {
            info!(format, "the output is {format}, and its end is there");
            return None;
        }
        FormatEnd::Unknown => {
            info!(format, "the output is {format}; whether it is whole cannot be seen from it");
            return None;
        }
        FormatEnd::Empty if allow_empty => return None,
        FormatEnd::Empty => {
            let message = format!(
                "the command exited 0, and nothing is in the {format} that it wrote: a command before the compression failed \
                 or wrote nothing, see stderr; nothing was stored (allow-empty lets that pass)"
            );
            return Some(Failure::new(Reason::EmptyStream, message));
        }
        FormatEnd::Missing(what) => what,
    };
    let message = format!(
        "the command exited 0, and its output is not whole: its format is {format}, and {what}; nothing was stored. See stderr for \
         what stopped the command; output that is meant to be so is stored with the annotation stowaway.dev/format-check: \
         \"false\" (--no-format-check without a cluster)"
    );
    Some(Failure::new(Reason::Truncated, message))
}
