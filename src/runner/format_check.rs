//! Checks the format of a stream on its path to the repository. A stream of a known format without the end of that
//! format is not stored.

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::info;

use crate::{
    model::{Failure, Reason},
    recognise::{FormatEnd, Recognised, Recogniser},
    stream::{StreamItem, pieces},
};

/// Forwards the stream to the returned receiver, and replaces the end of a truncated stream by a failure. The check
/// runs in a thread of its own, in parallel to the storing of the stream.
pub(super) fn check_format(mut from: mpsc::Receiver<StreamItem>, allow_empty: bool) -> mpsc::Receiver<StreamItem> {
    let (to, checked) = pieces();
    tokio::task::spawn_blocking(move || {
        let mut recogniser = Some(Recogniser::default());
        while let Some(piece) = from.blocking_recv() {
            let bytes = if let StreamItem::Data(bytes) = &piece { bytes.clone() } else { Bytes::new() };
            let piece = match piece {
                StreamItem::End(end) => match verdict(recogniser.take(), allow_empty) {
                    Some(failure) => StreamItem::Broken(failure),
                    None => StreamItem::End(end),
                },
                piece => piece,
            };
            // Forwarded before the check, so that the store is not delayed.
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

/// Why the stream must not be stored; logs the format of other streams.
fn verdict(recogniser: Option<Recogniser>, allow_empty: bool) -> Option<Failure> {
    let Recognised { format, end } = recogniser?.finish()?;
    let what = match end {
        FormatEnd::Whole => {
            info!(format, "the output is {format} and complete");
            return None;
        }
        FormatEnd::Unknown => {
            info!(format, "the output is {format}, which does not show whether it is complete");
            return None;
        }
        FormatEnd::Empty if allow_empty => return None,
        FormatEnd::Empty => {
            let message = format!(
                "the command exited 0, but the {format} which it wrote is empty: a command before the compression \
                 failed or wrote nothing, see stderr; nothing was stored (allow-empty accepts an empty stream)"
            );
            return Some(Failure::new(Reason::EmptyStream, message));
        }
        FormatEnd::Missing(what) => what,
    };
    let message = format!(
        "the command exited 0, but its output is not complete: its format is {format}, and {what}; nothing was \
         stored. See stderr for what stopped the command; to store such output on purpose, set the annotation \
         stowaway.dev/format-check: \"false\" (--no-format-check without a cluster)"
    );
    Some(Failure::new(Reason::Truncated, message))
}
