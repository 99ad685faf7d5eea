//! Partial files, which have a name of their own until they are complete, and the content of a local file as a stream.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::task::spawn_blocking;

/// How many bytes of a local file are read at once.
const PIECE_BYTES: u64 = 4 << 20;

/// Reads the content of a local file as a stream.
pub(super) fn pieces_of(content: &Arc<File>, size: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let content = Arc::clone(content);
    stream::try_unfold(0, move |at| {
        let content = Arc::clone(&content);
        async move {
            let length = usize::try_from((size - at).min(PIECE_BYTES)).map_err(io::Error::other)?;
            if length == 0 {
                return Ok(None);
            }
            let read = spawn_blocking(move || {
                let mut piece = vec![0; length];
                content.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece))
            });
            let piece = read.await.map_err(io::Error::other)??;
            Ok(Some((piece, at + length as u64)))
        }
    })
}

/// Returns the path of a partial file, in the folder of the final file. The name is random, so that it differs from
/// those which killed processes have left; a PID would not do, because it is the same in every pod.
pub(super) fn partial_path(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let separator = if folder.is_empty() { "" } else { "/" };
    format!("{folder}{separator}.{name}-{:016x}.part", rand::random::<u64>())
}

/// Returns the final name of a partial file, or none if the name is not that of a partial file. Both names are without
/// a folder.
pub(super) fn final_name(partial: &str) -> Option<&str> {
    let (name, random) = partial.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('-')?;
    let is_partial = random.len() == 16 && random.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_partial.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_file_is_in_the_folder_of_the_final_file() {
        for (path, beginning) in [("a.tar", ".a.tar-"), ("shop/data/a.tar", "shop/data/.a.tar-")] {
            let partial = partial_path(path);
            let rest = partial.strip_prefix(beginning).and_then(|rest| rest.strip_suffix(".part"));
            assert_eq!(rest.map(str::len), Some(16), "{partial}");
        }
    }

    #[test]
    fn only_partial_files_are_recognised_by_their_names() {
        for name in ["config", "ab12", "a-b.tar"] {
            assert_eq!(final_name(&partial_path(name)), Some(name));
        }
        for other in [
            "ab12",
            "ab12-tmp-1234567890",
            ".ab12.part",
            ".ab12-0123456789abcde.part",
            ".ab12-0123456789abcdeg.part",
            ".ab12-0123456789ABCDEF.part",
            "ab12-0123456789abcdef.part",
            ".ab12-0123456789abcdef",
            ".nfs00000000012345",
        ] {
            assert_eq!(final_name(other), None, "{other}");
        }
    }
}
