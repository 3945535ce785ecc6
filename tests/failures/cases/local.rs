//! What is wrong on this machine: settings, words, the mount point, FUSE.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use super::{Case, NOBODY, Place, World, give_away, reads_hello, write};
use crate::failures::run::unmount;
use crate::support::mounted::{command, is_mounted, send_signal, wait_until};

pub(super) fn configuration(world: &World) -> Vec<Case> {
    let named = |name, file: &str| Case::new(name, "myfiles MNT").set("AWS_CONFIG_FILE", file);
    let tls = world.tls.endpoint();
    let bundle = |name, file: &str| {
        Case::new(name, "myfiles MNT").set("AWS_ENDPOINT_URL", &tls).set("AWS_CA_BUNDLE", file)
    };
    let unreadable = |file: &str, reason: &str| {
        format!(
            "the AWS configuration file {file} cannot be read ({reason}); check its mode and \
             owner, or name another with AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE"
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
            .of_nobody()
            .after(|_, place| {
                write(place, "config", "[default]\n");
                let closed = fs::Permissions::from_mode(0o600);
                fs::set_permissions(place.path().join("config"), closed)
                    .expect("a directory of our own");
            })
            .fails(
                2,
                unreadable("HOME/config", "Permission denied (os error 13)"),
                "the AWS configuration file",
            ),
        Case::new("home directory of another user, no obstacle", "myfiles MNT")
            .unset("AWS_CONFIG_FILE")
            .unset("AWS_SHARED_CREDENTIALS_FILE")
            .of_nobody()
            .after(|_, place| {
                let aws = place.path().join(".aws");
                fs::create_dir(&aws).expect("a directory of our own");
                write(place, ".aws/config", "oops");
                fs::set_permissions(aws, fs::Permissions::from_mode(0o700))
                    .expect("a directory of our own");
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

pub(super) fn words() -> Vec<Case> {
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
        name(
            "bucket name in upper case",
            "MyFiles",
            "has lower-case letters only, as in 'myfiles'",
        ),
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
            "invalid value 'MNT' for 'BUCKET[/PREFIX]': the bucket comes first, and the directory \
             to mount it on second",
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
            "invalid value 'regoin=x' for '-o <OPTIONS>': no such mount option; did you mean \
             region? allowed are *",
            "no such mount option",
        ),
        Case::new(
            "log file that cannot be written",
            "myfiles MNT --log-file HOME/missing/log",
        )
        .fails(
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

pub(super) fn mount_point() -> Vec<Case> {
    let umounted = |place: &Place| unmount(&place.mount());
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
        Case::new("mount point of another user", "myfiles MNT").of_nobody().fails(
            7,
            "MNT does not belong to the mounting user or is not writable, as fusermount3 wants it; \
             choose a directory of your own, or mount as root",
            "does not belong to the mounting user",
        ),
    ]
}

pub(super) fn fuse() -> Vec<Case> {
    let own = |name, line, script| Case::new(name, line).wrapped(script).after(give_away);
    vec![
        Case::new("no /dev/fuse", "myfiles MNT")
            .wrapped("mount -t tmpfs -o mode=755 tmpfs /dev\nmknod -m 666 /dev/null c 1 3")
            .fails(
                8,
                "/dev/fuse cannot be used (No such file or directory (os error 2)); load the \
                 kernel module with `modprobe fuse`, or start the container with --device \
                 /dev/fuse and --cap-add SYS_ADMIN",
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
             security module confines it; mount below the home directory, /mnt, /media or /tmp, \
             where the profile of Ubuntu lets it, allow the place in \
             /etc/apparmor.d/local/fusermount3, or mount as root",
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

/// A mount of ours that lives until it is unmounted.
fn mount_ours(world: &World, place: &Place) {
    let mut program = command(&world.simulator);
    let status = program.arg("abroad").arg(place.mount()).stdin(Stdio::null()).status();
    assert!(status.expect("it starts").success());
}

/// A mount of ours whose process was killed.
fn die_mounted(world: &World, place: &Place) {
    let mut program = command(&world.simulator);
    program.args(["--foreground", "myfiles"]).arg(place.mount());
    let mut child = program.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    assert!(wait_until(|| is_mounted(&place.mount())));
    send_signal(child.id(), libc::SIGKILL);
    child.wait().expect("a child");
}

/// A FUSE mount of nobody's.
fn mount_dead(place: &Place) {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").expect("FUSE");
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let target = CString::new(place.mount().as_os_str().as_bytes()).expect("no zero");
    let data = CString::new(data).expect("no zero");
    // SAFETY: strings with their terminating zeros, which outlive the call.
    let result = unsafe {
        let (source, kind) = (c"elsewhere".as_ptr(), c"fuse.other".as_ptr());
        libc::mount(source, target.as_ptr(), kind, libc::MS_RDONLY, data.as_ptr().cast())
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
