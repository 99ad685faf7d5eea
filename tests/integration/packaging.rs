//! The image that `packaging/image` writes, and the files from which images and releases are made.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tar::Archive;

/// A static program, in the role of the binary and of the helper. Its content does not matter.
const STATIC_PROGRAM: &str = "/bin/busybox";
const FILES: [&str; 5] = [
    "./etc/group",
    "./etc/passwd",
    "./etc/ssl/certs/ca-certificates.crt",
    "./usr/local/bin/stowaway",
    "./usr/local/bin/stowaway-helper",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn run_image(binary: &Path, helper: &Path) -> Output {
    Command::new(root().join("packaging/image")).args([binary, helper]).output().unwrap()
}

/// Writes the image of two static programs, and returns its path.
fn image(folder: &Path) -> PathBuf {
    let programs = ["binary", "helper"].map(|name| folder.join(name));
    for program in &programs {
        fs::copy(STATIC_PROGRAM, program).unwrap();
    }
    let output = run_image(&programs[0], &programs[1]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join("stowaway-image.tar")
}

fn members(archive: impl Read) -> BTreeMap<String, (tar::Header, Vec<u8>)> {
    let mut members = BTreeMap::new();
    for entry in Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        members.insert(name, (entry.header().clone(), content));
    }
    members
}

/// The arguments of the instructions with this name in the last stage of the Containerfile.
fn instructions(name: &str) -> Vec<String> {
    let text = read("Containerfile");
    let (_, last) = text.split_once("\nFROM scratch\n").unwrap();
    last.lines().filter_map(|line| Some(line.strip_prefix(name)?.strip_prefix(' ')?.to_owned())).collect()
}

#[test]
fn image_has_two_programs_and_no_shell_and_the_configuration_of_the_containerfile() {
    let folder = tempfile::tempdir().unwrap();
    let layout = members(fs::File::open(image(folder.path())).unwrap());
    let blob = |reference: &Value| {
        let digest = reference["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let (_, content) = &layout[&format!("blobs/sha256/{digest}")];
        assert_eq!(content.len() as u64, reference["size"].as_u64().unwrap());
        content
    };
    let parsed = |content: &[u8]| serde_json::from_slice::<Value>(content).unwrap();
    let index = parsed(&layout["index.json"].1);
    let manifest = parsed(blob(&index["manifests"][0]));
    let config = parsed(blob(&manifest["config"]))["config"].clone();
    assert_eq!([config["User"].as_str().unwrap()], instructions("USER").as_slice());
    assert_eq!([config["Entrypoint"].to_string()], instructions("ENTRYPOINT").as_slice());
    assert_eq!(config["Env"], json!(instructions("ENV")));
    let labels: BTreeMap<String, String> = serde_json::from_value(config["Labels"].clone()).unwrap();
    let expected: BTreeMap<String, String> = instructions("LABEL")
        .iter()
        .map(|label| label.split_once('=').unwrap())
        .map(|(key, value)| {
            let value = value.trim_matches('"').replace("$VERSION", env!("CARGO_PKG_VERSION")).replace("$SOURCE", "");
            (key.to_owned(), value)
        })
        .collect();
    assert_eq!(labels, expected);
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));

    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    let files = members(GzDecoder::new(blob(&layers[0]).as_slice()));
    let names: Vec<&str> = files.keys().map(String::as_str).filter(|name| !name.ends_with('/')).collect();
    assert_eq!(names, FILES);
    for (name, (header, _)) in &files {
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0), "{name}");
        let mode = match name.as_str() {
            "./tmp/" => 0o1777,
            name if name.ends_with('/') || name.starts_with("./usr/local/bin/") => 0o755,
            _ => 0o644,
        };
        assert_eq!(header.mode().unwrap() & 0o7777, mode, "{name}");
    }
    assert_eq!(files["./usr/local/bin/stowaway"].1, fs::read(STATIC_PROGRAM).unwrap());
    assert!(files["./etc/ssl/certs/ca-certificates.crt"].1.starts_with(b"-----BEGIN CERTIFICATE-----"));
}

#[test]
fn image_of_the_same_programs_has_the_same_bytes() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(fs::read(image(one.path())).unwrap() == fs::read(image(other.path())).unwrap());
}

#[test]
fn program_that_the_image_could_not_start_is_refused() {
    let dynamic = std::env::current_exe().unwrap();
    let output = run_image(&dynamic, Path::new(STATIC_PROGRAM));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("not linked statically"), "{message}");
}

#[test]
fn containerfile_has_the_version_of_the_crate_and_compiles_as_the_image_without_an_engine_does() {
    let text = read("Containerfile");
    assert!(text.contains(&format!("\nARG VERSION={}\n", env!("CARGO_PKG_VERSION"))), "{text}");
    assert!(text.contains("RUN packaging/compile >/programs\n") && text.contains("fill_image /image"), "{text}");
    let bases: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    assert!(bases.iter().all(|base| *base == "scratch" || base.contains(":1.")), "not pinned: {bases:?}");
}

#[test]
fn release_fills_in_every_value_of_the_manifest_for_krew() {
    let (template, release) = (read("packaging/krew.yaml"), read("packaging/release"));
    let values: Vec<&str> =
        template.split("{{").skip(1).map(|rest| rest.split_once("}}").map_or(rest, |(name, _)| name)).collect();
    assert!(values.len() >= 5, "{values:?}");
    for value in values {
        assert!(release.contains(&format!("s|{{{{{value}}}}}|")), "{value} is not filled in");
    }
}
