//! The table: what is wrong, how it is made, and what the user is told. `MNT` stands for the mount
//! point and `HOME` for the directory that it is in, `*` for what differs from run to run.

use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::listeners::{answering, closed, response, silent_after, silent_in_answer};
use crate::support::mounted::{command, is_mounted, send_signal, wait_until};
use crate::support::simulator::Simulator;
use crate::support::simulator::policy::Action;

/// What all cases share.
pub(super) struct World {
    pub(super) simulator: Simulator,
    tls: Simulator,
    /// Hears questions and answers none.
    name_server: Option<UdpSocket>,
    /// This user may make mount namespaces and become another user in them.
    has_namespaces: bool,
    /// Programs that every user may run: the binary, and helpers of the scripts.
    pub(super) tools: TempDir,
    pub(super) public_binary: PathBuf,
}

/// A fresh directory for one run, with a mount point in it.
pub(super) struct Place {
    pub(super) directory: TempDir,
}

pub(super) struct Case {
    pub(super) failure: &'static str,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, Option<String>)>,
    /// Runs in a mount namespace of its own after this script; `$RUN` goes before the binary.
    pub(super) wrapper: Option<&'static str>,
    pub(super) prepare: fn(&World, &Place),
    /// What must hold while it is mounted, where it is.
    pub(super) mounted: Option<fn(&Path) -> Result<(), String>>,
    /// Takes away what `prepare` mounted.
    pub(super) clean: fn(&Place),
    pub(super) code: i32,
    pub(super) says: String,
    /// Words of docs/TROUBLESHOOTING.md, and of the sentence.
    pub(super) explained_by: &'static str,
}

impl World {
    pub(super) fn start() -> Self {
        let simulator = Simulator::builder().bucket("myfiles").start();
        simulator.put("myfiles", "hello.txt", "hello");
        simulator.put("myfiles", "secret.txt", "hello");
        simulator.deny("myfiles", Action::GetObject, "secret.txt");
        simulator.create_bucket("closed");
        simulator.deny("closed", Action::ListBucket, "");
        simulator.create_bucket_in("abroad", "eu-central-1");
        simulator.put("abroad", "hello.txt", "hello");
        simulator.add_credentials("EXPIRED", "secret");
        simulator.expire_credentials("EXPIRED");

        let tools = tempfile::tempdir().unwrap();
        open_to_all(tools.path());
        let public_binary = tools.path().join("s3mount");
        let binary = env!("CARGO_BIN_EXE_s3mount");
        if fs::hard_link(binary, &public_binary).is_err() {
            fs::copy(binary, &public_binary).unwrap();
        }
        // Where it is missing, the cases that need it are skipped.
        let _ = fs::copy("/usr/bin/setpriv", tools.path().join("setpriv"));
        let confined = tools.path().join("confined");
        fs::create_dir(&confined).unwrap();
        open_to_all(&confined);
        let program = confined.join("fusermount3");
        // What it says where AppArmor is in its way.
        let script = "#!/bin/sh\necho 'fusermount3: mount failed: Permission denied' >&2\nexit 1\n";
        fs::write(&program, script).unwrap();
        open_to_all(&program);
        // The port is a fixed one, but the addresses of this machine are many: one for each process.
        let name_server =
            (2..100).find_map(|last| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 53)).ok());
        if let Some(server) = &name_server {
            let address = server.local_addr().unwrap().ip();
            let settings = format!("nameserver {address}\noptions timeout:30 attempts:1\n");
            fs::write(tools.path().join("resolv.conf"), settings).unwrap();
        }
        let mut probe = Command::new("unshare");
        probe.args(["--mount", "setpriv", "--reuid", "65534", "true"]);
        let has_namespaces = probe.stderr(Stdio::null()).status().is_ok_and(|it| it.success());
        Self {
            simulator,
            name_server,
            has_namespaces,
            tls: Simulator::builder().bucket("myfiles").tls().start(),
            tools,
            public_binary,
        }
    }
}

impl World {
    /// The right or the program that is missing here to make this failure.
    pub(super) fn lacks(&self, case: &Case) -> Option<&'static str> {
        let script = case.wrapper?;
        if !self.has_namespaces {
            Some("it needs root, unshare and setpriv")
        } else if script.contains("resolv.conf") && self.name_server.is_none() {
            Some("it needs port 53")
        } else {
            None
        }
    }
}

impl Place {
    pub(super) fn open_to_all(&self) {
        open_to_all(self.directory.path());
    }
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Case {
    fn new(failure: &'static str, line: &str) -> Self {
        Self {
            failure,
            arguments: line.split_whitespace().map(str::to_owned).collect(),
            environment: Vec::new(),
            wrapper: None,
            prepare: |_, _| {},
            mounted: None,
            clean: |_| {},
            code: 0,
            says: String::new(),
            explained_by: "",
        }
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), Some(value.to_owned())));
        self
    }

    fn unset(mut self, name: &str) -> Self {
        self.environment.push((name.to_owned(), None));
        self
    }

    /// A user without rights, in a namespace where /dev/fuse is open to all.
    fn as_nobody(self) -> Self {
        self.wrapped(NOBODY)
    }

    fn wrapped(mut self, script: &'static str) -> Self {
        self.wrapper = Some(script);
        self
    }

    fn after(mut self, prepare: fn(&World, &Place)) -> Self {
        self.prepare = prepare;
        self
    }

    fn mounts(mut self, check: fn(&Path) -> Result<(), String>) -> Self {
        self.mounted = Some(check);
        self
    }

    fn cleaned(mut self, clean: fn(&Place)) -> Self {
        self.clean = clean;
        self
    }

    /// Ends the description: the exit code, the sentence, and the part of it that is documented.
    fn fails(mut self, code: i32, says: impl Into<String>, explained_by: &'static str) -> Self {
        (self.code, self.says, self.explained_by) = (code, says.into(), explained_by);
        self
    }
}

const NOBODY: &str = "mount -t tmpfs -o mode=755 tmpfs /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/fuse c 10 229
RUN='setpriv --reuid 65534 --regid 65534 --clear-groups'";

pub(super) fn all(world: &World) -> Vec<Case> {
    let mut cases = bucket(world);
    cases.extend(credentials(world));
    cases.extend(network(world));
    cases.extend(configuration(world));
    cases.extend(words());
    cases.extend(mount_point());
    cases.extend(fuse());
    cases
}

fn bucket(world: &World) -> Vec<Case> {
    let s3 = world.simulator.endpoint();
    vec![
        Case::new("no such bucket", "absent MNT").fails(
            5,
            format!("there is no bucket absent at {s3}; check its name and AWS_ENDPOINT_URL (NoSuchBucket*)"),
            "there is no bucket",
        ),
        Case::new("list denied", "closed MNT").fails(
            4,
            "listing the bucket closed is denied: the credentials need s3:ListBucket on \
             arn:aws:s3:::closed (AccessDenied*)",
            "is denied: the credentials need s3:ListBucket on",
        ),
        Case::new("list denied below a prefix", "closed/a MNT").fails(
            4,
            "listing the bucket closed below a/ is denied: the credentials need s3:ListBucket on \
             arn:aws:s3:::closed for s3:prefix a/ (AccessDenied*)",
            "is denied: the credentials need s3:ListBucket on",
        ),
        Case::new("bucket not public", "closed MNT --no-sign-request").fails(
            4,
            "listing the bucket closed is denied: it is not public; leave --no-sign-request out to \
             use credentials (AccessDenied*)",
            "is denied: it is not public",
        ),
        Case::new("one key denied", "myfiles MNT").mounts(|mount| {
            let secret = fs::read(mount.join("secret.txt")).map_err(|err| err.kind());
            let hello = fs::read_to_string(mount.join("hello.txt")).unwrap_or_default();
            match (secret, hello.as_str()) {
                (Err(ErrorKind::PermissionDenied), "hello") => Ok(()),
                found => Err(format!("{found:?}")),
            }
        }),
        Case::new("wrong region (found)", "abroad MNT").mounts(reads_hello),
        Case::new("prefix that does not exist", "myfiles/nothing MNT")
            .mounts(|mount| match fs::read_dir(mount).map(Iterator::count) {
                Ok(0) => Ok(()),
                found => Err(format!("{found:?}")),
            })
            .fails(
                0,
                "no key in the bucket myfiles begins with nothing/; the mount is empty until one \
                 does",
                "the mount is empty until one does",
            ),
    ]
}

fn credentials(world: &World) -> Vec<Case> {
    let s3 = world.simulator.endpoint();
    let none = |name, line| {
        Case::new(name, line).unset("AWS_ACCESS_KEY_ID").unset("AWS_SECRET_ACCESS_KEY")
    };
    let looked = "looked in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the profile of";
    let further = "with its SSO, role and credential_process, in AWS_WEB_IDENTITY_TOKEN_FILE, and \
                   in the container's and the instance's metadata; set them with `aws configure`; \
                   a public bucket needs --no-sign-request";
    vec![
        Case::new("wrong secret", "myfiles MNT").set("AWS_SECRET_ACCESS_KEY", "wrong").fails(
            4,
            format!(
                "{s3} refuses the signature: the secret key does not belong to the access key; \
                 check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (SignatureDoesNotMatch*)"
            ),
            "the secret key does not belong to the access key",
        ),
        Case::new("unknown access key", "myfiles MNT").set("AWS_ACCESS_KEY_ID", "WRONG").fails(
            4,
            format!(
                "{s3} does not know the access key; check AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY (InvalidAccessKeyId*)"
            ),
            "does not know the access key",
        ),
        Case::new("expired token", "myfiles MNT")
            .set("AWS_ACCESS_KEY_ID", "EXPIRED")
            .set("AWS_SESSION_TOKEN", "old")
            .fails(
                4,
                format!(
                    "the credentials have expired, says {s3}; get new ones, as with `aws sso \
                     login`, and put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY \
                     (ExpiredToken*)"
                ),
                "the credentials have expired",
            ),
        none("no credentials", "myfiles MNT")
            .unset("AWS_CONFIG_FILE")
            .unset("AWS_SHARED_CREDENTIALS_FILE")
            .fails(
                3,
                format!(
                    "no AWS credentials were found; {looked} HOME/.aws/credentials (absent) and \
                     HOME/.aws/config (absent) {further}"
                ),
                "no AWS credentials were found",
            ),
        none("profile that does not exist", "myfiles MNT --profile wrok")
            .set("AWS_CONFIG_FILE", "HOME/config")
            .after(|_, place| {
                write(place, "config", "[profile work]\nregion=us-east-1\n[default]\n");
            })
            .fails(
                3,
                "there is no profile wrok: those that were found are default, work; looked in \
                 /dev/null and HOME/config; name another with --profile or AWS_PROFILE",
                "there is no profile",
            ),
        none("profile without keys", "myfiles MNT --profile work")
            .set("AWS_CONFIG_FILE", "HOME/config")
            .after(|_, place| write(place, "config", "[profile work]\nregion=us-east-1\n"))
            .fails(
                3,
                "the profile work gave no AWS credentials; looked in /dev/null and \
                 HOME/config; set them with `aws configure --profile work`, or log in with `aws \
                 sso login --profile work`; a public bucket needs --no-sign-request",
                "gave no AWS credentials",
            ),
        none("credential_process that fails", "myfiles MNT --profile work")
            .set("AWS_CONFIG_FILE", "HOME/config")
            .after(|_, place| {
                let text = "[profile work]\ncredential_process = sh -c 'echo oops >&2; exit 3'\n";
                write(place, "config", text);
            })
            .fails(
                3,
                "the profile work gave no AWS credentials (external process exited with code exit \
                 status: 3. Stderr: oops); looked in /dev/null and HOME/config; set them with \
                 `aws configure --profile work`, or log in with `aws sso login --profile work`; a \
                 public bucket needs --no-sign-request",
                "gave no AWS credentials",
            ),
        none("SSO without a login", "myfiles MNT --profile work")
            .set("AWS_CONFIG_FILE", "HOME/config")
            .after(|_, place| {
                let text = "[profile work]\nsso_session = s\nsso_account_id = 123456789012\n\
                            sso_role_name = r\n[sso-session s]\nsso_region = us-east-1\n\
                            sso_start_url = https://s.awsapps.com/start\n";
                write(place, "config", text);
            })
            .fails(
                3,
                "the profile work gave no AWS credentials (failed to load the cached SSO token); looked in /dev/null and HOME/config; set them with \
                 `aws configure --profile work`, or log in with `aws sso login --profile work`; a \
                 public bucket needs --no-sign-request",
                "gave no AWS credentials",
            ),
        Case::new("clock off by an hour", "myfiles MNT").set("AWS_ENDPOINT_URL", &url(skewed())).fails(
            4,
            "http://* refuses the request because the clock of this machine is 1 h ahead of the \
             server's; set the clock, as with: timedatectl set-ntp true (RequestTimeTooSkewed, \
             request 4442587FB7D0A2F9)",
            "the clock of this machine is",
        ),
    ]
}

/// A server that is an hour behind.
fn skewed() -> SocketAddr {
    answering(|_| {
        let output = Command::new("date")
            .args(["-u", "-d", "-1 hour", "+%a, %d %b %Y %H:%M:%S GMT"])
            .env("LC_ALL", "C")
            .output()
            .expect("date");
        let date = String::from_utf8(output.stdout).expect("ASCII");
        let headers = format!("Date: {}\r\nx-amz-request-id: 4442587FB7D0A2F9\r\n", date.trim());
        let body = "<?xml version=\"1.0\"?><Error><Code>RequestTimeTooSkewed</Code><Message>The \
                    difference between the request time and the current time is too large.\
                    </Message></Error>";
        response("403 Forbidden", &headers, body)
    })
}

fn network(world: &World) -> Vec<Case> {
    let at = |name, url: &str| Case::new(name, "myfiles MNT").set("AWS_ENDPOINT_URL", url);
    let check = "check AWS_ENDPOINT_URL and the network";
    let or_tls = "if it speaks TLS, write https:// instead of http://";
    let plain = world.simulator.endpoint();
    let tls = world.tls.endpoint();
    let html = "<!DOCTYPE html><html><body>Welcome</body></html>";
    let page = |status: &'static str| {
        url(answering(move |_| response(status, "Content-Type: text/html\r\n", html)))
    };
    let moved = url(answering(move |_| {
        response("302 Found", "Location: http://portal.example/login\r\n", html)
    }));
    let no_s3 = |code: &str, url: &str| {
        format!(
            "{url} does not answer as an S3 server does, but with a web page or the like; {check}, \
             and whether something else answers in its place{code}"
        )
    };
    let not_s3 = "does not answer as an S3 server does";
    let tls_wanted = page("400 Bad Request");
    let (welcome, missing, forbidden) =
        (page("200 OK"), page("404 Not Found"), page("403 Forbidden"));
    let banner = url(silent_after("SSH-2.0-OpenSSH_9.6\r\n"));
    let (silent, half) =
        (url(silent_after("")), url(silent_in_answer("HTTP/1.1 200 OK\r\nContent-Ty")));
    let body = url(silent_in_answer("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n<?xml version"));
    let busy = url(answering(|_| {
        let body = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your \
                    request rate.</Message></Error>";
        response("503 Slow Down", "", body)
    }));
    let silent_tls = silent.replace("http://", "https://");
    let nobody = url(closed());
    let closing = url(answering(|_| String::new()));
    let late = |url: &str| format!("{url} did not answer within 8 s; {check}, or try again");
    let no_http = |url: &str| {
        format!("{url} does not speak HTTP; check host and port in AWS_ENDPOINT_URL; {or_tls}")
    };
    let refusing = url(answering(move |_| response("403 Forbidden", "", html)));
    let evil = url(answering(|_| {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>Bad\u{9b}2JCode</Code><Message>see\n\u{202e}s3mount: \
             mounted\u{85}{}</Message></Error>",
            "x".repeat(5000)
        );
        response("400 Bad Request", "x-amz-request-id: 1\t2\r\n", &body)
    }));
    let tls_by_http = tls.replace("https://", "http://");
    let http_by_tls = plain.replace("http://", "https://");
    vec![
        at("endpoint refuses", &nobody).fails(
            6,
            format!("nothing listens at {nobody} (connection refused); {check}"),
            "nothing listens at",
        ),
        at("endpoint not resolved", "http://no-such-host.invalid:9000").fails(
            6,
            format!("the name in http://no-such-host.invalid:9000 is not resolved; {check}"),
            "is not resolved",
        ),
        Case::new("endpoint of the profile refuses", "myfiles MNT")
            .unset("AWS_ENDPOINT_URL")
            .set("AWS_CONFIG_FILE", "HOME/config")
            .after(|_, place| {
                let text = "[default]\nservices = local\n[services local]\ns3 =\n  endpoint_url = \
                            http://127.0.0.1:1\n";
                write(place, "config", text);
            })
            .fails(
                6,
                "nothing listens at http://127.0.0.1:1 (connection refused); check endpoint_url of \
                 the profile default and the network",
                "nothing listens at",
            ),
        at("HTML", &welcome).fails(6, no_s3("", &welcome), not_s3),
        at("HTML, 404", &missing).fails(6, no_s3(" (HTTP 404)", &missing), not_s3),
        at("HTML, 403", &forbidden).fails(6, no_s3(" (HTTP 403)", &forbidden), not_s3),
        at("HTML, 400 (nginx, plain HTTP to TLS)", &tls_wanted).fails(
            6,
            no_s3(&format!("; {or_tls} (HTTP 400)"), &tls_wanted),
            not_s3,
        ),
        at("a login page elsewhere", &moved).fails(6, no_s3(" (HTTP 302)", &moved), not_s3),
        at("another protocol (SSH)", &banner).fails(6, no_http(&banner), "does not speak HTTP"),
        at("http:// to a TLS port", &tls_by_http).fails(6, no_http(&tls_by_http), "does not speak HTTP"),
        at("https:// to a plain port", &http_by_tls).fails(
            6,
            format!(
                "{http_by_tls} does not speak TLS; write http:// instead of https:// in \
                 AWS_ENDPOINT_URL"
            ),
            "does not speak TLS",
        ),
        at("closes without an answer", &closing).fails(
            6,
            format!("{closing} closed the connection without an answer; {check}; {or_tls}"),
            "closed the connection without an answer",
        ),
        at("hangs after accept", &silent).fails(6, late(&silent), "did not answer within 8 s"),
        at("hangs in an answer's head", &half).fails(6, late(&half), "did not answer within 8 s"),
        at("hangs in an answer's body", &body).fails(6, late(&body), "did not answer within 8 s"),
        at("hangs in the TLS handshake", &silent_tls).fails(
            6,
            late(&silent_tls),
            "did not answer within 8 s",
        ),
        at("name server that hangs", "http://s3.example.com")
            .wrapped("mount --bind \"$TOOLS/resolv.conf\" /etc/resolv.conf")
            .fails(6, late("http://s3.example.com"), "did not answer within 8 s"),
        at("server overloaded", &busy).fails(
            6,
            format!(
                "{busy} cannot serve requests at the moment: Please reduce your request rate; try \
                 again later (SlowDown)"
            ),
            "cannot serve requests at the moment",
        ),
        at("certificate not trusted", &tls).fails(
            6,
            format!(
                "the TLS certificate of {tls} is not accepted: it is not signed by an authority \
                 that is trusted here; let AWS_CA_BUNDLE name a PEM file with its authority"
            ),
            "is not accepted",
        ),
        at("proxy refuses (https)", "https://s3.example.com").set("HTTPS_PROXY", &refusing).fails(
            6,
            "the proxy does not let requests through to https://s3.example.com; check HTTPS_PROXY, \
             or except the server in NO_PROXY",
            "the proxy does not let requests through",
        ),
        at("proxy refuses (http)", "http://s3.example.com").set("HTTP_PROXY", &refusing).fails(
            6,
            format!(
                "http://s3.example.com does not answer as an S3 server does, but with a web page \
                 or the like; check AWS_ENDPOINT_URL, HTTP_PROXY and the network, and whether \
                 something else answers in its place (HTTP 403)"
            ),
            not_s3,
        ),
        at("control characters in an error", &evil).fails(
            6,
            format!(
                "{evil} does not list the bucket myfiles: see s3mount: mounted xxxxx*; {check}, and \
                 that the server knows ListObjectsV2 (Bad 2JCode, request 1 2)"
            ),
            "does not list the bucket",
        ),
    ]
}

fn configuration(world: &World) -> Vec<Case> {
    let named = |name, file: &str| Case::new(name, "myfiles MNT").set("AWS_CONFIG_FILE", file);
    let tls = world.tls.endpoint();
    let bundle = |name, file: &str| {
        Case::new(name, "myfiles MNT").set("AWS_ENDPOINT_URL", &tls).set("AWS_CA_BUNDLE", file)
    };
    let unreadable = |file: &str, reason: &str| {
        format!(
            "the AWS configuration file {file} cannot be read ({reason}); check its mode and owner, \
             or name another with AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE"
        )
    };
    let bad_bundle = |file: &str, reason: &str| {
        format!(
            "{file}, which AWS_CA_BUNDLE names, {reason}; name a PEM file of the authorities to \
             trust, or unset the variable"
        )
    };
    vec![
        named("configuration without permission", "HOME/config")
            .as_nobody()
            .after(|_, place| {
                write(place, "config", "[default]\n");
                let closed = fs::Permissions::from_mode(0o600);
                fs::set_permissions(place.path().join("config"), closed).unwrap();
            })
            .fails(
                2,
                unreadable("HOME/config", "Permission denied (os error 13)"),
                "the AWS configuration file",
            ),
        Case::new("home directory of another user, no obstacle", "myfiles MNT")
            .unset("AWS_CONFIG_FILE")
            .unset("AWS_SHARED_CREDENTIALS_FILE")
            .as_nobody()
            .after(|_, place| {
                let aws = place.path().join(".aws");
                fs::create_dir(&aws).unwrap();
                write(place, ".aws/config", "oops");
                fs::set_permissions(aws, fs::Permissions::from_mode(0o700)).unwrap();
            })
            .fails(7, "MNT does not belong to the mounting user*", "does not belong to"),
        named("configuration is a directory", "HOME").fails(
            2,
            unreadable("HOME", "Is a directory (os error 21)"),
            "the AWS configuration file",
        ),
        named("configuration malformed", "HOME/config")
            .after(|_, place| write(place, "config", "[default]\nregion=x\n[profile work\n"))
            .fails(
                2,
                "the AWS configuration file HOME/config is malformed in line 3: profile definition \
                 must end with ']'; correct it",
                "is malformed in line",
            ),
        Case::new("credentials malformed", "myfiles MNT")
            .set("AWS_SHARED_CREDENTIALS_FILE", "HOME/keys")
            .after(|_, place| write(place, "keys", "oops\n"))
            .fails(
                2,
                "the AWS configuration file HOME/keys is malformed in line 1: expected a profile \
                 definition; correct it",
                "is malformed in line",
            ),
        bundle("CA bundle missing", "HOME/ca").fails(
            2,
            bad_bundle("HOME/ca", "cannot be read (No such file or directory (os error 2))"),
            "which AWS_CA_BUNDLE names",
        ),
        bundle("CA bundle empty", "/dev/null").fails(
            2,
            bad_bundle("/dev/null", "is empty"),
            "which AWS_CA_BUNDLE names",
        ),
        bundle("CA bundle not PEM", "HOME/ca")
            .after(|_, place| write(place, "ca", "0\u{82}\u{3}oops"))
            .fails(
                2,
                bad_bundle("HOME/ca", "has no certificate in PEM that can be used"),
                "which AWS_CA_BUNDLE names",
            ),
        Case::new("endpoint without scheme", "myfiles MNT --endpoint-url localhost:9000").fails(
            2,
            "invalid value 'localhost:9000' for '--endpoint-url': an endpoint is written as \
             http://HOST:PORT or https://HOST",
            "an endpoint is written as",
        ),
    ]
}

fn words() -> Vec<Case> {
    let name = |failure, bucket: &str, rule: &str| {
        let line = format!("{bucket} MNT");
        let says = format!("invalid value '{bucket}' for 'BUCKET[/PREFIX]': a bucket name {rule}");
        // Any other server has rules of its own.
        Case::new(failure, &line).unset("AWS_ENDPOINT_URL").fails(2, says, "a bucket name")
    };
    let long = "a".repeat(64);
    vec![
        name("bucket name too short", "ab", "has 3 to 63 characters, not 2"),
        name("bucket name too long", &long, "has 3 to 63 characters, not 64"),
        name("bucket name in upper case", "MyFiles", "has lower-case letters only, as in 'myfiles'"),
        name("bucket name with underscore", "my_files", "has no underscores, but may have hyphens"),
        name(
            "bucket name with another character",
            "my+files",
            "consists of lower-case letters, digits, dots and hyphens, without '+'",
        ),
        name("bucket name begins wrongly", ".files", "begins with a letter or digit"),
        name("bucket name ends wrongly", "files-", "ends with a letter or digit"),
        name("bucket name with two dots", "my..files", "has no two dots in a row"),
        name("bucket name like an address", "10.0.0.1", "does not look like an IP address"),
        name(
            "bucket name begins as AWS's",
            "xn--files",
            "does not begin with xn--, which AWS keeps for itself",
        ),
        name(
            "bucket name ends as AWS's",
            "files--ol-s3",
            "does not end with --ol-s3, which AWS keeps for names of other things",
        ),
        Case::new("words swapped", "MNT myfiles").fails(
            2,
            "invalid value 'MNT' for 'BUCKET[/PREFIX]': the bucket comes first, and the directory to \
             mount it on second",
            "the bucket comes first",
        ),
        Case::new("too little memory", "myfiles MNT --memory 1").fails(
            2,
            "invalid value '1' for '--memory <SIZE>': the smallest that works is 32MiB",
            "the smallest that works is 32MiB",
        ),
        Case::new("unknown option", "myfiles MNT --regoin x").fails(
            2,
            "there is no option --regoin; did you mean --region?",
            "there is no option",
        ),
        Case::new("unknown mount option", "myfiles MNT -o regoin=x").fails(
            2,
            "invalid value 'regoin=x' for '-o <OPTIONS>': no such mount option; allowed are *",
            "no such mount option",
        ),
        Case::new("log file that cannot be written", "myfiles MNT --log-file HOME/missing/log").fails(
            2,
            "the log cannot be written: --log-file HOME/missing/log: No such file or directory (os \
                 error 2); name a file that can be opened",
                "the log cannot be written",
        ),
        Case::new("a command of later", "status foo").fails(
            2,
            "`status` is a command of s3mount that is not available yet; to mount a bucket of this \
             name, write s3://status and a directory with a `/`",
            "is a command of s3mount that is not available yet",
        ),
        Case::new("a command that is none", "mount myfiles MNT").fails(
            2,
            "'MNT' is one word too many: after the options come BUCKET[/PREFIX] and DIR, and no \
             command before them; see s3mount --help",
            "is one word too many",
        ),
        Case::new("one word", "myfiles").fails(
            2,
            "DIR is missing; write s3mount [OPTIONS] BUCKET[/PREFIX] DIR: DIR is the directory to \
             mount on, and must exist",
            "DIR is missing",
        ),
    ]
}

fn mount_point() -> Vec<Case> {
    let umounted = |place: &Place| {
        let _ = Command::new("umount").arg(place.mount()).stderr(Stdio::null()).status();
    };
    vec![
        Case::new("mount point missing", "myfiles MNT/missing").fails(
            7,
            "MNT/missing does not exist; create it with: mkdir -p MNT/missing",
            "does not exist; create it with",
        ),
        Case::new("mount point is a file", "myfiles MNT/file")
            .after(|_, place| write(place, "mnt/file", "x"))
            .fails(
                7,
                "MNT/file is not a directory; name one that exists and is empty",
                "is not a directory",
            ),
        Case::new("already a mount", "myfiles MNT").after(mount_ours).cleaned(umounted).fails(
            7,
            "MNT is already an s3mount of s3://abroad; unmount it first, with: umount MNT (or \
             fusermount3 -u MNT)",
            "is already",
        ),
        Case::new("dead mount of ours", "myfiles MNT")
            .after(die_mounted)
            .mounts(reads_hello)
            .fails(
                0,
                "MNT held the mount of an s3mount that had died; it was unmounted",
                "held the mount of an s3mount that had died",
            ),
        Case::new("dead mount of another program", "myfiles MNT")
            .after(|_, place| mount_dead(place))
            .cleaned(umounted)
            .fails(
                7,
                "MNT holds a dead mount of another program, elsewhere (fuse.other); unmount it \
                 first, with: umount MNT (or fusermount3 -u MNT)",
                "holds a dead mount of another program",
            ),
        Case::new("mount point not empty", "myfiles MNT")
            .after(|_, place| write(place, "mnt/file", "x"))
            .mounts(reads_hello)
            .fails(
                0,
                "MNT is not empty; what is in it is hidden while the bucket is mounted",
                "is not empty",
            ),
        Case::new("mount point of another user", "myfiles MNT").as_nobody().fails(
            7,
            "MNT does not belong to the mounting user or is not writable, as fusermount3 wants it; \
             choose a directory of your own, or mount as root",
            "does not belong to the mounting user",
        ),
    ]
}

fn fuse() -> Vec<Case> {
    let own = |name, line, script| Case::new(name, line).wrapped(script).after(give_away);
    vec![
        Case::new("no /dev/fuse", "myfiles MNT")
            .wrapped("mount -t tmpfs -o mode=755 tmpfs /dev\nmknod -m 666 /dev/null c 1 3")
            .fails(
                8,
                "/dev/fuse cannot be used (No such file or directory (os error 2)); load the kernel \
                 module with `modprobe fuse`, or start the container with --device /dev/fuse and \
                 --cap-add SYS_ADMIN",
                "/dev/fuse cannot be used",
            ),
        own(
            "/dev/fuse closed to the user",
            "myfiles MNT",
            "RUN='setpriv --reuid 65534 --regid 65534 --clear-groups'
             mount -t tmpfs -o mode=755 tmpfs /dev
             mknod -m 666 /dev/null c 1 3
             mknod -m 600 /dev/fuse c 10 229",
        )
        .fails(
            8,
            "/dev/fuse is closed to this user; mount as root, or let it be opened with `chmod 666 \
             /dev/fuse`, as udev does",
            "/dev/fuse is closed to this user",
        ),
        own(
            "not root, no fusermount3",
            "myfiles MNT",
            "RUN=\"$TOOLS/setpriv --reuid 65534 --regid 65534 --clear-groups\"
             mount -t tmpfs tmpfs /usr/bin
             export PATH=\"$TOOLS\"",
        )
        .fails(
            8,
            "mounting without root needs the program fusermount3, which is not installed; install \
             the package fuse3, or mount as root",
            "needs the program fusermount3",
        ),
        own(
            "fusermount3 confined by AppArmor",
            "myfiles MNT",
            "RUN='setpriv --reuid 65534 --regid 65534 --clear-groups'
             export PATH=\"$TOOLS/confined:$PATH\"",
        )
        .fails(
            8,
            "fusermount3 may not mount on MNT (Permission denied), because AppArmor or another \
             security module confines it: from Ubuntu 25.04 on fusermount3 mounts in few places, as \
             below the home directory; mount there, or allow the place in \
             /etc/apparmor.d/local/fusermount3, and in a container give --security-opt \
             apparmor=unconfined",
            "because AppArmor or another security module confines it",
        ),
        own(
            "root without CAP_SYS_ADMIN (a container)",
            "myfiles MNT",
            "RUN='setpriv --bounding-set=-sys_admin'",
        )
        .fails(
            8,
            "fusermount3 may not mount on MNT (Operation not permitted); a container needs \
             --cap-add SYS_ADMIN, elsewhere fusermount3 must be set-user-id root",
            "may not mount on",
        ),
        own("--allow-other without user_allow_other", "myfiles MNT --allow-other", NOBODY).fails(
            8,
            "--allow-other and --allow-root are for root; for other users write the line \
             user_allow_other into /etc/fuse.conf",
            "--allow-other and --allow-root are for root",
        ),
    ]
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn write(place: &Place, name: &str, text: &str) {
    fs::write(place.path().join(name), text).unwrap();
}

fn give_away(_: &World, place: &Place) {
    std::os::unix::fs::chown(place.mount(), Some(65534), Some(65534)).unwrap();
}

/// A mount of ours that lives until it is unmounted.
fn mount_ours(world: &World, place: &Place) {
    let mut program = command(&world.simulator);
    let status = program.arg("abroad").arg(place.mount()).stdin(Stdio::null()).status();
    assert!(status.unwrap().success());
}

/// A mount of ours whose process was killed.
fn die_mounted(world: &World, place: &Place) {
    let mut program = command(&world.simulator);
    program.args(["--foreground", "myfiles"]).arg(place.mount());
    let mut child = program.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_until(|| is_mounted(&place.mount())));
    send_signal(child.id(), libc::SIGKILL);
    child.wait().unwrap();
}

/// A FUSE mount of nobody's.
fn mount_dead(place: &Place) {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let target = CString::new(place.mount().as_os_str().as_bytes()).unwrap();
    let data = CString::new(data).unwrap();
    // SAFETY: strings with their terminating zeros, which outlive the call.
    let result = unsafe {
        let (source, kind) = (c"elsewhere".as_ptr(), c"fuse.other".as_ptr());
        libc::mount(source, target.as_ptr(), kind, libc::MS_RDONLY, data.as_ptr().cast())
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn reads_hello(mount: &Path) -> Result<(), String> {
    match fs::read_to_string(mount.join("hello.txt")) {
        Ok(text) if text == "hello" => Ok(()),
        found => Err(format!("{found:?}")),
    }
}
