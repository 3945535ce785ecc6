//! The first ten minutes of a stranger: each way to fail at the start, with its sentence and its exit
//! code, as text and as JSON. The same test prints the table, with `--no-capture`.

mod cases;
mod run;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::support::listeners::{answering, response};
use crate::support::mounted::{command, wait_until};
use crate::support::simulator::Simulator;
use cases::{Case, World};
use run::{Row, matches, processes_naming};

/// A start that fails says in one sentence what happened and what to do, also with `--json`, ends
/// with the exit code of its kind within 15 s, and leaves no mount, no process and no file behind.
#[test]
fn each_failure_has_its_sentence_and_leaves_nothing() {
    let world = World::start();
    let cases = cases::all(&world);
    let queue = Mutex::new(cases.iter().enumerate());
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                loop {
                    let Some((number, case)) = queue.lock().unwrap().next() else { return };
                    let row = run::run(&world, case);
                    rows.lock().unwrap().push((number, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|(number, _)| *number);
    assert_eq!(rows.len(), cases.len());
    print_table(rows.iter().map(|(_, row)| row));
    let wrong: Vec<&str> =
        rows.iter().flat_map(|(_, row)| &row.wrong).map(String::as_str).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn print_table<'a>(rows: impl Iterator<Item = &'a Row>) {
    let mut table = String::from("failure | command | sentence | exit code | seconds\n");
    for Row { failure, command, sentence, code, seconds, .. } in rows {
        table += &format!("{failure} | {command} | {sentence} | {code} | {seconds:.2}\n");
    }
    let _ = std::io::stdout().write_all(table.as_bytes());
}

/// docs/TROUBLESHOOTING.md has each of these sentences, with its cause and what to do.
#[test]
fn each_failure_is_explained() {
    let world = World::start();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/TROUBLESHOOTING.md");
    let text = fs::read_to_string(path).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut wrong = Vec::new();
    for Case { failure, explained_by, says, .. } in cases::all(&world) {
        if !text.contains(explained_by) {
            wrong.push(format!("{failure}: docs/TROUBLESHOOTING.md lacks {explained_by:?}"));
        }
        if !matches(&format!("*{explained_by}*"), &format!("x{says}x")) {
            wrong.push(format!("{failure}: {explained_by:?} is not a part of {says:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Exit codes and the names of failures are those of the table in docs/CONFIGURATION.md.
#[test]
fn exit_codes_are_documented() {
    use s3mount::mount::StartErrorKind as Kind;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIGURATION.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once("## Exit codes").unwrap();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'))
        .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    let kinds = [
        Kind::Other,
        Kind::Usage,
        Kind::NoCredentials,
        Kind::Denied,
        Kind::NotFound,
        Kind::Network,
        Kind::MountPoint,
        Kind::Fuse,
        Kind::Interrupted(libc::SIGTERM),
    ];
    for kind in kinds {
        let code = match kind {
            Kind::Interrupted(_) => "128 + N".to_owned(),
            kind => kind.exit_code().to_string(),
        };
        let row = rows.iter().find(|row| row[1] == code);
        assert_eq!(row.map(|row| row[2]), Some(kind.name()), "{code}");
    }
    assert_eq!(Kind::Interrupted(libc::SIGTERM).exit_code(), 143);
}

/// Files that `AWS_CONFIG_FILE` and `AWS_SHARED_CREDENTIALS_FILE` name by a relative path are those of
/// the directory in which the command was given, also when they change while mounted.
#[test]
fn relative_configuration_files_outlive_the_start() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "hello.txt", "hello");
    let directory = tempfile::tempdir().unwrap();
    let write = |access: &str, secret: &str| {
        let text = format!("[work]\naws_access_key_id={access}\naws_secret_access_key={secret}\n");
        fs::write(directory.path().join("keys"), text).unwrap();
    };
    write(simulator.access_key(), simulator.secret_key());
    let endpoint = simulator.endpoint();
    let settings = format!("[profile work]\nregion = us-east-1\nendpoint_url = {endpoint}\n");
    fs::write(directory.path().join("settings"), settings).unwrap();
    let mount = directory.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let mut program = command(&simulator);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"] {
        program.env_remove(name);
    }
    program.env("AWS_CONFIG_FILE", "settings").env("AWS_SHARED_CREDENTIALS_FILE", "./keys");
    program.current_dir(directory.path()).args(["--profile", "work", "--open-ttl", "0"]);
    let output = program.args(["myfiles", "mnt"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(mount.join("hello.txt")).unwrap(), "hello");
    simulator.remove_credentials(simulator.access_key());
    write("AKIANEW", "new-secret");
    simulator.add_credentials("AKIANEW", "new-secret");
    assert!(wait_until(|| fs::read_to_string(mount.join("hello.txt")).is_ok()), "read again");
    end(&mount);
}

/// So is the file that `AWS_WEB_IDENTITY_TOKEN_FILE` names.
#[test]
fn a_relative_token_file_is_found() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "hello.txt", "hello");
    let session = simulator.issuer.issue(&simulator);
    let sts = answering(move |request| {
        if !request.contains("WebIdentityToken=the-token") {
            return response("400 Bad Request", "", "");
        }
        let credentials = format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
             <SessionToken>{}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>\
             </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
            session.access_key, session.secret_key, session.token
        );
        response("200 OK", "Content-Type: text/xml\r\n", &credentials)
    });
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("token"), "the-token").unwrap();
    let mount = directory.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let mut program = command(&simulator);
    program.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    program
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", "token")
        .env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
        .env("AWS_ENDPOINT_URL_STS", format!("http://{sts}"))
        .env("AWS_ENDPOINT_URL_S3", simulator.endpoint());
    let output = program.current_dir(&directory).args(["myfiles", "mnt"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(mount.join("hello.txt")).unwrap(), "hello");
    end(&mount);
}

fn end(mount: &Path) {
    let umount = Command::new("umount").arg(mount).stderr(Stdio::null()).status();
    assert!(umount.is_ok_and(|status| status.success()));
    let directory = mount.parent().and_then(Path::to_str).expect("a directory");
    assert!(wait_until(|| processes_naming(directory).is_empty()), "no process is left");
}
