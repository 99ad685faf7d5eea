//! Text before the first dump of a stream does not prevent the check of the dump, and no other text is taken for a dump.

use super::*;

/// Text which a script or a dump program prints before a dump.
const TEXTS: [&str; 22] = [
    "\n",
    " \t\r\n",
    "\u{feff}",
    "\u{feff}\n",
    "mysqldump: [Warning] Using a password on the command line interface can be insecure.\n",
    "mysqldump: Deprecated program name. Use '/usr/bin/mariadb-dump' instead\n",
    "/usr/bin/pg_dump: last built-in OID is 16383\n",
    "Warning: A partial dump from a server that has GTIDs will by default include the GTIDs of all transactions.\n",
    "bash: warning: setlocale: LC_ALL: cannot change locale (en_US.UTF-8)\n",
    "NOTICE:  table \"ships\" does not exist, skipping\n",
    "SET x;\n",
    "set names 'utf8';\n",
    "CREATE DATABASE `shop`;\nUSE `shop`;\n",
    "CREATE ROLE app\n  LOGIN\n  PASSWORD 'it''s;\n';\n",
    "SELECT 'a; b', 'c';\n",
    "CREATE DATABASE\n",
    "\\connect shop\n",
    "-- the dump of shop\n--\n",
    "# written by backup.sh\n",
    "/* a comment;\n of two lines */\n",
    "/*!40101 SET NAMES utf8 */;\n",
    "PRAGMA foreign_keys=ON;\n",
];

/// Dumps of SQL text, each with a text up to which it is cut.
fn dumps() -> [(Vec<u8>, &'static str); 5] {
    [
        (PG_DUMP.to_vec(), "FROM stdin;\n"),
        (CLUSTER.to_vec(), "FROM stdin;\n"),
        (mysqldump("-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)\n"), "utf8mb4 */;\n"),
        (mysqldump("/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19-11.4.2\n"), "VALUES (1,'a"),
        (SQLITE_DUMP.to_vec(), "CREATE TABLE"),
    ]
}

fn cut<'a>(dump: &'a [u8], end: &str) -> &'a [u8] {
    let at = dump.windows(end.len()).position(|part| part == end.as_bytes()).unwrap();
    &dump[..at + end.len()]
}

#[test]
fn text_before_the_first_dump_does_not_switch_the_check_off() {
    for (dump, end) in dumps() {
        let half = cut(&dump, end);
        for text in TEXTS.into_iter().chain([TEXTS.concat().as_str()]) {
            let whole = [text.as_bytes(), &dump].concat();
            assert_eq!(of(&whole), of(&dump), "{text:?}");
            assert_eq!(end_of(&gzip(&whole)), Some(FormatEnd::Whole), "{text:?}");
            let half = [text.as_bytes(), half].concat();
            assert!(is_missing(&half), "{text:?} {end}");
            assert!(is_missing(&gzip(&half)), "{text:?} {end}");
            assert!(is_missing(&::zstd::encode_all(&half[..], 3).unwrap()), "{text:?} {end}");
            assert!(is_missing(&[&half[..], &dump].concat()), "{text:?} {end}, and a whole dump");
            for size in [1, 7, 600] {
                let parts: Vec<&[u8]> = half.chunks(size).collect();
                assert_eq!(recognise(&parts), of(&half), "{text:?} in pieces of {size}");
            }
        }
    }
}

#[test]
fn header_after_any_other_text_begins_no_dump() {
    let dump = String::from_utf8(PG_DUMP.to_vec()).unwrap();
    let half = &dump[..2000];
    let quoted = half.replace('\'', "''");
    let long = format!("{}\n", "-".repeat(64 * 1024 + 1));
    for stream in [
        format!("id,text\n{half}"),
        format!("1\tship\n{half}"),
        format!("A report: \n{half}"),
        format!("From root Mon Nov 30\nSubject: a dump\n\n{half}"),
        format!("{{}}\n{half}"),
        format!("INSERT INTO scripts VALUES (1, '{quoted}');\n"),
        format!("INSERT INTO scripts VALUES ('it\\'s', '{half}');\n"),
        format!("/*\n{half}"),
        format!("INSERT INTO scripts\n{half}"),
        format!("{long}{half}"),
        format!("{}{half}", "-- a comment\n".repeat(6000)),
        format!("CREATE TABLE t (a int);\n{}", half.replace("--\n-- PostgreSQL", "-- PostgreSQL")),
        TEXTS.concat(),
        "-- a comment".to_owned(),
    ] {
        assert_eq!(of(stream.as_bytes()), None, "{stream}");
        for size in [1000, 4096] {
            let parts: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
            assert_eq!(recognise(&parts), None, "{stream} in pieces of {size}");
        }
    }
    let texts = "-- a comment\n".repeat(5000) + half;
    assert!(is_missing(texts.as_bytes()), "it begins within 64 KiB");
}

proptest! {
    #[test]
    fn dump_after_any_such_texts_is_judged_as_without_them(
        which in proptest::collection::vec(0..TEXTS.len(), 0..40),
        dump in 0..5_usize,
        keep in 0..6000_usize,
        size in 1..2000_usize,
    ) {
        let text: String = which.iter().map(|which| TEXTS[*which]).collect();
        let (dump, end) = &dumps()[dump];
        let half = &dump[..keep.clamp(cut(dump, end).len(), dump.len())];
        let stream = [text.as_bytes(), half].concat();
        prop_assert_eq!(of(&stream), of(half), "{}", text);
        let parts: Vec<&[u8]> = stream.chunks(size).collect();
        prop_assert_eq!(recognise(&parts), of(half), "{}", text);
    }
}
