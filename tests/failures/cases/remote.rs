//! What is wrong with the bucket, with the credentials, or on the way to the server.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;

use super::{Case, World, reads_hello, url, write};
use crate::support::listeners::{answering, closed, response, silent_after, silent_in_answer};

pub(super) fn bucket(world: &World) -> Vec<Case> {
    let s3 = world.simulator.endpoint();
    vec![
        Case::new("no such bucket", "absent MNT").fails(
            5,
            format!(
                "there is no bucket absent at {s3}; check its name and AWS_ENDPOINT_URL \
                 (NoSuchBucket*)"
            ),
            "there is no bucket",
        ),
        Case::new("list denied", "closed MNT").fails(
            4,
            "listing the bucket closed is denied: the credentials need s3:ListBucket on \
             arn:aws:s3:::closed, or --known-paths to open paths that are known (AccessDenied*)",
            "is denied: the credentials need s3:ListBucket on",
        ),
        Case::new("list denied below a prefix", "closed/a MNT").fails(
            4,
            "listing the bucket closed below a/ is denied: the credentials need s3:ListBucket on \
             arn:aws:s3:::closed for s3:prefix a/, or --known-paths to open paths that are known \
             (AccessDenied*)",
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

pub(super) fn credentials(world: &World) -> Vec<Case> {
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
                "the profile work gave no AWS credentials; looked in /dev/null and HOME/config; \
                 set them with `aws configure --profile work`, or log in with `aws sso login \
                 --profile work`; a public bucket needs --no-sign-request",
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
                 status: 3. Stderr: oops); looked in /dev/null and HOME/config; set them with `aws \
                 configure --profile work`, or log in with `aws sso login --profile work`; a \
                 public bucket needs --no-sign-request",
                "gave no AWS credentials",
            ),
        none("SSO without a login", "myfiles MNT --profile work")
            .set("AWS_CONFIG_FILE", "HOME/config")
            .after(|_, place| {
                let text = "[profile work]\nsso_session = s\nsso_account_id = \
                            123456789012\nsso_role_name = r\n[sso-session s]\nsso_region = \
                            us-east-1\nsso_start_url = https://s.awsapps.com/start\n";
                write(place, "config", text);
            })
            .fails(
                3,
                "the profile work gave no AWS credentials (failed to load the cached SSO token); \
                 looked in /dev/null and HOME/config; set them with `aws configure --profile \
                 work`, or log in with `aws sso login --profile work`; a public bucket needs \
                 --no-sign-request",
                "gave no AWS credentials",
            ),
        none("instance metadata that hang", "myfiles MNT")
            .set("AWS_EC2_METADATA_DISABLED", "false")
            .set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url(silent_after("")))
            .fails(3, "no AWS credentials were found; looked in*", "no AWS credentials were found"),
        none("web identity token missing", "myfiles MNT")
            .set("AWS_WEB_IDENTITY_TOKEN_FILE", "HOME/token")
            .set("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
            .fails(
                3,
                format!(
                    "no AWS credentials were found (No such file or directory (os error 2)); \
                     {looked} /dev/null and /dev/null with its SSO, role and credential_process, \
                     in HOME/token (absent), which AWS_WEB_IDENTITY_TOKEN_FILE names, and in*"
                ),
                "no AWS credentials were found",
            ),
        none("role that may not be assumed", "myfiles MNT")
            .set("AWS_WEB_IDENTITY_TOKEN_FILE", "HOME/token")
            .set("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
            .set("AWS_ENDPOINT_URL_STS", &url(refusing_sts()))
            .after(|_, place| write(place, "token", "t"))
            .fails(
                3,
                "no AWS credentials were found (AccessDenied: Not authorized to perform \
                 sts:AssumeRoleWithWebIdentity); looked in*",
                "no AWS credentials were found",
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

/// A token service that knows the role and says no.
fn refusing_sts() -> SocketAddr {
    answering(|_| {
        let body = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized to \
                    perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>";
        response("403 Forbidden", "", body)
    })
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
                    difference between the request time and the current time is too \
                    large.</Message></Error>";
        response("403 Forbidden", &headers, body)
    })
}

pub(super) fn network(world: &World) -> Vec<Case> {
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
            "<?xml \
             version=\"1.0\"?><Error><Code>Bad\u{9b}2JCode</Code><Message>see\n\u{202e}s3mount: \
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
        Case::new("no such region of AWS", "myfiles MNT --region nowhere-1")
            .unset("AWS_ENDPOINT_URL")
            .fails(
                6,
                "the host name of S3 in nowhere-1 is not resolved; check --region and the network",
                "is not resolved",
            ),
        at("proxy that is not there", "https://s3.example.com").set("HTTPS_PROXY", &nobody).fails(
            6,
            "nothing listens at https://s3.example.com or the proxy in HTTPS_PROXY (connection \
             refused); check AWS_ENDPOINT_URL, HTTPS_PROXY and the network",
            "nothing listens at",
        ),
        at("endpoint not resolved", "http://no-such-host.invalid:9000").fails(
            6,
            format!("the host name of http://no-such-host.invalid:9000 is not resolved; {check}"),
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
        at("http:// to a TLS port", &tls_by_http).fails(
            6,
            no_http(&tls_by_http),
            "does not speak HTTP",
        ),
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
            "http://s3.example.com does not answer as an S3 server does, but with a web page or \
             the like; check AWS_ENDPOINT_URL, HTTP_PROXY and the network, and whether something \
             else answers in its place (HTTP 403)",
            not_s3,
        ),
        at("control characters in an error", &evil).fails(
            6,
            format!(
                "{evil} does not list the bucket myfiles: see \\u{{202e}}s3mount: mounted xxxxx*; \
                 {check}, and that the server knows ListObjectsV2 (Bad\\u{{9b}}2JCode, request 1 2)"
            ),
            "does not list the bucket",
        ),
    ]
}
