//! Several dumps in one stream: each has to be whole, and a header within the data of a dump begins no dump.

use super::*;

/// A dump of `PostgreSQL` with these lines between its header and its end.
fn postgres(lines: &str) -> String {
    format!("{}{lines}--\n-- PostgreSQL database dump complete\n--\n\n", header())
}

fn header() -> String {
    "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\n-- Dumped from database version 17.6\n\n\
        SET client_encoding = 'UTF8';\n\n"
        .to_owned()
}

/// The header as older versions write it.
fn old_header() -> String {
    header().replace("\\restrict abc\n\n", "")
}

const MYSQL: &str = "-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)\n";

fn mysql() -> String {
    String::from_utf8(mysqldump(MYSQL)).unwrap()
}

/// The part of the text up to the last occurrence of this text, and the text itself.
fn up_to<'a>(text: &'a str, end: &str) -> &'a str {
    &text[..text.rfind(end).unwrap() + end.len()]
}

fn parts_agree(stream: &[u8]) {
    let once = of(stream);
    for size in [1, 31, 4096] {
        let parts: Vec<&[u8]> = stream.chunks(size).collect();
        assert_eq!(recognise(&parts), once, "in pieces of {size}");
    }
}

#[test]
fn each_of_several_dumps_has_to_end_before_the_next_begins() {
    let whole = postgres(
        "COPY public.t (id, name) FROM stdin;\n1\ta ship\n2\ta port\n\\.\n\n\
        INSERT INTO public.t VALUES (1, 'it''s');\n",
    );
    let old = whole.replace("\\restrict abc\n\n", "");
    let one_column = postgres("COPY public.t (\"a, b\") FROM stdin;\na ship\na port\n\\.\n");
    let cluster = String::from_utf8(CLUSTER.to_vec()).unwrap();
    let sqlite = String::from_utf8(SQLITE_DUMP.to_vec()).unwrap();
    let mariadb = mysql().replace(MYSQL, "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19-11.4.2\n");
    for (cut, next) in [
        (up_to(&whole, "1\ta ship\n"), &whole),
        (up_to(&whole, "1\ta sh"), &whole),
        (up_to(&old, "1\ta ship\n"), &old),
        (up_to(&old, "2\ta po"), &old),
        (up_to(&whole, "\\.\n"), &whole),
        (up_to(&whole, "VALUES (1, 'it"), &old),
        (up_to(&whole, "VALUES (1, 'it''s'"), &whole),
        (up_to(&whole, "Dumped from"), &whole),
        (up_to(&one_column, "a ship\n"), &whole),
        (up_to(&one_column, "a po"), &whole),
        (up_to(&cluster, "FROM stdin;\n"), &cluster),
        (up_to(&cluster, "database dump complete\n"), &cluster),
        (up_to(&mysql(), "VALUES (1,'a"), &mysql()),
        (up_to(&mysql(), "SET NAMES utf8mb4 */;\n"), &mysql()),
        (up_to(&mariadb, "VALUES (1,'a"), &mariadb),
        (up_to(&sqlite, "VALUES(3,'sh"), &sqlite),
        (up_to(&sqlite, "VALUES(3,'ship ''3'"), &sqlite),
        (up_to(&sqlite, "from ships;\n"), &sqlite),
        (up_to(&mysql(), "VALUES (1,'a"), &whole),
        (up_to(&whole, "2\ta po"), &sqlite),
    ] {
        let both = format!("{cut}{next}");
        assert!(is_missing(both.as_bytes()), "{both}");
        parts_agree(both.as_bytes());
        // The dumps before and after it do not matter, and neither does their compression in one stream.
        let first = format!("{next}{cut}{next}");
        assert!(is_missing(first.as_bytes()), "{first}");
        assert!(is_missing(&[gzip(cut.as_bytes()), gzip(next.as_bytes())].concat()), "{both}");
        let whole = format!("{next}{next}");
        assert_eq!(end_of(whole.as_bytes()), Some(FormatEnd::Whole), "{whole}");
        assert!(is_missing(format!("{next}{cut}").as_bytes()));
    }
    let both = format!("{whole}{}{whole}", up_to(&whole, "a ship\n"));
    let what = "the line \"-- PostgreSQL database dump complete\" at the end of its dump 2 is missing before the next dump \
                begins";
    assert_eq!(end_of(both.as_bytes()), Some(FormatEnd::Missing(what.to_owned())));
    // A dump of all databases which was truncated between two databases.
    assert!(is_missing(up_to(&cluster, "database dump complete\n").as_bytes()));
}

/// The text as `PostgreSQL` writes it into rows of one column, and as a text in quotes.
fn stored(dump: &str) -> (String, String) {
    (dump.replace('\\', "\\\\").replace('\t', "\\t"), dump.replace('\'', "''"))
}

#[test]
fn header_within_the_data_of_a_dump_begins_no_dump() {
    let ship = "COPY public.t (id, name) FROM stdin;\n1\ta ship\n\\.\n";
    let half = format!("{}{}", header(), "COPY public.t (id, name) FROM stdin;\n1\ta ship\n");
    let texts = [header(), old_header(), half, postgres(ship), postgres(ship).repeat(2), mysql(), mysql().repeat(2)];
    for text in &texts {
        let (rows, quoted) = stored(text);
        let insert = format!("INSERT INTO public.scripts VALUES (1, '{quoted}');\n");
        let glued = format!("INSERT INTO public.scripts VALUES (1, 'a {quoted}', 'b', '{quoted}');\n");
        let body = format!("CREATE FUNCTION f() RETURNS text\n    LANGUAGE sql\n    AS $_$\n{text}\n$_$;\n");
        for lines in [
            format!("COPY public.scripts (line) FROM stdin;\n{rows}\\.\n"),
            format!("COPY public.scripts (\"line, or text\") FROM stdin;\n{rows}\\.\n{ship}"),
            insert.repeat(2) + ship,
            glued.repeat(3),
            format!("COMMENT ON TABLE t IS '{quoted}';\n{insert}"),
            format!("{body}{ship}{body}"),
        ] {
            let dump = postgres(&lines);
            assert_eq!(end_of(dump.as_bytes()), Some(FormatEnd::Whole), "{dump}");
            parts_agree(dump.as_bytes());
            assert_eq!(end_of((dump.clone() + &dump).as_bytes()), Some(FormatEnd::Whole), "{dump} twice");
        }
        let routine = format!("DELIMITER ;;\nCREATE PROCEDURE p() BEGIN\n{text}\nEND ;;\nDELIMITER ;\n");
        let dump = mysql().replace("INSERT", &format!("{routine}INSERT"));
        assert_eq!(end_of(dump.as_bytes()), Some(FormatEnd::Whole), "{dump}");
    }
}

#[test]
fn dump_after_data_which_contains_headers_has_to_be_whole_too() {
    let (rows, quoted) = stored(&old_header());
    let rows = format!("COPY public.scripts (line) FROM stdin;\n{rows}\\.\n");
    let dump = postgres(&format!("{rows}INSERT INTO public.scripts VALUES (1, '{quoted}');\n"));
    assert!(is_missing(format!("{}{dump}", up_to(&dump, "VALUES (1, '")).as_bytes()));
    assert!(is_missing(format!("{}{dump}", up_to(&dump, "\\.\n")).as_bytes()));
    // The end of a dump as a row does not end the dump around it.
    let (rows, _) = stored(&postgres(""));
    let dump = postgres(&format!("COPY public.scripts (line) FROM stdin;\n{rows}\\.\n"));
    assert_eq!(end_of(dump.as_bytes()), Some(FormatEnd::Whole));
    assert!(is_missing(up_to(&dump, "\\.\n").as_bytes()));
    assert!(is_missing(format!("{}{dump}", up_to(&dump, "\\.\n")).as_bytes()));
}

#[test]
fn dump_whose_first_text_begins_with_a_blank_has_to_be_whole_too() {
    let without_settings = old_header().replace("SET client_encoding = 'UTF8';\n\n", "");
    for value in ["'lead'", "' lead'", "'\tlead'"] {
        let dump = postgres(&format!("INSERT INTO public.t VALUES ({value}, 'it''s');\n"));
        let dump = dump.replace(&header(), &without_settings);
        assert_eq!(end_of(dump.repeat(2).as_bytes()), Some(FormatEnd::Whole), "{value}");
        assert!(is_missing(format!("{}{dump}", up_to(&dump, "'it''")).as_bytes()), "{value}");
    }
}

#[test]
fn dump_of_sqlite_with_an_error_is_not_whole() {
    let dump = String::from_utf8(SQLITE_DUMP.to_vec()).unwrap();
    let warned = format!("/* WARNING: Script requires that SQLITE_DBCONFIG_DEFENSIVE be disabled */\n{dump}");
    assert_eq!(end_of(warned.as_bytes()), Some(FormatEnd::Whole));
    let corrupt = dump.replace("CREATE VIEW", "/****** CORRUPTION ERROR *******/\nCREATE VIEW");
    for failed in [&corrupt, &dump.replace("COMMIT;", "ROLLBACK; -- due to errors")] {
        assert!(is_missing(failed.as_bytes()), "{failed}");
        assert!(is_missing(format!("{failed}{dump}").as_bytes()), "{failed}");
        assert!(is_missing(format!("{dump}{failed}").as_bytes()), "{failed}");
    }
    let locked = include_bytes!("../samples/sqlite_locked.sql");
    let what = "it contains an error of sqlite3, which could not read the whole database";
    assert_eq!(end_of(locked), Some(FormatEnd::Missing(what.to_owned())));
}

#[test]
fn format_after_another_format_has_to_be_whole_too() {
    let ends = ["Redis RDB file", "SQLite database", "etcd snapshot"];
    let samples: Vec<_> = samples().into_iter().filter(|(format, _)| !ends.contains(format)).collect();
    for (format, sample) in &samples {
        let half = &sample[..sample.len() / 2];
        assert!(is_missing(&[sample, half].concat()), "{format}: {:?}", of(&[sample, half].concat()));
        assert_eq!(end_of(&[&sample[..], sample, sample].concat()), Some(FormatEnd::Whole), "{format}");
        if format.ends_with(" dump") {
            continue;
        }
        for (other, second) in &samples {
            let stream = [&sample[..], second].concat();
            assert_eq!(end_of(&stream), Some(FormatEnd::Whole), "{other} after {format}");
            let cut = &stream[..stream.len() - second.len() / 2];
            assert!(is_missing(cut), "{other} after {format}: {:?}", of(cut));
            let parts: Vec<&[u8]> = cut.chunks(100).collect();
            assert_eq!(recognise(&parts), of(cut));
        }
    }
    let stream = [USTAR, &CUSTOM[..CUSTOM.len() - 1]].concat();
    assert_eq!(of(&stream).unwrap().format, "PostgreSQL dump (custom format) after tar archive");
    let many = [USTAR, &gzip(b"x")].concat().repeat(2000);
    assert_eq!(end_of(&many), Some(FormatEnd::Whole));
    assert!(is_missing(&many[..many.len() - 1]));
}
