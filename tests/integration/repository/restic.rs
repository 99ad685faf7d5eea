//! The real restic, in the versions with which Stowaway is compatible.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::PASSWORD;

/// A restic program, and the environment and options with which it reaches a repository.
#[derive(Clone, Debug)]
pub struct Restic {
    program: PathBuf,
    environment: Vec<(String, String)>,
    options: Vec<String>,
}

/// The oldest version which reads format 2, and the newest one available.
pub fn both() -> [Restic; 2] {
    [oldest(), newest()]
}

/// All versions, oldest first.
pub fn all() -> [Restic; 3] {
    [oldest(), Restic::new(find("STOWAWAY_RESTIC_0_18", "restic-0.18")), newest()]
}

pub fn oldest() -> Restic {
    Restic::new(find("STOWAWAY_RESTIC_0_14", "restic-0.14"))
}

pub fn newest() -> Restic {
    Restic::new(find("STOWAWAY_RESTIC", "restic"))
}

/// A program built by `e2e/cluster/build`, or the program which the variable names.
pub fn find(variable: &str, name: &str) -> PathBuf {
    let folder = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    // The same folder as in `e2e/cluster`.
    let caches = || folder("XDG_CACHE_HOME").unwrap_or_else(|| folder("HOME").unwrap_or_default().join(".cache"));
    let built = || folder("STOWAWAY_CACHE").unwrap_or_else(|| caches().join("stowaway")).join("bin").join(name);
    let path = std::env::var_os(variable).map_or_else(built, PathBuf::from);
    assert!(path.exists(), "{} is missing: e2e/cluster/build makes it, or set {variable}", path.display());
    path
}

impl Restic {
    fn new(program: PathBuf) -> Self {
        Self { program, environment: Vec::new(), options: Vec::new() }
    }

    /// Adds environment variables, and options before all other arguments.
    pub fn with(mut self, environment: &[(String, String)], options: &[String]) -> Self {
        self.environment.extend_from_slice(environment);
        self.options.extend_from_slice(options);
        self
    }

    pub fn path(&self) -> &Path {
        &self.program
    }

    pub fn command(&self, repository: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(&self.options)
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RESTIC_REPOSITORY", repository)
            .arg("--no-cache")
            .stdin(Stdio::null());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, repository: &Path, arguments: &[S]) -> Output {
        self.command(repository).args(arguments).output().unwrap()
    }

    /// Standard output of a call which must succeed.
    pub fn ok<S: AsRef<OsStr> + std::fmt::Debug>(&self, repository: &Path, arguments: &[S]) -> Vec<u8> {
        let output = self.run(repository, arguments);
        assert!(
            output.status.success(),
            "{} {arguments:?}: {}\n{}{}",
            self.program.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        output.stdout
    }

    /// Standard output of a call which must succeed, as JSON.
    pub fn json<S: AsRef<OsStr> + std::fmt::Debug>(&self, repository: &Path, arguments: &[S]) -> serde_json::Value {
        serde_json::from_slice(&self.ok(repository, arguments)).unwrap()
    }

    /// Asserts that a check of all data finds no error.
    pub fn check(&self, repository: &Path) {
        let stdout = String::from_utf8(self.ok(repository, &["check", "--read-data"])).unwrap();
        assert!(stdout.contains("no errors were found"), "{stdout}");
    }

    /// Checks while another client holds a lock.
    pub fn check_without_lock(&self, repository: &Path) {
        self.ok(repository, &["check", "--no-lock"]);
    }

    pub fn backup_stdin(&self, repository: &Path, name: &str, data: &[u8]) {
        use std::io::Write;
        let mut child = self
            .command(repository)
            .args(["backup", "--stdin", "--stdin-filename", name, "--host", "elsewhere"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(data).unwrap();
        assert!(child.wait().unwrap().success());
    }
}
