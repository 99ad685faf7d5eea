//! Reads a file's content without reading its holes, which are returned as zeros. If the file system does not report
//! holes, the file is read as if it had none.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
};

use rustix::{fs::SeekFrom, io::Errno};

/// The unit of `st_blocks` in stat(2), independent of the file system's block size.
const BLOCK_BYTES: u64 = 512;

/// An open file, and its current extent.
pub(super) struct Extents<'a> {
    file: &'a File,
    /// The end of the current extent.
    until: u64,
    is_hole: bool,
}

/// How a buffer was filled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Filled {
    /// Bytes read from the file; 0 at its end.
    Data(usize),
    /// Zeros of a hole.
    Hole(usize),
}

impl<'a> Extents<'a> {
    pub fn new(file: &'a File, size: u64) -> Self {
        // As in cp and tar: a file without missing blocks is not searched for holes, so that an error of the file
        // system in SEEK_HOLE cannot do harm.
        let may_have_holes = file.metadata().is_ok_and(|found| found.blocks() < size.div_ceil(BLOCK_BYTES));
        Self { file, until: if may_have_holes { 0 } else { u64::MAX }, is_hole: false }
    }

    /// Fills the buffer, or a part of it, from this offset. Offsets must not decrease.
    pub fn read_at(&mut self, buffer: &mut [u8], at: u64) -> io::Result<Filled> {
        if at >= self.until {
            self.find_extent(at)?;
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

    /// Finds the extent at this offset.
    fn find_extent(&mut self, at: u64) -> io::Result<()> {
        (self.until, self.is_hole) = match rustix::fs::seek(self.file, SeekFrom::Data(at)) {
            Ok(data) if data > at => (data, true),
            Ok(_) => match rustix::fs::seek(self.file, SeekFrom::Hole(at)) {
                Ok(hole) if hole > at => (hole, false),
                _ => (u64::MAX, false),
            },
            // No data follows: either a hole up to the end of the file, or the offset is past the end, which the next
            // read shows. A file system whose server knows a shorter file than its client has no hole there, so the
            // last byte must be readable.
            Err(Errno::NXIO) => {
                let end = self.file.metadata()?.size();
                let is_hole = end > at && self.file.read_at(&mut [0], end - 1)? > 0;
                if is_hole { (end, true) } else { (u64::MAX, false) }
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

    /// Returns the content, and how many bytes of it were read from the file.
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
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sparse");
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(path).unwrap();
        file.set_len(size).unwrap();
        for (at, content) in pieces {
            file.write_all_at(content, *at as u64).unwrap();
        }
        (directory, file)
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
            let (_directory, file) = sparse(pieces, SIZE as u64);
            let (content, read) = read_all(&file, SIZE as u64);
            let mut expected = vec![0; SIZE];
            for (at, piece) in pieces {
                expected[*at..][..piece.len()].copy_from_slice(piece);
            }
            assert!(content == expected, "{pieces:?}");
            // A block of a file system may have 64 KiB.
            assert!(read <= pieces.len() * 2 * 65536, "{read} bytes were read: {pieces:?}");
        }
    }

    #[test]
    fn file_that_shrinks_ends_where_it_ends_now() {
        let (_directory, file) = sparse(&[(0, b"begin")], 4 << 20);
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
        let (_directory, file) = sparse(&[(0, &vec![0; 100_000])], 100_000);
        assert_eq!(read_all(&file, 100_000), (vec![0; 100_000], 100_000));
    }
}
