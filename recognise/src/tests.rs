//! Complete samples are recognised as complete, and each prefix of them as truncated or as unknown, however the bytes
//! are split into chunks.
//!
//! `samples` was written by `PostgreSQL` 15, GNU tar, gzip, zstd, xz, bzip2, lz4, Info-ZIP's zip and `SQLite` 3.
//! Samples which are made here follow the sources which the modules name.

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::io::Write;

use super::*;

mod compressed;
mod preamble;
mod several;

fn recognise(parts: &[&[u8]]) -> Option<Recognised> {
    let mut recogniser = Recogniser::default();
    for part in parts {
        recogniser.push(part);
    }
    recogniser.finish()
}

fn of(bytes: &[u8]) -> Option<Recognised> {
    recognise(&[bytes])
}

fn end_of(bytes: &[u8]) -> Option<FormatEnd> {
    of(bytes).map(|recognised| recognised.end)
}

fn is_missing(bytes: &[u8]) -> bool {
    matches!(end_of(bytes), Some(FormatEnd::Missing(_)))
}

const PG_DUMP: &[u8] = include_bytes!("samples/pg_dump.sql");
const CLUSTER: &[u8] = include_bytes!("samples/pg_dumpall.sql");
const CUSTOM: &[u8] = include_bytes!("samples/pg_dump.custom");
const XZ: &[u8] = include_bytes!("samples/a.xz");
const ZSTD: &[u8] = include_bytes!("samples/a.zst");
const GZIP: &[u8] = include_bytes!("samples/two_members.gz");
const USTAR: &[u8] = include_bytes!("samples/ustar.tar");
const SQLITE: &[u8] = include_bytes!("samples/database.sqlite");
const SQLITE_DUMP: &[u8] = include_bytes!("samples/sqlite_dump.sql");
const BZIP2: &[u8] = include_bytes!("samples/pg_dump.sql.bz2");
const LZ4: &[u8] = include_bytes!("samples/pg_dump.sql.lz4");
const XZ_DUMP: &[u8] = include_bytes!("samples/pg_dump.sql.xz");
const ZIP: &[u8] = include_bytes!("samples/stream.zip");

/// The ends of the first frame and the first member of these samples. The bytes up to there are complete.
fn is_end_of_part(sample: &[u8], length: usize) -> bool {
    let magic: &[u8] = if sample == ZSTD { &[0x28, 0xb5, 0x2f, 0xfd] } else { &[0x1f, 0x8b, 8] };
    [ZSTD, GZIP].contains(&sample) && sample[length..].starts_with(magic)
}

fn mysqldump(first: &str) -> Vec<u8> {
    let text = "--\n-- Host: localhost    Database: shop\n-- ------------------------------------------------------\n\
        -- Server version\t8.0.36\n\n/*!40101 SET NAMES utf8mb4 */;\nINSERT INTO `t` VALUES (1,'a\\n-- Dump completed');\n\
        -- Dump completed on 2026-05-04  3:02:01\n";
    format!("{first}{text}").into_bytes()
}

fn document(elements: &[u8]) -> Vec<u8> {
    let length = u32::try_from(elements.len() + 5).unwrap();
    [&length.to_le_bytes()[..], elements, &[0]].concat()
}

fn block(collection: &str, is_last: bool) -> Vec<u8> {
    let text = |key: &str, value: &str| {
        let length = u32::try_from(value.len() + 1).unwrap().to_le_bytes();
        [b"\x02", key.as_bytes(), b"\0", &length, value.as_bytes(), b"\0"].concat()
    };
    let rest = [&b"\x08EOF\0"[..], &[u8::from(is_last)], b"\x12CRC\0", &[7; 8]].concat();
    document(&[text("db", "shop"), text("collection", collection), rest].concat())
}

fn mongodump() -> Vec<u8> {
    const TERMINATOR: &[u8] = &[0xff; 4];
    let item = document(b"\x10a\0\x01\0\0\0");
    let prelude =
        [&[0x6d, 0xe2, 0x99, 0x81][..], &document(b"\x02version\0\x04\0\0\x000.1\0"), &item, TERMINATOR].concat();
    let blocks = [
        [block("ships", false), item.clone(), item.clone()].concat(),
        [block("ports", false), item.clone()].concat(),
        block("ships", true),
        block("ports", true),
    ];
    blocks.iter().fold(prelude, |archive, block| [&archive[..], block, TERMINATOR].concat())
}

/// A file of Redis 7 with one key, with or without its checksum.
fn redis(has_sum: bool) -> Vec<u8> {
    let mut file =
        b"REDIS0011\xfa\x09redis-ver\x057.2.4\xfa\x08aof-base\xc0\0\xfe\0\xfb\x01\0\0\x01k\x01v\xff".to_vec();
    let mut sum = 0_u64;
    for byte in &file {
        for bit in 0..8 {
            let is_set = (sum ^ u64::from(byte >> bit)) & 1 == 1;
            sum = if is_set { sum >> 1 ^ 0x95ac_9329_ac4b_c9b5 } else { sum >> 1 };
        }
    }
    file.extend_from_slice(&if has_sum { sum } else { 0 }.to_le_bytes());
    file
}

/// A database of so many pages of 512 bytes, of which three are used.
fn bbolt(pages: usize) -> Vec<u8> {
    let mut database = vec![0; pages * 512];
    for page in 0..2_u8 {
        let mut meta = Vec::new();
        for number in [0xed0c_daed_u32, 2, 512, 0] {
            meta.extend_from_slice(&number.to_le_bytes());
        }
        // The root and its sequence, the free list, the page count, the transaction id.
        for number in [2, 0, 2, 3, u64::from(page)] {
            meta.extend_from_slice(&number.to_le_bytes());
        }
        let fnv = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        let sum = meta.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
        meta.extend_from_slice(&sum.to_le_bytes());
        let at = usize::from(page) * 512 + 16;
        database[at..at + 64].copy_from_slice(&meta);
    }
    database
}

fn snapshot(pages: usize) -> Vec<u8> {
    let database = bbolt(pages);
    let digest = Sha256::digest(&database);
    [&database[..], &digest].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// All samples, each with the name of its format.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("PostgreSQL dump", PG_DUMP.to_vec()),
        ("PostgreSQL cluster dump", CLUSTER.to_vec()),
        ("PostgreSQL dump (custom format)", CUSTOM.to_vec()),
        ("PostgreSQL dump (custom format)", include_bytes!("samples/pg_dump_schema.custom").to_vec()),
        ("PostgreSQL dump (custom format)", include_bytes!("samples/pg_dump_seekable.custom").to_vec()),
        ("PostgreSQL dump in gzip", include_bytes!("samples/pg_dump.sql.gz").to_vec()),
        ("PostgreSQL dump in Zstandard", include_bytes!("samples/pg_dump.sql.zst").to_vec()),
        ("PostgreSQL dump (custom format) in gzip", gzip(CUSTOM)),
        ("gzip in gzip", gzip(&gzip(b"twice"))),
        ("gzip", GZIP.to_vec()),
        ("Zstandard", ZSTD.to_vec()),
        ("xz", XZ.to_vec()),
        ("xz", include_bytes!("samples/pg_dump_9.sql.xz").to_vec()),
        ("xz", include_bytes!("samples/filtered.xz").to_vec()),
        ("PostgreSQL dump in xz", XZ_DUMP.to_vec()),
        ("PostgreSQL dump in bzip2", BZIP2.to_vec()),
        ("PostgreSQL dump in LZ4", LZ4.to_vec()),
        ("zip archive", ZIP.to_vec()),
        ("zip archive", include_bytes!("samples/large.zip").to_vec()),
        ("zip archive", include_bytes!("samples/comment.zip").to_vec()),
        ("SQLite dump", SQLITE_DUMP.to_vec()),
        ("tar archive", USTAR.to_vec()),
        ("tar archive", include_bytes!("samples/gnu.tar").to_vec()),
        ("tar archive", include_bytes!("samples/pax.tar").to_vec()),
        ("MySQL or MariaDB dump", mysqldump("-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)\n")),
        (
            "MySQL or MariaDB dump",
            mysqldump("/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19-11.4.2\n"),
        ),
        ("mongodump archive", mongodump()),
        ("Redis RDB file", redis(true)),
        ("Redis RDB file", redis(false)),
        ("SQLite database", SQLITE.to_vec()),
        ("etcd snapshot", snapshot(4)),
    ]
}

#[test]
fn whole_samples_are_whole() {
    for (format, sample) in samples() {
        let expected = Recognised { format: format.to_owned(), end: FormatEnd::Whole };
        assert_eq!(of(&sample), Some(expected), "{format}");
    }
    assert_eq!(end_of(include_bytes!("samples/sparse.tar")), Some(FormatEnd::Whole));
}

#[test]
fn beginning_of_a_sample_is_never_called_whole() {
    for (format, sample) in samples() {
        let mut cut = 0;
        for length in 0..sample.len() {
            let begin = &sample[..length];
            match end_of(begin) {
                None => assert_eq!(cut, 0, "{format}: known at {cut} bytes, and unknown at {length}"),
                Some(FormatEnd::Missing(_)) => cut = length,
                Some(FormatEnd::Empty) => panic!("{format}: {length}"),
                // The used pages are all there, and a database without a SHA-256 is not a snapshot.
                Some(FormatEnd::Unknown) => {
                    assert!(format == "etcd snapshot" && length % 512 == 0, "{format}: {length}");
                }
                Some(FormatEnd::Whole) => {
                    let (left, is_tar) = (&sample[length..], format == "tar archive");
                    // Only the rest of the end is missing: empty blocks, other text, further parts.
                    let is_end = is_tar && length % 512 == 0 && left.iter().all(|byte| *byte == 0)
                        || is_tar && left.len() < 512
                        || format.ends_with(" dump")
                            && !left.windows(13).any(|text| text == b"dump complete")
                            && begin.windows(13).any(|text| text == b"dump complete")
                        || format.starts_with("MySQL") && b" on 2026-05-04  3:02:01\n".ends_with(left)
                        || format == "SQLite dump" && left == b"\n"
                        || is_end_of_part(&sample, length);
                    assert!(is_end, "{format}: {length} of {} bytes", sample.len());
                }
            }
        }
        assert!(cut > 0, "{format}");
    }
    let sparse = include_bytes!("samples/sparse.tar");
    for length in (512..sparse.len() - 20 * 512).step_by(131) {
        assert!(is_missing(&sparse[..length]), "{length}");
    }
}

#[test]
fn truncated_content_of_a_compressed_stream_is_noticed() {
    // The command before gzip failed, and gzip itself ended well.
    for (inner, length) in [(PG_DUMP, 2000), (CUSTOM, 3000), (USTAR, 1024), (SQLITE, 512), (CLUSTER, 5000)] {
        assert!(is_missing(&gzip(&inner[..length])), "{length}");
        let compressed = ::zstd::encode_all(&inner[..length], 3).unwrap();
        assert!(is_missing(&compressed), "{length}");
        assert_eq!(end_of(&::zstd::encode_all(inner, 3).unwrap()), Some(FormatEnd::Whole));
    }
}

#[test]
fn compression_of_nothing_is_empty() {
    let xz = [&XZ[..12], b"\0\0\0\0\x1c\xdf\x44\x21\x1f\xb6\xf3\x7d\x01\0\0\0\0\x04YZ"].concat();
    for stream in [gzip(b""), [gzip(b""), gzip(b"")].concat(), ::zstd::encode_all(&b""[..], 3).unwrap(), xz] {
        assert_eq!(end_of(&stream), Some(FormatEnd::Empty), "{stream:?}");
        assert!(is_missing(&stream[..stream.len() - 1]), "{stream:?}");
    }
    assert_eq!(end_of(&[gzip(b""), gzip(b"x")].concat()), Some(FormatEnd::Whole));
}

#[test]
fn cut_is_the_same_for_every_size_of_pieces() {
    for (format, sample) in samples() {
        for length in [sample.len(), sample.len() / 2] {
            let once = of(&sample[..length]);
            for size in [1, 7, 100] {
                let parts: Vec<&[u8]> = sample[..length].chunks(size).collect();
                assert_eq!(recognise(&parts), once, "{format} in pieces of {size}");
            }
        }
    }
}

#[test]
fn bytes_after_the_end_change_nothing() {
    for (format, sample) in samples() {
        let text = [&sample[..], b"\ndone\n"].concat();
        // Without its checksum a file of Redis ends with zeros, which may occur anywhere.
        if sample != redis(false) {
            assert_eq!(end_of(&text), Some(FormatEnd::Whole), "{format}, and text");
        }
        assert_eq!(end_of(&[&sample[..], &sample].concat()), Some(FormatEnd::Whole), "{format} twice");
    }
}

#[test]
fn streams_without_an_unmistakable_beginning_are_left_alone() {
    let append_only = [&b"REDIS0011\xfa\x08aof-base\xc0\x01\xfe\0"[..], b"*1\r\n$4\r\nPING\r\n"].concat();
    for stream in [
        &b""[..],
        b"SELECT 1;\n-- PostgreSQL database dump\n",
        b"-- Dump of a table\n",
        b"REDIS is a database",
        b"PGDM",
        b"SQLite format 3",
        b"\x1f\x8b\x07\x00",
        b"(\xb5/\xfd\xff rest",
        b"BZh is a text",
        b"BZh9 is one too",
        b"\x04\x22\x4d\x18\x64\x40\x00 has another checksum",
        b"PK\x03\x04 is no header of a member, because its version is not known",
        b"PRAGMA foreign_keys=OFF;\nSELECT 1;\n",
        &[0; 2048],
        &USTAR[1..],
    ] {
        assert_eq!(of(stream), None, "{stream:?}");
    }
    let unknown = Some(FormatEnd::Unknown);
    assert_eq!(end_of(&append_only), unknown);
    assert_eq!(end_of(&bbolt(4)), unknown, "the file of a running etcd");
    assert_eq!(end_of(b"PGDMP\x01\x05\x00\x04\x08\x01 a version that is not known"), unknown);
    // A member's header without a length.
    let lost = [&USTAR[..1024], &[b'x'; 512]].concat();
    assert_eq!(end_of(&lost), unknown);
    // Its writer did not update the page count.
    let mut old = SQLITE[..600].to_vec();
    old[95] ^= 1;
    assert_eq!(end_of(&old), unknown);
}

#[test]
fn damage_in_compressed_data_is_noticed() {
    let ends = [(GZIP.len() - 6, GZIP), (XZ_DUMP.len() - 16, XZ_DUMP), (XZ_DUMP.len() - 90, XZ_DUMP), (120, XZ)];
    for (at, sample) in [(300, GZIP), (300, ZSTD), (300, BZIP2), (300, LZ4), (20, XZ_DUMP)].into_iter().chain(ends) {
        let mut damaged = sample.to_vec();
        damaged[at] ^= 0x55;
        assert!(is_missing(&damaged), "{at}: {:?}", of(&damaged));
    }
}

#[test]
fn frames_that_would_need_much_memory_are_walked_only() {
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&PG_DUMP[..2000]).unwrap();
    let stream = encoder.finish().unwrap();
    assert_eq!(of(&stream), Some(Recognised { format: "Zstandard".to_owned(), end: FormatEnd::Whole }));
    assert!(is_missing(&stream[..stream.len() - 1]));
}

proptest! {
    #[test]
    fn any_bytes_are_taken(
        which in 0..34_usize,
        keep in 0..5000_usize,
        noise in proptest::collection::vec(any::<u8>(), 0..2000),
        size in 1..3000_usize,
    ) {
        let samples = samples();
        let begin = samples.get(which).map_or(&[][..], |(_, sample)| &sample[..keep.min(sample.len())]);
        let stream = [begin, &noise].concat();
        let parts: Vec<&[u8]> = stream.chunks(size).collect();
        prop_assert_eq!(recognise(&parts), of(&stream));
    }
}
