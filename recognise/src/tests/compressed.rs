//! Compressed streams: what is inside of them is judged, and each of their parts has to be whole.

use super::*;

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lz4(bytes: &[u8], mode: lz4_flex::frame::BlockMode) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_mode(mode)
        .block_size(lz4_flex::frame::BlockSize::Max64KB)
        .block_checksums(true)
        .content_checksum(true);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn linked(bytes: &[u8]) -> Vec<u8> {
    lz4(bytes, lz4_flex::frame::BlockMode::Linked)
}

fn independent(bytes: &[u8]) -> Vec<u8> {
    lz4(bytes, lz4_flex::frame::BlockMode::Independent)
}

/// A dump which is longer than the blocks of LZ4 and bzip2.
fn long_dump() -> Vec<u8> {
    let mut rows = Vec::new();
    for number in 0..12_000_u32 {
        writeln!(rows, "{number}\tship {}", number.wrapping_mul(2_654_435_761)).unwrap();
    }
    let copy = PG_DUMP.windows(9).position(|text| text == b"FROM stdi").unwrap();
    let (begin, end) = PG_DUMP.split_at(copy + 12);
    [begin, &rows, end].concat()
}

#[test]
fn content_of_every_compression_is_judged() {
    let (long, cut) = (long_dump(), include_bytes!("../samples/pg_dump_cut.sql.xz"));
    let long_cut = &long[..long.len() - 100];
    for compress in [gzip, bzip2, linked, independent] {
        for (content, end) in [(PG_DUMP, FormatEnd::Whole), (&long, FormatEnd::Whole), (b"", FormatEnd::Empty)] {
            assert_eq!(end_of(&compress(content)), Some(end), "{} bytes", content.len());
        }
        assert!(is_missing(&compress(&SQLITE[..512])));
        for content in [&PG_DUMP[..2000], long_cut, &CUSTOM[..3000], &USTAR[..1024]] {
            assert!(is_missing(&compress(content)), "{} bytes", content.len());
            // The content of all parts is one stream.
            assert!(is_missing(&[compress(content), compress(content)].concat()), "{} bytes", content.len());
        }
        let parts = [compress(&long[..70_000]), compress(b""), compress(&long[70_000..])].concat();
        assert_eq!(end_of(&parts), Some(FormatEnd::Whole));
        assert!(is_missing(&compress(&long)[..70_000]));
        assert!(is_missing(&compress(&long[..70_000])));
        // One level deep.
        assert_eq!(end_of(&gzip(&compress(long_cut))), Some(FormatEnd::Whole));
    }
    assert_eq!(of(cut).unwrap().format, "PostgreSQL dump in xz");
    assert!(is_missing(cut));
    assert!(is_missing(&[&cut[..], XZ_DUMP].concat()));
}

#[test]
fn part_which_is_cut_is_noticed_also_when_other_parts_follow() {
    for sample in [GZIP, ZSTD, XZ_DUMP, BZIP2, LZ4, ZIP, CUSTOM] {
        for left in [1, 2, sample.len() / 3, sample.len() - 20] {
            let stream = [&sample[..sample.len() - left], sample].concat();
            let is_known = !matches!(end_of(&stream), Some(FormatEnd::Whole));
            assert!(is_known, "{left} of {} bytes are missing: {:?}", sample.len(), of(&stream));
        }
    }
}

#[test]
fn damage_anywhere_in_a_compressed_stream_is_noticed() {
    let long = long_dump();
    for sample in [XZ_DUMP.to_vec(), bzip2(&long), linked(&long), independent(&long)] {
        for at in (6..sample.len() - 4).step_by(sample.len() / 97) {
            let mut damaged = sample.clone();
            damaged[at] ^= 0x10;
            // A damaged header of a further part is other text after the end.
            let is_unnoticed = matches!(end_of(&damaged), Some(FormatEnd::Whole));
            assert!(!is_unnoticed, "{at} of {}: {:?}", sample.len(), of(&damaged));
        }
    }
}

#[test]
fn archive_within_an_archive_does_not_end_it() {
    // A member which is stored as it is, in a member which is stored as it is.
    let outer = [&ZIP[..60], ZIP, &ZIP[60..]].concat();
    assert!(is_missing(&outer), "{:?}", of(&outer));
    assert!(is_missing(&outer[..outer.len() - 1]));
}
