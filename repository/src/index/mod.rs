//! The index: which blobs a repository has, in which packs they are, and fetching them.

pub(crate) mod blob_location;
pub(crate) mod blob_table;
pub(crate) mod damaged_packs;
pub(crate) mod fetcher;
pub(crate) mod index_file;
pub(crate) mod known_blobs;
pub(crate) mod lacking;
pub(crate) mod pack_check;
