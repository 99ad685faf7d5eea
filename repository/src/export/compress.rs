//! The formats of archives: compresses the stream, or passes it on unchanged. Each format is a single stream, with a
//! checksum of its own if the format supports that.

use std::io::{self, Write};

use flate2::{Compression, write::GzEncoder};
use lz4_flex::frame::{BlockMode, FrameEncoder, FrameInfo};

use stowaway_model::ArchiveFormat;

/// Compresses what is written.
pub(super) enum Compressor<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Lz4(Box<FrameEncoder<W>>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    pub fn new(format: ArchiveFormat, output: W) -> io::Result<Self> {
        Ok(match format {
            ArchiveFormat::Tar => Self::Plain(output),
            ArchiveFormat::TarGzip => Self::Gzip(GzEncoder::new(output, Compression::default())),
            ArchiveFormat::TarLz4 => {
                let frame = FrameInfo::new().block_mode(BlockMode::Linked).content_checksum(true);
                Self::Lz4(Box::new(FrameEncoder::with_frame_info(frame, output)))
            }
            ArchiveFormat::TarZstd => {
                let mut encoder = zstd::Encoder::new(output, zstd::DEFAULT_COMPRESSION_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Writes the end of the stream, without which the archive is incomplete.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(output) => Ok(output),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(output) => output.write(content),
            Self::Gzip(encoder) => encoder.write(content),
            Self::Lz4(encoder) => encoder.write(content),
            Self::Zstd(encoder) => encoder.write(content),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(output) => output.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Lz4(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}
