//! Credentials that change while a bucket is mounted: no reader notices while there are valid ones,
//! and none of them is ever in the log.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::rotation::{
    ASK_ALWAYS, Home, Readers, bucket, errno, keys, profile, read_while_tokens_expire, replace,
};
use crate::support::mounted::{Mounted, sleep, wait_until};
use crate::support::simulator::call::Kind;

/// While a credentials file has a new session token whenever the old one expires, no reader gets an
/// error, however the file is written.
#[test]
fn tokens_that_expire_are_replaced_under_the_readers() {
    read_while_tokens_expire(Duration::from_secs(10), Duration::from_millis(2500));
}

/// When an access key is replaced in its file and then deleted, no reader gets an error.
#[test]
fn access_keys_are_replaced_under_the_readers() {
    let simulator = bucket();
    let home = Home::new();
    home.write_credentials(&keys(simulator.access_key(), simulator.secret_key()));
    let mounted = home.mount(&simulator, &ASK_ALWAYS);
    let readers = Readers::start(&simulator, &mounted);
    let mut old = simulator.access_key().to_owned();
    for step in 0..4 {
        let new = format!("AKIA{step}");
        // S3 knows a new key a moment after the file has it, or a moment before.
        if step % 2 == 0 {
            simulator.add_credentials(&new, "another-secret");
        }
        replace(&home, &keys(&new, "another-secret"), step);
        sleep(Duration::from_millis(500));
        simulator.add_credentials(&new, "another-secret");
        simulator.remove_credentials(&old);
        old = new;
        sleep(Duration::from_millis(1500));
    }
    let (n_done, errors) = readers.end();
    assert!(n_done > 50 && errors.is_empty(), "{n_done} {:?}", &errors[..errors.len().min(20)]);
}

/// When a web identity token is replaced on disk, the next credentials are got with the new one,
/// ahead of the end of the old ones.
#[test]
fn a_web_identity_token_is_read_again() {
    let simulator = bucket();
    let home = Home::new();
    home.write("token", "first-token");
    simulator.issuer.honor(&["first-token"]);
    simulator.issuer.set_life(Duration::from_secs(4));
    let mut program = home.command(&simulator);
    program
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", home.path("token"))
        .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/reader");
    let mounted = Mounted::start(program, "myfiles", &ASK_ALWAYS);
    let readers = Readers::start(&simulator, &mounted);
    sleep(Duration::from_secs(6));
    simulator.issuer.honor(&["first-token", "second-token"]);
    home.write("token", "second-token");
    sleep(Duration::from_secs(5));
    simulator.issuer.honor(&["second-token"]);
    sleep(Duration::from_secs(5));
    let (n_done, errors) = readers.end();
    assert!(n_done > 50 && errors.is_empty(), "{n_done} {:?}", &errors[..errors.len().min(20)]);
    let asked = simulator.issuer.asked();
    assert!(asked.iter().all(|asked| asked.granted), "{asked:?}");
    assert!(asked.iter().any(|asked| asked.token == "second-token"), "{asked:?}");
    // 16 s of lives of 4 s, each renewed a quarter before its end: not once per request.
    assert!((3..=10).contains(&asked.len()), "{asked:?}");
    let refused = simulator.log().iter().filter(|entry| entry.status == Some(400)).count();
    assert_eq!(refused, 0, "no token was used to its end");
}

/// A profile that is switched from keys to SSO, to a role, or to a `credential_process` is followed
/// without a new mount.
#[test]
fn a_switched_profile_is_followed() {
    let simulator = bucket();
    let home = Home::new();
    home.write_credentials(&keys(simulator.access_key(), simulator.secret_key()));
    let mounted = home.mount(&simulator, &ASK_ALWAYS);
    let readers = Readers::start(&simulator, &mounted);
    let uses = |key: &str| {
        let log = simulator.log();
        log.last().is_some_and(|entry| entry.call.access_key.as_deref() == Some(key))
    };
    assert!(wait_until(|| uses(simulator.access_key())));

    simulator.issuer.honor(&["sso-token"]);
    home.write_sso_token("sso-token", "2099-01-01T00:00:00Z");
    home.write(
        ".aws/config",
        "[default]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = reader\n\
         [sso-session corp]\nsso_region = us-east-1\n\
         sso_start_url = https://corp.awsapps.com/start\n",
    );
    fs::remove_file(home.path(".aws/credentials")).unwrap();
    assert!(wait_until(|| uses("ASIASIMULATOR0000001")), "SSO: {}", mounted.log());

    home.write_credentials(
        &keys(simulator.access_key(), simulator.secret_key()).replace("default", "base"),
    );
    let role =
        "[default]\nrole_arn = arn:aws:iam::111122223333:role/reader\nsource_profile = base\n";
    home.write(".aws/config", role);
    assert!(wait_until(|| uses("ASIASIMULATOR0000002")), "a role: {}", mounted.log());

    let session = simulator.issuer.issue(&simulator);
    let json = format!(
        r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{}","SessionToken":"{}"}}"#,
        session.access_key, session.secret_key, session.token
    );
    home.write("process.json", &json);
    let process = format!("cat {}", home.path("process.json").display());
    home.write(".aws/config", &format!("[default]\ncredential_process = {process}\n"));
    assert!(wait_until(|| uses(&session.access_key)), "a process: {}", mounted.log());

    let (n_done, errors) = readers.end();
    assert!(n_done > 20 && errors.is_empty(), "{n_done} {:?}", &errors[..errors.len().min(20)]);
    let calls: Vec<_> = simulator.issuer.asked().into_iter().map(|asked| asked.call).collect();
    assert_eq!(calls, ["GetRoleCredentials", "AssumeRole"]);
}

/// When there are no valid credentials any more, what has to ask S3 fails with EACCES, what is known
/// is shown and read for as long as it holds, the log says so once a minute, and when there are
/// valid ones again everything works again by itself.
#[test]
fn credentials_that_are_gone_come_back() {
    let simulator = bucket();
    simulator.put("myfiles", "known/file", "content");
    let home = Home::new();
    home.write_credentials(&keys(simulator.access_key(), simulator.secret_key()));
    let mounted = home.mount(&simulator, &["--metadata-ttl", "60s"]);
    let open = fs::File::open(mounted.join("known/file")).unwrap();
    open.read_exact_at(&mut [0; 7], 0).unwrap();
    assert_eq!(fs::read_dir(mounted.join("known")).unwrap().count(), 1);

    simulator.remove_credentials(simulator.access_key());
    for n in 0..20 {
        assert_eq!(errno(fs::read(mounted.join(format!("d/f{n:06}")))), Some(libc::EACCES), "{n}");
        assert_eq!(errno(fs::read_dir(mounted.join(format!("d{n}")))), Some(libc::EACCES));
        assert_eq!(fs::metadata(mounted.join("known/file")).unwrap().len(), 7);
    }
    assert_eq!(fs::read_dir(mounted.join("known")).unwrap().count(), 1);
    let mut text = [0; 7];
    open.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"content");
    let log = mounted.log();
    let said: Vec<_> = log.lines().filter(|line| line.contains("the access key is not")).collect();
    assert_eq!(said.len(), 1, "once: {log}");
    assert!(said[0].contains("WARN") && said[0].contains("by themselves"), "{}", said[0]);

    simulator.add_credentials("AKIANEW", "new-secret");
    home.write_credentials(&keys("AKIANEW", "new-secret"));
    let back = || fs::read(mounted.join("d/f000001")).is_ok();
    assert!(wait_until(back), "{}", mounted.log());
    assert_eq!(fs::read_dir(mounted.join("d")).unwrap().count(), 50);
    assert!(mounted.log().contains("S3 accepts the credentials"), "{}", mounted.log());
}

/// After an SSO session has ended, `aws sso login` is enough for the mount to work again.
#[test]
fn a_new_login_is_noticed() {
    let simulator = bucket();
    let home = Home::new();
    simulator.issuer.honor(&["sso-token"]);
    simulator.issuer.set_life(Duration::from_secs(3));
    home.write_sso_token("sso-token", "2099-01-01T00:00:00Z");
    home.write(
        ".aws/config",
        "[default]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = reader\n\
         [sso-session corp]\nsso_region = us-east-1\n\
         sso_start_url = https://corp.awsapps.com/start\n",
    );
    let mounted = home.mount(&simulator, &ASK_ALWAYS);
    assert_eq!(fs::read(mounted.join("d/f000001")).unwrap().len(), 3000);
    simulator.issuer.honor(&[]);
    home.write_sso_token("sso-token", "2020-01-01T00:00:00Z");
    sleep(Duration::from_secs(3));
    assert_eq!(errno(fs::read(mounted.join("d/f000002"))), Some(libc::EACCES));
    simulator.issuer.honor(&["new-token"]);
    home.write_sso_token("new-token", "2099-01-01T00:00:00Z");
    let back = || fs::read(mounted.join("d/f000003")).is_ok();
    assert!(wait_until(back), "{}", mounted.log());
}

/// A start without credentials ends with exit code 3 and names the places looked in, and one with
/// an expired token with exit code 4, and says that it has expired.
#[test]
fn a_start_tells_missing_from_expired() {
    let simulator = bucket();
    let home = Home::new();
    let start = || {
        let mount_point = tempfile::tempdir().unwrap();
        let mut program = home.command(&simulator);
        let output = program.arg("myfiles").arg(mount_point.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = start();
    assert_eq!(code, Some(3), "{text}");
    for place in ["AWS_ACCESS_KEY_ID", ".aws/credentials", ".aws/config"] {
        assert!(text.contains(place), "{text}");
    }
    let session = simulator.issuer.issue(&simulator);
    simulator.expire_credentials(&session.access_key);
    home.write_credentials(&profile(&session));
    let (code, text) = start();
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("expired"), "{text}");
}

/// No secret key, session token or signature is ever in the log, also at level trace.
#[test]
fn the_log_has_no_secret() {
    let simulator = bucket();
    let home = Home::new();
    simulator.issuer.set_life(Duration::from_secs(3));
    home.write("token", "web-identity-token-that-is-secret");
    simulator.issuer.honor(&["web-identity-token-that-is-secret", "sso-token-that-is-secret"]);
    let mut program = home.command(&simulator);
    program
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", home.path("token"))
        .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/reader");
    let options = ["--log-level", "trace"];
    let mounted = Mounted::start(program, "myfiles", &[&ASK_ALWAYS[..], &options].concat());
    let read = |n: u64| fs::read(mounted.join(format!("d/f{n:06}"))).is_ok();
    assert!(read(0));
    sleep(Duration::from_secs(3));
    assert!(read(1));
    // From here on the profile counts: first keys with a token, then SSO, then a process.
    let session = simulator.issuer.issue(&simulator);
    home.write_credentials(&profile(&session));
    let uses_profile = || {
        read(2)
            && simulator.log().last().unwrap().call.access_key.as_ref() == Some(&session.access_key)
    };
    assert!(wait_until(uses_profile));
    fs::remove_file(home.path(".aws/credentials")).unwrap();
    home.write_sso_token("sso-token-that-is-secret", "2099-01-01T00:00:00Z");
    home.write(
        ".aws/config",
        "[default]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = reader\n\
         [sso-session corp]\nsso_region = us-east-1\n\
         sso_start_url = https://corp.awsapps.com/start\n",
    );
    let asked_sso = || {
        read(3) && simulator.issuer.asked().iter().any(|asked| asked.call == "GetRoleCredentials")
    };
    assert!(wait_until(asked_sso), "{}", mounted.log());
    let process = r#"echo {"Version":1,"SecretAccessKey":"secret-of-a-broken-process"} && exit 1"#;
    home.write(".aws/config", &format!("[default]\ncredential_process = {process}\n"));
    sleep(Duration::from_secs(4));
    read(4);
    assert!(simulator.counts().get > 2 && simulator.counts().list > 2);

    let log = mounted.log();
    assert!(log.contains("TRACE") && log.lines().count() > 100, "{log}");
    // Everything that was issued has one of these in it, whatever its number.
    for secret in [
        "session/secret+",
        "abcdefghijklmnopqrstu",
        "session/token+with",
        "web-identity-token-that-is-secret",
        "sso-token-that-is-secret",
        "secret-of-a-broken-process",
        "Signature=",
    ] {
        for form in [secret.to_owned(), percent_encoded(secret)] {
            let place = log.lines().find(|line| line.contains(&form));
            assert!(place.is_none(), "{secret}: {place:?}");
        }
    }
    for session in
        (1..20).map(|n| format!("IQoJb3JpZ2luX2VjE+{n:07}/session/token+with/a+length//8=="))
    {
        let encoded = base64(&session);
        assert!(!log.contains(&encoded), "{encoded}");
    }
}

fn percent_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn base64(text: &str) -> String {
    use aws_smithy_types::base64;
    base64::encode(text).trim_end_matches('=').to_owned()
}

/// A name that is looked for while an access key is replaced gets its right answer.
///
/// What a HEAD is refused with has no body to say why: 403 is a wrong key, a missing right, or a
/// missing file.
#[test]
fn a_head_that_is_refused_for_its_key_is_repeated() {
    let simulator = bucket();
    let home = Home::new();
    home.write_credentials(&keys(simulator.access_key(), simulator.secret_key()));
    let mounted = home.mount(&simulator, &ASK_ALWAYS);
    // The key is replaced between two requests for one name: HEAD is refused, LIST is not.
    let new = home.path(".aws/credentials");
    let old = simulator.access_key().to_owned();
    simulator.before(Kind::Head, "d/absent", move |world| {
        world.add_credentials("AKIANEW", "new-secret");
        world.remove_credentials(&old);
        fs::write(&new, keys("AKIANEW", "new-secret")).unwrap();
    });
    assert_eq!(errno(fs::metadata(mounted.join("d/absent"))), Some(libc::ENOENT));
    assert_eq!(fs::read(mounted.join("d/f000001")).unwrap().len(), 3000);
}
