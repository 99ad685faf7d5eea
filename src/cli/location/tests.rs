//! Locations in the notation of restic, and the locations that are refused.

use super::*;

fn env() -> ResticEnv {
    ResticEnv {
        region: Some("eu".into()),
        azure_account: Some("vault".into()),
        user: Some("me".into()),
        ..ResticEnv::default()
    }
}

fn s3(endpoint: &str, bucket: &str, prefix: &str, path_style: bool) -> BackendConfig {
    BackendConfig::S3(S3Config {
        endpoint: endpoint.into(),
        bucket: bucket.into(),
        prefix: prefix.into(),
        region: "eu".into(),
        path_style,
    })
}

fn azure(container: &str, prefix: &str) -> BackendConfig {
    BackendConfig::Azure(AzureConfig {
        account: "vault".into(),
        container: container.into(),
        prefix: prefix.into(),
        endpoint: "https://vault.blob.core.windows.net".into(),
    })
}

fn gcs(bucket: &str, prefix: &str) -> BackendConfig {
    let endpoint = GcsConfig::ENDPOINT.into();
    BackendConfig::Gcs(GcsConfig { bucket: bucket.into(), prefix: prefix.into(), endpoint })
}

fn rest(url: &str) -> BackendConfig {
    BackendConfig::Rest(RestConfig { url: url.into() })
}

fn sftp(user: &str, host: &str, port: u16, path: &str) -> BackendConfig {
    BackendConfig::Sftp(SftpConfig { host: host.into(), port, user: user.into(), path: path.into() })
}

/// The forms of restic's manual, and those of its own tests (`internal/backend/*/config_test.go`).
#[test]
fn locations_are_read_as_restic_reads_them() {
    let folder = |path: &str| BackendConfig::Folder { path: path.into() };
    for (text, expected) in [
        ("/srv/backup", folder("/srv/backup")),
        ("/srv/a:b", folder("/srv/a:b")),
        ("./a:b", folder("./a:b")),
        ("backup", folder("backup")),
        ("local:backup", folder("backup")),
        ("local:a:b", folder("a:b")),
        ("s3:http://10.0.0.1:9000/bucket/a/b/", s3("http://10.0.0.1:9000", "bucket", "a/b", true)),
        ("s3:http://hostname:9999/foobar", s3("http://hostname:9999", "foobar", "", true)),
        ("s3:http://hostname:9999/foobar/", s3("http://hostname:9999", "foobar", "", true)),
        ("s3:https://[::1]:9000/bucket/x", s3("https://[::1]:9000", "bucket", "x", true)),
        ("s3:https://minio.example/bucket", s3("https://minio.example", "bucket", "", true)),
        ("s3:https://h/b//x/", s3("https://h", "b", "x", true)),
        ("s3:https://h/b/x//y/./../z/", s3("https://h", "b", "x/z", true)),
        ("s3:https://h/b/a%20b", s3("https://h", "b", "a b", true)),
        ("s3:h/b/a%20b", s3("https://h", "b", "a%20b", true)),
        ("s3:h/b", s3("https://h", "b", "", true)),
        ("s3://h/b/prefix/directory/", s3("https://h", "b", "prefix/directory", true)),
        ("s3:s3.amazonaws.com/bucket/x", s3("https://s3.amazonaws.com", "bucket", "x", false)),
        ("s3://s3.eu-west-1.amazonaws.com/bucket", s3("https://s3.eu-west-1.amazonaws.com", "bucket", "", false)),
        ("s3:s3.cn-north-1.amazonaws.com.cn/b", s3("https://s3.cn-north-1.amazonaws.com.cn", "b", "", false)),
        ("s3:https://s3.amazonaws.com/my.dotted.bucket", s3("https://s3.amazonaws.com", "my.dotted.bucket", "", true)),
        ("s3:https://oss-eu-west-1.aliyuncs.com/b", s3("https://oss-eu-west-1.aliyuncs.com", "b", "", false)),
        ("azure:barrels:/", azure("barrels", "")),
        ("azure:barrels:/year/one", azure("barrels", "year/one")),
        ("azure:barrels:/year//one/", azure("barrels", "year/one")),
        ("azure:barrels:year/../one", azure("barrels", "one")),
        ("gs:barrels:/year", gcs("barrels", "year")),
        ("gs:barrels:year", gcs("barrels", "year")),
        ("gs:barrels:/", gcs("barrels", "")),
        ("rest:http://10.0.0.1:8000/", rest("http://10.0.0.1:8000")),
        ("rest:http://localhost:1234", rest("http://localhost:1234")),
        ("rest:https://backup.example:8000/u/shop/", rest("https://backup.example:8000/u/shop")),
        ("rest:https://user:pass@host:8000/my_backup_repo/", rest("https://host:8000/my_backup_repo")),
        ("sftp:u@h:/srv/x", sftp("u", "h", 22, "/srv/x")),
        ("sftp:u@h:x/y", sftp("u", "h", 22, "x/y")),
        ("sftp:user@domain@h:/x", sftp("user@domain", "h", 22, "/x")),
        ("sftp:u@h:dir///subdir/../other:suffix/", sftp("u", "h", 22, "dir/other:suffix")),
        ("sftp:h:../dir/subdir", sftp("me", "h", 22, "../dir/subdir")),
        ("sftp:h:dir/a@b:c", sftp("me", "h", 22, "dir/a@b:c")),
        ("sftp:u@[::1]:x", sftp("u", "::1", 22, "x")),
        ("sftp://u@h//srv/x", sftp("u", "h", 22, "/srv/x")),
        ("sftp://h/srv/x", sftp("me", "h", 22, "srv/x")),
        ("sftp://h:10022//srv/x", sftp("me", "h", 10022, "/srv/x")),
        ("sftp://u@h:2222/x", sftp("u", "h", 2222, "x")),
        ("sftp://u@h/dir///subdir/../a%20b", sftp("u", "h", 22, "dir/a b")),
        ("sftp://u@[::1]:2222//x", sftp("u", "::1", 2222, "/x")),
        ("sftp://u@[::1]/x", sftp("u", "::1", 22, "x")),
    ] {
        assert_eq!(parse_location(text, &env()), Ok(expected), "{text}");
    }
}

#[test]
fn region_is_that_of_the_environment_or_of_the_endpoint() {
    let region = |text: &str, env: &ResticEnv| match parse_location(text, env).unwrap() {
        BackendConfig::S3(config) => config.region,
        other => panic!("{other:?}"),
    };
    for (text, expected) in [
        ("s3:https://s3.eu-central-1.amazonaws.com/b", "eu-central-1"),
        ("s3:s3.fr-par.scw.cloud/b", "fr-par"),
        ("s3:s3.amazonaws.com/b", "us-east-1"),
        ("s3:http://10.0.0.1:9000/b", "us-east-1"),
    ] {
        assert_eq!(region(text, &ResticEnv::default()), expected);
        assert_eq!(region(text, &env()), "eu");
    }
}

#[test]
fn clouds_of_their_own_are_found_by_the_environment() {
    let env = ResticEnv {
        azure_suffix: Some("core.chinacloudapi.cn".into()),
        gcs_emulator: Some("127.0.0.1:4443".into()),
        ..env()
    };
    let url = |text| parse_location(text, &env).unwrap().url().unwrap().to_owned();
    assert_eq!(url("azure:barrels:/"), "https://vault.blob.core.chinacloudapi.cn");
    assert_eq!(url("gs:barrels:/"), "http://127.0.0.1:4443");
}

#[test]
fn wrong_locations_are_refused_with_the_right_form() {
    let parse = |text: &str| parse_location(text, &env()).unwrap_err().to_string();
    for (text, scheme) in [
        ("b2:x", "b2"),
        ("s3.example.com:bucket", "s3.example.com"),
        ("rest:http+unix:///tmp/rest.socket:/x/", "rest:http+unix"),
    ] {
        assert_eq!(parse_location(text, &env()), Err(LocationError::UnknownBackend(scheme.into())));
        assert!(parse(text).contains("local:PATH"));
    }
    for text in [
        "s3:",
        "s3:host",
        "s3:http://",
        "s3:https://host/",
        "s3:https:///bucket",
        "s3:ftp://h/b",
        "s3:https://h:x/b",
        "s3:///b",
    ] {
        assert!(parse(text).contains(S3_FORM), "{text}");
    }
    for (text, form) in [
        ("azure:", AZURE_FORM),
        ("azure:/x", AZURE_FORM),
        ("gs:", GCS_FORM),
        ("rest:", REST_FORM),
        ("rest:ftp://host/", REST_FORM),
        ("rest:http:///x", REST_FORM),
        ("sftp:", SFTP_FORM),
        ("sftp:u@h", SFTP_FORM),
        ("sftp:u@h:", SFTP_FORM),
        ("sftp://u@h", SFTP_FORM),
        ("sftp://u@h/", SFTP_FORM),
        ("sftp://u@h:port/x", SFTP_FORM),
        ("sftp://host:dir", SFTP_FORM),
        ("sftp:u@:x", SFTP_FORM),
        ("s3:https://h/b/../../c", S3_FORM),
        ("azure:c:../x", AZURE_FORM),
        ("gs:b:..", GCS_FORM),
        ("rest:https://h:port/", REST_FORM),
    ] {
        assert!(parse(text).contains(form), "{text}: {}", parse(text));
    }
    assert_eq!(parse_location("azure:barrels:/", &ResticEnv::default()), Err(LocationError::NoAccount));
    assert_eq!(parse_location("s3:s3.amazonaws.com/b//x", &env()), Err(LocationError::LeadingSlash));
    assert_eq!(parse_location("sftp:u@h:~/x", &env()), Err(LocationError::Tilde));
    let error = parse_location("sftp:h:/x", &ResticEnv::default()).unwrap_err();
    assert_eq!(error, LocationError::Incomplete { missing: "user", form: SFTP_FORM });
}

#[test]
fn location_that_holds_a_password_is_refused_without_showing_it() {
    for text in [
        "s3:https://k:hush@host/bucket",
        "s3:https://k:hu/sh@host/bucket",
        "rest:https://u:hu/sh@host/x",
        "sftp:u:hush@h:/x",
        "sftp://u:hush@h//x",
    ] {
        let error = parse_location(text, &env()).unwrap_err();
        assert!(matches!(error, LocationError::Credentials(_)) && !error.to_string().contains("sh@"), "{error}");
    }
}

#[test]
fn user_and_password_of_a_rest_server_are_taken_from_its_url() {
    let found = |text: &str| {
        let found = credentials_in(text);
        let of = |credential| found.get(&credential).map(|secret: &Secret| secret.expose().to_owned());
        (of(Credential::RestUser), of(Credential::RestPassword))
    };
    let both = |user: &str, password: &str| (Some(user.to_owned()), Some(password.to_owned()));
    assert_eq!(found("rest:https://user:p%40ss%2Fw@host:8000/x/"), both("user", "p@ss/w"));
    assert_eq!(found("rest:https://us%C3%A9r:p:w@host/"), both("us\u{e9}r", "p:w"));
    assert_eq!(found("rest:https://user@host/"), both("user", ""));
    for text in ["rest:https://host/a@b", "rest:https://@host/", "s3:https://k:s@h/b", "/srv/x", "sftp:u@h:x"] {
        assert_eq!(found(text), (None, None), "{text}");
    }
    let text = "rest:https://user:hush@host/x";
    let shown = format!("{:?} {:?}", parse_location(text, &env()).unwrap(), credentials_in(text));
    assert!(!shown.contains("hush"), "{shown}");
}
