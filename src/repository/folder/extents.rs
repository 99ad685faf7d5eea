//! A file's content with its holes, which are zeros and are not read.
//!
//! A file system that says nothing of holes has none. It must not know where the content goes.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
};

use rustix::{fs::SeekFrom, io::Errno};

/// What stat(2) counts blocks in, whatever those of the file system are.
const BLOCK_BYTES: u64 = 512;

/// An open file, and what is known of its extents.
pub(super) struct Extents<'a> {
    file: &'a File,
    /// Where the extent ends that was asked about last.
    until: u64,
    is_hole: bool,
}

/// Bytes that were put into a buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Filled {
    /// So many were read; none at the file's end.
    Data(usize),
    /// So many are of a hole.
    Hole(usize),
}

impl<'a> Extents<'a> {
    pub fn new(file: &'a File, size: u64) -> Self {
        // As cp and tar have it: whoever has all of its blocks is not asked, so that an error of the file system in this can
        // do no harm to it.
        let may_have_holes = file.metadata().is_ok_and(|found| found.blocks() < size.div_ceil(BLOCK_BYTES));
        Self { file, until: if may_have_holes { 0 } else { u64::MAX }, is_hole: false }
    }

    /// Reads some of what is at this place of the file. Never goes back.
    pub fn read_at(&mut self, buffer: &mut [u8], at: u64) -> io::Result<Filled> {
        if at >= self.until {
            self.ask(at)?;
        }
        let left = usize::try_from(self.until - at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let buffer = &mut buffer[..length];
        if self.is_hole {
            buffer.fill(0);
            return Ok(Filled::Hole(buffer.len()));
        }
        self.file.read_at(buffer, at).map(Filled::Data)
    }

    /// Finds out what is there.
    fn ask(&mut self, at: u64) -> io::Result<()> {
        (self.until, self.is_hole) = match rustix::fs::seek(self.file, SeekFrom::Data(at)) {
            Ok(data) if data > at => (data, true),
            Ok(_) => match rustix::fs::seek(self.file, SeekFrom::Hole(at)) {
                Ok(hole) if hole > at => (hole, false),
                _ => (u64::MAX, false),
            },
            // No data follows: a hole up to the end, or behind it. What is there then is said by a read.
            Err(Errno::NXIO) => {
                let end = self.file.metadata()?.size();
                if end > at { (end, true) } else { (u64::MAX, false) }
            }
            Err(_) => (u64::MAX, false),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    /// The content, and how much of it was read.
    fn read_all(file: &File, size: u64) -> (Vec<u8>, usize) {
        let mut extents = Extents::new(file, size);
        let (mut content, mut read) = (Vec::new(), 0);
        let mut buffer = vec![7; 300_000];
        while (content.len() as u64) < size {
            let length = match extents.read_at(&mut buffer, content.len() as u64).unwrap() {
                Filled::Data(0) => break,
                Filled::Data(length) => {
                    read += length;
                    length
                }
                Filled::Hole(length) => length,
            };
            content.extend_from_slice(&buffer[..length]);
        }
        (content, read)
    }

    fn sparse(pieces: &[(usize, &[u8])], size: u64) -> (tempfile::TempDir, File) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("sparse");
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(path).unwrap();
        file.set_len(size).unwrap();
        for (at, content) in pieces {
            file.write_all_at(content, *at as u64).unwrap();
        }
        (place, file)
    }

    #[test]
    fn holes_are_zeros_that_are_not_read() {
        const SIZE: usize = (40 << 20) + 1;
        for pieces in [
            &[][..],
            &[(0, b"begin".as_slice())],
            &[(10 << 20, b"middle"), (30 << 20, b"more")],
            &[(0, b"begin"), (SIZE - 3, b"end")],
        ] {
            let (_place, file) = sparse(pieces, SIZE as u64);
            let (content, read) = read_all(&file, SIZE as u64);
            let mut expected = vec![0; SIZE];
            for (at, piece) in pieces {
                expected[*at..][..piece.len()].copy_from_slice(piece);
            }
            assert!(content == expected, "{pieces:?}");
            // A block of a file system may be 64 KiB.
            assert!(read <= pieces.len() * 2 * 65536, "{read} bytes were read: {pieces:?}");
        }
    }

    #[test]
    fn file_that_shrinks_ends_where_it_ends_now() {
        let (_place, file) = sparse(&[(0, b"begin")], 4 << 20);
        let mut extents = Extents::new(&file, 4 << 20);
        let mut buffer = [1; 4096];
        assert_eq!(extents.read_at(&mut buffer, 0).unwrap(), Filled::Data(4096));
        file.set_len(8192).unwrap();
        let hole = extents.read_at(&mut buffer, 4096).unwrap();
        assert!(matches!(hole, Filled::Hole(4096) | Filled::Data(4096)), "{hole:?}");
        assert_eq!(extents.read_at(&mut buffer, 8192).unwrap(), Filled::Data(0));
    }

    #[test]
    fn file_without_holes_is_read_whole() {
        let (_place, file) = sparse(&[(0, &vec![0; 100_000])], 100_000);
        assert_eq!(read_all(&file, 100_000), (vec![0; 100_000], 100_000));
    }
}
