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

use crate::helper::remote::program;

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

fn run_image(programs: &[PathBuf]) -> Output {
    Command::new(root().join("packaging/image")).args(programs).output().unwrap()
}

/// The architectures of images, with the numbers by which ELF names them.
const ARCHITECTURES: [(&str, u8); 2] = [("amd64", 62), ("arm64", 183)];

/// Two static programs for this architecture. Only the head of the file is that of the architecture.
fn programs(folder: &Path, (name, number): (&str, u8)) -> [PathBuf; 2] {
    ["binary", "helper"].map(|role| {
        let program = folder.join(format!("{role}-{name}"));
        fs::copy(STATIC_PROGRAM, &program).unwrap();
        let mut content = fs::read(&program).unwrap();
        content[18] = number;
        fs::write(&program, content).unwrap();
        program
    })
}

/// Writes the image of static programs for all architectures, and returns its path.
fn image(folder: &Path) -> PathBuf {
    let output = run_image(&ARCHITECTURES.map(|architecture| programs(folder, architecture)).concat());
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

/// The content of an image's archive.
struct Layout(BTreeMap<String, (tar::Header, Vec<u8>)>);

impl Layout {
    fn blob(&self, reference: &Value) -> &[u8] {
        let digest = reference["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let (_, content) = &self.0[&format!("blobs/sha256/{digest}")];
        assert_eq!(content.len() as u64, reference["size"].as_u64().unwrap());
        content
    }

    fn object(&self, reference: &Value) -> Value {
        serde_json::from_slice(self.blob(reference)).unwrap()
    }

    /// The manifests of the architectures, which the only entry of the layout lists.
    fn manifests(&self) -> Vec<Value> {
        let index: Value = serde_json::from_slice(&self.0["index.json"].1).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        let image = &index["manifests"][0];
        assert_eq!(image["mediaType"], "application/vnd.oci.image.index.v1+json");
        self.object(image)["manifests"].as_array().unwrap().clone()
    }
}

#[test]
fn image_has_two_programs_and_no_shell_and_the_configuration_of_the_containerfile_for_each_architecture() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout(members(fs::File::open(image(folder.path())).unwrap()));
    let manifests = layout.manifests();
    assert_eq!(manifests.len(), ARCHITECTURES.len());
    let docker: Value = serde_json::from_slice(&layout.0["manifest.json"].1).unwrap();
    let first = layout.object(&manifests[0]);
    let path = |reference: &Value| reference["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let name = concat!("localhost/stowaway:", env!("CARGO_PKG_VERSION"));
    let expected =
        json!([{ "RepoTags": [name], "Config": path(&first["config"]), "Layers": [path(&first["layers"][0])] }]);
    assert_eq!(docker, expected, "what `docker load` reads is not the first image");
    for (manifest, architecture) in manifests.iter().zip(ARCHITECTURES) {
        assert_eq!(manifest["platform"], json!({ "architecture": architecture.0, "os": "linux" }));
        let manifest = layout.object(manifest);
        let config = layout.object(&manifest["config"]);
        assert_eq!(config["architecture"], architecture.0);
        has_the_configuration_of_the_containerfile(&config["config"]);
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 1);
        let files = members(GzDecoder::new(layout.blob(&layers[0])));
        has_two_programs_and_no_shell(&files);
        assert_eq!(files["./usr/local/bin/stowaway"].1[18], architecture.1);
    }
}

fn has_the_configuration_of_the_containerfile(config: &Value) {
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
}

fn has_two_programs_and_no_shell(files: &BTreeMap<String, (tar::Header, Vec<u8>)>) {
    let names: Vec<&str> = files.keys().map(String::as_str).filter(|name| !name.ends_with('/')).collect();
    assert_eq!(names, FILES);
    for (name, (header, _)) in files {
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0), "{name}");
        let mode = match name.as_str() {
            "./tmp/" => 0o1777,
            name if name.ends_with('/') || name.starts_with("./usr/local/bin/") => 0o755,
            _ => 0o644,
        };
        assert_eq!(header.mode().unwrap() & 0o7777, mode, "{name}");
    }
    assert_eq!(files["./usr/local/bin/stowaway"].1.len() as u64, fs::metadata(STATIC_PROGRAM).unwrap().len());
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
    is_refused(&[dynamic, STATIC_PROGRAM.into()], "not linked statically");
}

#[test]
fn programs_of_different_architectures_are_not_taken_for_a_pair() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = ARCHITECTURES.map(|architecture| programs(folder.path(), architecture));
    is_refused(&[one[0].clone(), other[1].clone()], "is for amd64, but");
    is_refused(&[one.clone(), one].concat(), "two binaries for amd64");
    is_refused(&other[..1], "Usage");
}

fn is_refused(programs: &[PathBuf], reason: &str) {
    let output = run_image(programs);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(reason), "{message}");
}

#[test]
fn compiled_programs_pass_the_smoke_test_and_a_broken_one_does_not() {
    let smoke = |programs: [&str; 2]| {
        let output = Command::new(root().join("packaging/smoke")).args(programs).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (is_green, log) = smoke([env!("CARGO_BIN_EXE_stowaway"), program()]);
    assert!(is_green && log.contains("backup, check and restore passed"), "{log}");
    let (is_green, log) = smoke([env!("CARGO_BIN_EXE_stowaway"), "/bin/true"]);
    assert!(!is_green && log.contains("/bin/true --version printed"), "{log}");
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
