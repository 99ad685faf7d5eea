//! Iterates over the entries of a tree. A short tree is parsed in memory, a long tree is read through a temporary file.
//!
//! Format: restic's design document, section "Trees and Data". The type parameter `T` selects the fields of an entry
//! which the caller needs.

use std::{
    io::{self, BufRead, BufReader, Read},
    marker::PhantomData,
    vec,
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    RepositoryError,
    format::{Id, Tree},
    index::{blob_location::BlobLocation, fetcher::Fetcher},
    long_blob::{self, LongReader},
    scratch,
};

/// The length of a short tree, before compression. A longer tree is read through a temporary file.
pub(crate) const SHORT_BYTES: u32 = 2 << 20;

/// How many trees a batch has at most, and their total length before compression. A single tree may be longer.
const BATCH_TREES: usize = 512;
const BATCH_BYTES: u64 = 8 << 20;

/// The remaining entries of a tree.
pub(crate) struct TreeNodes<T>(Source<T>);

enum Source<T> {
    Short(vec::IntoIter<T>),
    Long(Box<LongNodes<BufReader<LongReader>, T>>),
}

impl<T> Default for TreeNodes<T> {
    fn default() -> Self {
        Self(Source::Short(Vec::new().into_iter()))
    }
}

/// Why an entry cannot be read.
#[derive(Debug)]
enum Fault {
    /// The blob is not a tree, or does not match its id.
    NotATree(String),
    /// The temporary file failed.
    Scratch(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if scratch::is_of_file(&error) { Self::Scratch(error) } else { no_tree(error) }
    }
}

impl<T: DeserializeOwned> TreeNodes<T> {
    /// Fetches a tree. Errors: [`RepositoryError::Damaged`] if the tree cannot be read.
    pub async fn fetch(fetcher: &Fetcher, part: BlobLocation) -> Result<Self, RepositoryError> {
        let damaged = |why| fetcher.store.damaged(format!("the tree {} cannot be read: {why}", part.id.to_hex()));
        if part.plain_length <= SHORT_BYTES {
            return Self::of(&fetcher.fetch(part).await?).map_err(damaged);
        }
        let reader = BufReader::with_capacity(64 << 10, fetch_long(fetcher, part).await?);
        match LongNodes::new(reader) {
            Ok(nodes) => Ok(Self(Source::Long(Box::new(nodes)))),
            Err(Fault::NotATree(why)) => Err(damaged(why)),
            Err(Fault::Scratch(error)) => Err(scratch::failed(error)),
        }
    }

    /// Parses a tree that is in memory. The error states why it is not a tree.
    pub fn of(plain: &[u8]) -> Result<Self, String> {
        let tree: Tree<T> = serde_json::from_slice(plain).map_err(|error| format!("it is not a tree: {error}"))?;
        Ok(Self(Source::Short(tree.nodes.into_iter())))
    }

    /// Returns the next entry, or none after the last entry. The inner error states why the tree cannot be read.
    pub fn next(&mut self) -> Result<Result<Option<T>, String>, RepositoryError> {
        match &mut self.0 {
            Source::Short(nodes) => Ok(Ok(nodes.next())),
            Source::Long(nodes) => match nodes.next() {
                Ok(node) => Ok(Ok(node)),
                Err(Fault::NotATree(why)) => Ok(Err(why)),
                Err(Fault::Scratch(error)) => Err(scratch::failed(error)),
            },
        }
    }
}

/// Fetches a long tree, from this location or from another one.
async fn fetch_long(fetcher: &Fetcher, location: BlobLocation) -> Result<LongReader, RepositoryError> {
    let error = match long_blob::fetch(fetcher, location).await {
        Err(error @ RepositoryError::Damaged { .. }) => error,
        result => return result,
    };
    for copy in fetcher.copies_instead_of(&location, &error)? {
        match long_blob::fetch(fetcher, copy).await {
            Err(RepositoryError::Damaged { .. }) => {}
            result => return result,
        }
    }
    Err(error)
}

/// Takes a batch of trees off the end of the stack `waiting`, which contains the numbers of blobs. `part` returns the
/// location of the blob with a number.
pub(crate) fn next_batch(
    waiting: &mut Vec<usize>,
    part: impl Fn(usize) -> Result<BlobLocation, RepositoryError>,
) -> Result<Vec<(usize, BlobLocation)>, RepositoryError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < BATCH_TREES
        && let Some(number) = waiting.pop()
    {
        let part = part(number)?;
        bytes += u64::from(part.plain_length);
        if bytes > BATCH_BYTES && !batch.is_empty() {
            waiting.push(number);
            break;
        }
        batch.push((number, part));
    }
    Ok(batch)
}

/// Fetches the trees of a batch with few requests, and parses each tree when the iterator reaches it. The inner error
/// states why a tree cannot be read.
///
/// Errors: [`RepositoryError::Damaged`] if a tree cannot be fetched.
pub(crate) async fn fetch_batch<T: DeserializeOwned>(
    fetcher: &Fetcher,
    batch: &[(usize, BlobLocation)],
) -> Result<impl Iterator<Item = (usize, Result<TreeNodes<T>, String>)> + use<T>, RepositoryError> {
    // A batch of a single tree may be too long for memory.
    let (alone, several) = match batch {
        [(number, part)] => (Some((*number, Ok(TreeNodes::fetch(fetcher, *part).await?))), &[][..]),
        several => (None, several),
    };
    let mut contents = fetcher.clone().fetch_all(several.iter().map(|(_, part)| *part).collect()).await?;
    let numbers: Vec<(usize, Id)> = several.iter().map(|(number, part)| (*number, part.id)).collect();
    let parsed = numbers.into_iter().map(move |(number, id)| {
        let plain = contents.remove(&id).ok_or_else(|| "it was not fetched".to_owned());
        (number, plain.and_then(|plain| TreeNodes::of(&plain)))
    });
    Ok(alone.into_iter().chain(parsed))
}

/// The entries of `{"nodes":[...]}`, parsed one at a time.
struct LongNodes<R, T> {
    reader: R,
    is_first: bool,
    is_over: bool,
    nodes: PhantomData<fn() -> T>,
}

impl<R: BufRead, T: DeserializeOwned> LongNodes<R, T> {
    fn new(mut reader: R) -> Result<Self, Fault> {
        let mut is_over = false;
        expect(&mut reader, b'{')?;
        let name = String::deserialize(&mut serde_json::Deserializer::from_reader(&mut reader));
        let name = name.map_err(io::Error::from)?;
        if name != "nodes" {
            return Err(no_tree(format!("it begins with {name:?}")));
        }
        expect(&mut reader, b':')?;
        match token(&mut reader)? {
            b'[' => {}
            // Go writes an empty list as null.
            b'n' => {
                reader.by_ref().take(3).read_to_end(&mut Vec::new())?;
                end(&mut reader)?;
                is_over = true;
            }
            other => return Err(unexpected(other)),
        }
        Ok(Self { reader, is_first: true, is_over, nodes: PhantomData })
    }

    fn next(&mut self) -> Result<Option<T>, Fault> {
        if self.is_over {
            return Ok(None);
        }
        let is_first = std::mem::replace(&mut self.is_first, false);
        let next = peek(&mut self.reader)?;
        match (next, is_first) {
            (b']', _) => {
                self.is_over = true;
                token(&mut self.reader)?;
                return end(&mut self.reader).map(|()| None);
            }
            (b',', false) => {
                token(&mut self.reader)?;
            }
            (b'{', true) => {}
            (other, _) => return Err(unexpected(other)),
        }
        // The parser reads an object up to its closing brace and not beyond.
        let node = T::deserialize(&mut serde_json::Deserializer::from_reader(&mut self.reader));
        node.map(Some).map_err(|error| io::Error::from(error).into())
    }
}

/// Reads the rest after the entries. The reader compares the blob's id at the end.
fn end(reader: &mut impl BufRead) -> Result<(), Fault> {
    match token(reader)? {
        // Other fields.
        b',' => io::copy(reader, &mut io::sink()).map(drop).map_err(Fault::from),
        b'}' => loop {
            let rest = reader.fill_buf()?;
            if let Some(other) = rest.iter().find(|byte| !byte.is_ascii_whitespace()) {
                return Err(unexpected(*other));
            }
            match rest.len() {
                0 => return Ok(()),
                length => reader.consume(length),
            }
        },
        other => Err(unexpected(other)),
    }
}

/// Returns the next byte that is not white space, without consuming it.
fn peek(reader: &mut impl BufRead) -> Result<u8, Fault> {
    loop {
        let next = *reader.fill_buf()?.first().ok_or_else(|| no_tree("it ends too early"))?;
        if !next.is_ascii_whitespace() {
            return Ok(next);
        }
        reader.consume(1);
    }
}

fn token(reader: &mut impl BufRead) -> Result<u8, Fault> {
    let next = peek(reader)?;
    reader.consume(1);
    Ok(next)
}

fn expect(reader: &mut impl BufRead, wanted: u8) -> Result<(), Fault> {
    let found = token(reader)?;
    if found == wanted { Ok(()) } else { Err(unexpected(found)) }
}

fn unexpected(byte: u8) -> Fault {
    no_tree(format!("unexpected {:?}", char::from(byte)))
}

fn no_tree(why: impl std::fmt::Display) -> Fault {
    Fault::NotATree(format!("it is not a tree: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Named {
        name: String,
    }

    fn long(json: &str) -> Result<Vec<String>, Fault> {
        // A short buffer, so that every token crosses a buffer's end.
        let mut nodes = LongNodes::<_, Named>::new(BufReader::with_capacity(3, json.as_bytes()))?;
        let mut names = Vec::new();
        while let Some(node) = nodes.next()? {
            names.push(node.name);
        }
        Ok(names)
    }

    #[test]
    fn entries_of_a_long_tree_come_one_by_one() {
        for (json, expected) in [
            (r#"{"nodes":[]}"#, &[][..]),
            (r#"{"nodes":null}"#, &[]),
            ("{\"nodes\":[{\"name\":\"a}\"}]}\n", &["a}"]),
            (r#" { "nodes" : [ {"name":"a"} , {"name":"b","more":[1,{"x":2}]} ] , "other": 1 } "#, &["a", "b"]),
        ] {
            assert_eq!(long(json).unwrap(), expected, "{json}");
            let (mut short, mut names) = (TreeNodes::<Named>::of(json.as_bytes()).unwrap(), Vec::new());
            while let Some(node) = short.next().unwrap().unwrap() {
                names.push(node.name);
            }
            assert_eq!(names, expected, "{json}");
        }
    }

    #[test]
    fn blob_that_is_no_tree_is_an_error() {
        for json in [
            "",
            "{",
            "[]",
            r#"{"node":[]}"#,
            r#"{"nodes":[{"name":"a"}"#,
            r#"{"nodes":[{"name":"a"}{"name":"b"}]}"#,
            r#"{"nodes":[,{"name":"a"}]}"#,
            "{}",
            r#"{"nodes":[]}x"#,
            r#"{"nodes":[]]"#,
        ] {
            assert!(matches!(long(json), Err(Fault::NotATree(_))), "{json}");
            assert!(TreeNodes::<Named>::of(json.as_bytes()).is_err(), "{json}");
        }
    }

    /// A temporary file that fails.
    struct Failing;

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }
    }

    #[test]
    fn temporary_file_that_fails_is_no_damage_of_the_tree() {
        let begin = &br#"{"nodes":[{"name":"a"},{"na"#[..];
        let mut nodes = LongNodes::<_, Named>::new(BufReader::new(begin.chain(Failing))).unwrap();
        assert_eq!(nodes.next().unwrap().unwrap().name, "a");
        assert!(matches!(nodes.next(), Err(Fault::Scratch(_))));
    }
}
