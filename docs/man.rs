//! Prints the manual page, docs/s3mount.1: `cargo run --example man > docs/s3mount.1`.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use s3mount::StartErrorKind as Kind;
use s3mount::cli::{Args, ListArgs, RefreshArgs, UmountArgs};

fn main() -> io::Result<()> {
    io::stdout().write_all(&page()?)
}

/// The page in roff(7): the options as `--help` has them, and what there is no room for in that.
pub(crate) fn page() -> io::Result<Vec<u8>> {
    // The tail of `--help` has its own sections here.
    let man = Man::new(Args::command().after_help("")).manual("User Commands").date("");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    section(&mut page, "DESCRIPTION", &DESCRIPTION)?;
    man.render_options_section(&mut page)?;
    section(&mut page, "UMOUNT", &UMOUNT)?;
    options(&mut page, &UmountArgs::command())?;
    section(&mut page, "LIST", &LIST)?;
    options(&mut page, &ListArgs::command())?;
    section(&mut page, "REFRESH", &REFRESH)?;
    options(&mut page, &RefreshArgs::command())?;
    section(&mut page, "SIZES AND TIMES", &SIZES)?;
    list(&mut page, "ENVIRONMENT", &ENVIRONMENT)?;
    let codes = EXIT_CODES.map(|(kind, meaning)| (kind.exit_code().to_string(), meaning));
    let zero = ("0".to_owned(), "mounted; with --foreground, unmounted again; of a command: done");
    let all: Vec<(String, &str)> = std::iter::once(zero).chain(codes).collect();
    let all: Vec<(&str, &str)> = all.iter().map(|(code, text)| (code.as_str(), *text)).collect();
    list(&mut page, "EXIT STATUS", &all)?;
    list(&mut page, "EXAMPLES", &EXAMPLES)?;
    section(&mut page, "SEE ALSO", &["umount(8), fusermount3(1), fstab(5), fuse(4)"])?;
    Ok(page)
}

const DESCRIPTION: [&str; 3] = [
    "Shows an S3 bucket, or what lies below a prefix of it, as an ordinary read-only directory, so \
     that every program can read it. Credentials and region are found as by the AWS command line.",
    "The command returns when the mount answers, or prints one sentence that says why it does not \
     come about. Unmount with s3mount umount, or end the process by SIGTERM.",
    "An open file gives the bytes of one version or an error, never a mixture; a server that does \
     not answer is never an empty directory or a missing file.",
];

const UMOUNT: [&str; 2] = [
    "s3mount umount [--lazy] [--force] [--json] DIR... unmounts, also where S3 does not answer, and \
     where the process that serves is stopped or dead: the mount is not touched. What is in use \
     stays, and its users are named. It returns when the process has ended, or after 10 s. A mount \
     with --auto-remount is not mounted anew.",
    "Only root and the user who mounted may. Without root it needs fusermount3.",
];

const LIST: [&str; 1] = [
    "s3mount list [--json] prints a line for each mount: its directory, what is mounted, the process \
     that serves it, who mounted it, and whether it is serving, not answering, stopped, dead, or \
     unknown, where the user may not ask. A mount that hangs does not hinder the list.",
];

const REFRESH: [&str; 2] = [
    "s3mount refresh [--recursive] [--json] PATH forgets what a mount knows of PATH, so that the \
     next look asks S3: for a directory the names in it, for a file or a missing name that name. \
     Open files, listings that are being read and working directories go on.",
    "Only root and the user who mounted may. The mount is asked through its control socket, in \
     $XDG_RUNTIME_DIR/s3mount, /run/user/UID/s3mount or, for root, /run/s3mount.",
];

const SIZES: [&str; 2] = [
    "Sizes are written 512MiB, 128M, 1G or in plain bytes: K, M, G, T and KiB, MiB, GiB, TiB count \
     in 1024, KB, MB, GB, TB in 1000.",
    "Times are written 60s, 5m or 1m30s; a plain number is seconds.",
];

const ENVIRONMENT: [(&str, &str); 6] = [
    ("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN", "the credentials"),
    (
        "AWS_PROFILE, AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE",
        "the profile, and the files that profiles are in; else ~/.aws/config and ~/.aws/credentials",
    ),
    ("AWS_REGION", "the bucket's region, corrected by the bucket's own answer"),
    ("AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL", "the address of another S3 server"),
    ("AWS_CA_BUNDLE", "a PEM file of authorities that are trusted instead of the system's"),
    ("XDG_RUNTIME_DIR", "where the control socket of a mount is, which refresh and list ask"),
];

const EXIT_CODES: [(Kind, &str); 8] = [
    (Kind::Other, "anything else"),
    (Kind::Usage, "the command line, or the configuration it refers to, makes no sense"),
    (Kind::NoCredentials, "no credentials were found"),
    (
        Kind::Denied,
        "a permission is missing, or the key is wrong or has expired; umount, refresh: the mount \
         is another user's",
    ),
    (Kind::NotFound, "no such bucket"),
    (Kind::Network, "network or server"),
    (
        Kind::MountPoint,
        "the mount point: absent, not a directory, in use, not permitted; umount: DIR is in use, or no \
         mount of s3mount; refresh: PATH is in no mount that can be asked",
    ),
    (Kind::Fuse, "no /dev/fuse, no fusermount3, refused by the kernel"),
];

const EXAMPLES: [(&str, &str); 6] = [
    ("s3mount myfiles /mnt/s3", "mounts a bucket"),
    (
        "s3mount s3://myfiles/some/prefix /mnt/s3 --region eu-west-1",
        "mounts what is below a prefix",
    ),
    ("s3mount --no-sign-request --foreground public-data /mnt/s3", "needs no credentials"),
    ("s3mount umount /mnt/s3", "unmounts it"),
    ("s3mount refresh /mnt/s3/incoming", "shows at once what was uploaded there"),
    (
        "myfiles /mnt/s3 fuse.s3mount ro,_netdev,allow_other,profile=work 0 0",
        "as a line of /etc/fstab",
    ),
];

fn options(page: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    let mut roff = Roff::new();
    for option in command.get_opts() {
        let long = option.get_long().map(|name| format!("--{name}"));
        let short = option.get_short().map(|letter| format!("-{letter}"));
        let names: Vec<String> = short.into_iter().chain(long).collect();
        roff.control("TP", []);
        roff.text([bold(names.join(", "))]);
        roff.text([roman(option.get_help().map(ToString::to_string).unwrap_or_default())]);
    }
    roff.to_writer(page)
}

fn section(page: &mut Vec<u8>, title: &str, paragraphs: &[&str]) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (place, paragraph) in paragraphs.iter().enumerate() {
        if place > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*paragraph)]);
    }
    roff.to_writer(page)
}

fn list(page: &mut Vec<u8>, title: &str, items: &[(&str, &str)]) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (term, meaning) in items {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
    roff.to_writer(page)
}
