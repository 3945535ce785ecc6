//! What was typed, and nothing more: words become an [`Args`] or a sentence that says which word is
//! wrong. What they mean is for `meaning.rs`, which makes a [`crate::config::Config`] of them.

mod commands;
mod meaning;
mod mount_options;
mod sentences;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser};
use tracing::level_filters::LevelFilter;

pub use self::commands::{ListArgs, RefreshArgs, UmountArgs};
use self::sentences::Form;
use self::words::{Asked, Name};
use crate::config::{MetadataTtl, MountFlag, Ttl, values};

const BUCKET: &str = "Bucket and credentials";
const FILES: &str = "Files";
const CACHING: &str = "Caching and memory";
const NETWORK: &str = "Network";
const RUNNING: &str = "Running";
const LOGGING: &str = "Logging";

/// Broken by hand, to fit into 80 columns.
const AFTER_HELP: &str = "\
Sizes are written 512MiB, 128M, 1G or in plain bytes: K, M, G, T and KiB, MiB,
GiB, TiB count in 1024, KB, MB, GB, TB in 1000. Times are written 60s, 5m or
1m30s; a plain number is seconds.

Credentials and region are found as by the AWS command line: environment, ~/.aws,
container, instance. AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and AWS_CA_BUNDLE are
honored.

Exit codes: 0 mounted (with --foreground: unmounted), 2 usage or configuration,
3 no credentials, 4 denied, 5 no such bucket, 6 network or server, 7 mount point,
8 FUSE, 128 + N ended by signal N, 1 anything else.

To unmount: s3mount umount /mnt/s3, also where nothing answers; what is mounted:
s3mount list. To see at once what has changed in the bucket:
s3mount refresh /mnt/s3/dir.

Examples:
  s3mount myfiles /mnt/s3
  s3mount s3://myfiles/some/prefix /mnt/s3 --region eu-west-1
  s3mount --no-sign-request --foreground public-data /mnt/s3
In /etc/fstab:
  s3://myfiles/prefix /mnt/s3 fuse.s3mount ro,_netdev,allow_other,profile=work 0 0";

/// Shows an S3 bucket as an ordinary read-only directory.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "s3mount",
    version,
    override_usage = "s3mount [OPTIONS] BUCKET[/PREFIX] DIR\n       \
        s3mount umount [--lazy] [--force] [--json] DIR... | --all\n       \
        s3mount list [--json]\n       \
        s3mount refresh [--recursive] [--json] PATH",
    after_help = AFTER_HELP,
    max_term_width = 100,
    args_override_self = true
)]
pub struct Args {
    /// What to mount: a bucket name or access-point alias with or without /PREFIX, the same as
    /// s3://BUCKET/PREFIX, or an access-point ARN.
    #[arg(value_name = "BUCKET[/PREFIX]")]
    pub bucket: String,

    /// Where to mount it: an existing directory, or /dev/fd/N for an open FUSE descriptor that
    /// someone else has mounted.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// The bucket's region [default: from the profile or the environment, corrected by the
    /// bucket's own answer].
    #[arg(long, help_heading = BUCKET)]
    pub region: Option<String>,

    /// The profile in ~/.aws/config and ~/.aws/credentials [default: AWS_PROFILE, else "default"].
    #[arg(long, value_name = "NAME", help_heading = BUCKET)]
    pub profile: Option<String>,

    /// The address of another S3 server, as http://localhost:9000 [default: AWS_ENDPOINT_URL_S3,
    /// else AWS_ENDPOINT_URL, else the profile's endpoint_url, else AWS].
    #[arg(long, value_name = "URL", help_heading = BUCKET)]
    pub endpoint_url: Option<String>,

    /// Put the bucket into the path of the URL instead of the host name [default: with an endpoint
    /// that is not one of AWS].
    #[arg(long, help_heading = BUCKET)]
    pub force_path_style: bool,

    /// Send requests without credentials, for a public bucket [default: requests are signed].
    #[arg(long, help_heading = BUCKET)]
    pub no_sign_request: bool,

    /// Mount also where listing is denied: known paths open [default: an error].
    #[arg(long, help_heading = BUCKET)]
    pub known_paths: bool,

    /// Agree to pay for the requests to a requester-pays bucket [default: no].
    #[arg(long, help_heading = BUCKET)]
    pub requester_pays: bool,

    /// Refuse the bucket unless this account of 12 digits owns it [default: any owner].
    #[arg(long, value_name = "ACCOUNT", help_heading = BUCKET)]
    pub expected_bucket_owner: Option<String>,

    /// Show only the keys below this prefix, taken as it stands, as if it were typed after the
    /// bucket [default: the whole bucket].
    #[arg(long, help_heading = BUCKET)]
    pub prefix: Option<String>,

    /// The owner of all files [default: the mounting user].
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=ID_MAX), help_heading = FILES)]
    pub uid: Option<u32>,

    /// The group of all files [default: the mounting user's].
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=ID_MAX), help_heading = FILES)]
    pub gid: Option<u32>,

    /// Permissions of files in octal; write permission is left out.
    #[arg(long, value_name = "MODE", value_parser = values::parse_mode, default_value = "0444",
        help_heading = FILES)]
    pub file_mode: u16,

    /// Permissions of directories in octal; write permission is left out.
    #[arg(long, value_name = "MODE", value_parser = values::parse_mode, default_value = "0555",
        help_heading = FILES)]
    pub dir_mode: u16,

    /// Let all users see the mount, as far as the permissions allow [default: only the mounting
    /// user].
    #[arg(long, conflicts_with = "allow_root", help_heading = FILES)]
    pub allow_other: bool,

    /// Let root see the mount, too [default: only the mounting user].
    #[arg(long, help_heading = FILES)]
    pub allow_root: bool,

    /// Accepted for the sake of other tools: a mount is always read-only.
    #[arg(long, help_heading = FILES)]
    pub read_only: bool,

    /// The most memory for data, requests and names together, at least 32MiB [default: 1/48 of the
    /// machine's, from 128MiB to 4GiB, and at most 40 % of the cgroup's limit].
    #[arg(long, value_name = "SIZE", value_parser = values::parse_memory, help_heading = CACHING)]
    pub memory: Option<u64>,

    /// How long names, sizes and listings hold: a time, `forever`, or `auto`, which is 2 s for each
    /// page of the listing, at most 60 s.
    #[arg(long, value_name = "TIME", default_value = "auto", help_heading = CACHING)]
    pub metadata_ttl: MetadataTtl,

    /// How long a missing name is taken to be missing: a time or `forever`.
    #[arg(long, value_name = "TIME", default_value = "1s", help_heading = CACHING)]
    pub negative_ttl: Ttl,

    /// How long the content of a cached file is believed when it is opened again: a time or
    /// `forever`.
    #[arg(long, value_name = "TIME", default_value = "1s", help_heading = CACHING)]
    pub open_ttl: Ttl,

    /// How long what is known and cached is served beyond its time while S3 cannot be reached: a time,
    /// `forever`, or 0 for an error.
    #[arg(long, value_name = "TIME", default_value = "forever", help_heading = CACHING)]
    pub offline_grace: Ttl,

    /// Let the kernel keep no bytes of files: each read comes to s3mount, which keeps what fits
    /// into --memory [default: the kernel keeps them, too].
    #[arg(long, help_heading = CACHING)]
    pub direct_io: bool,

    /// The most threads for each kind of work, from 1 to 64 [default: the cores, at most 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64),
        help_heading = CACHING)]
    pub max_threads: Option<u16>,

    /// The most requests in flight, from 2 to 64; one place of eight is for names [default: one for each
    /// 5MiB of --memory, from 12 to 64].
    #[arg(long, value_name = "N", value_parser = values::parse_requests, help_heading = NETWORK)]
    pub max_requests: Option<u16>,

    /// The most that is received in a second, as 20MiB, at least 64KiB; names go before files [default:
    /// what the network gives].
    #[arg(long, value_name = "SIZE", value_parser = values::parse_bandwidth,
        help_heading = NETWORK)]
    pub max_bandwidth: Option<u64>,

    /// Stay in the foreground until unmounted [default: return when the mount answers].
    #[arg(long, short, help_heading = RUNNING)]
    pub foreground: bool,

    /// Mount anew within a second when the process that serves dies, up to four times in ten
    /// minutes; a small process watches it [default: the directory gives errors until somebody
    /// mounts again].
    #[arg(long, help_heading = RUNNING)]
    pub auto_remount: bool,

    /// Options of mount(8) and /etc/fstab, separated by commas: ro, noexec, noatime, allow_other,
    /// uid=N and so on, and every long option of this page without its dashes, as
    /// region=eu-west-1.
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',',
        action = clap::ArgAction::Append, help_heading = RUNNING)]
    pub mount_options: Vec<String>,

    /// Write READY=1 and a newline to this open descriptor when the mount answers, and close it
    /// [default: none].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..),
        help_heading = RUNNING)]
    pub ready_fd: Option<i32>,

    /// Print a failure as a JSON object: error, message, exit_code [default: as text].
    #[arg(long, help_heading = RUNNING)]
    pub json: bool,

    /// Append the log to this file [default: the terminal with --foreground, else the system log].
    #[arg(long, value_name = "FILE", help_heading = LOGGING)]
    pub log_file: Option<PathBuf>,

    /// How much is logged: error, warn, info, debug or trace [default: info with --foreground, else
    /// warn].
    #[arg(long, value_name = "LEVEL", value_parser = values::parse_level, help_heading = LOGGING)]
    pub log_level: Option<LevelFilter>,

    /// What `-o` said that the kernel wants to know.
    #[arg(skip)]
    pub flags: Vec<MountFlag>,
}

impl Args {
    /// What is meant where nothing but these two was typed.
    pub fn new(bucket: String, dir: PathBuf) -> Self {
        let words = ["s3mount", "BUCKET", "DIR"].map(OsString::from);
        let plain = from_words(Self::command(), &words).expect("two words are enough");
        Self { bucket, dir, ..plain }
    }
}

/// 4294967295 is "no user" to the kernel.
const ID_MAX: i64 = u32::MAX as i64 - 1;

/// A command line.
#[derive(Clone, Debug)]
pub enum Typed {
    Mount(Box<Args>),
    Refresh(RefreshArgs),
    Umount(UmountArgs),
    List(ListArgs),
}

/// Understands the words of a command line, the program's name first. `--help`, `--version` and
/// `help` come back as errors with exit code 0.
pub fn understand(typed: &[OsString]) -> Result<Typed, clap::Error> {
    match words::check(&Args::command(), typed)? {
        Asked::Mount => parse(typed).map(|args| Typed::Mount(Box::new(args))),
        Asked::Help => {
            parse(&["s3mount".into(), "--help".into()]).map(|args| Typed::Mount(Box::new(args)))
        }
        Asked::HelpOn(name) => command(name, vec!["--help".into()]),
        Asked::Command(name, place) => {
            let words = typed.iter().enumerate().skip(1).filter(|(at, _)| *at != place);
            command(name, words.map(|(_, word)| word.clone()).collect())
        }
    }
}

fn command(name: Name, words: Vec<OsString>) -> Result<Typed, clap::Error> {
    match name {
        Name::Refresh => commands::parse(words, &Form::REFRESH).map(Typed::Refresh),
        Name::Umount => commands::parse(words, &Form::UMOUNT).map(Typed::Umount),
        Name::List => commands::parse(words, &Form::LIST).map(Typed::List),
    }
}

/// Understands the words of a mount.
pub fn parse(typed: &[OsString]) -> Result<Args, clap::Error> {
    let command = Args::command();
    let mut args = from_words(command.clone(), typed)?;
    if args.mount_options.is_empty() {
        return Ok(args);
    }

    // What `-o` says becomes long options before all others: one parser for both spellings, and
    // where they differ the command line proper wins.
    let expanded = mount_options::expand(&command, &args.mount_options)?;
    let (program, rest) = typed.split_at(typed.len().min(1));
    let all: Vec<OsString> =
        program.iter().cloned().chain(expanded.words).chain(rest.iter().cloned()).collect();
    args = from_words(command, &all)?;
    args.flags = expanded.flags;
    Ok(args)
}

/// Whether a failure to understand the command line is to be printed as JSON, too.
pub fn wants_json(typed: &[OsString]) -> bool {
    typed.iter().skip(1).take_while(|word| *word != "--").any(|word| word == "--json")
}

fn from_words(command: clap::Command, words: &[OsString]) -> Result<Args, clap::Error> {
    let matches = command.try_get_matches_from(words);
    let args = matches.and_then(|mut it| Args::from_arg_matches_mut(&mut it));
    args.map_err(|err| sentences::plain(err, &Form::MOUNT))
}

/// An error of one sentence, with exit code 2.
fn wrong(sentence: impl std::fmt::Display) -> clap::Error {
    clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{sentence}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Args, String> {
        let typed: Vec<OsString> =
            std::iter::once("s3mount").chain(line.split(' ')).map(Into::into).collect();
        parse(&typed).map_err(|err| format!("{} {}", err.exit_code(), err.render()))
    }

    #[track_caller]
    fn check_refused(line: &str, parts: &[&str]) {
        let text = parse_line(line).expect_err(line);
        assert!(text.starts_with("2 "), "{text}");
        for part in parts {
            assert!(text.contains(part), "{line}: no {part:?} in\n{text}");
        }
    }

    #[test]
    fn a_bucket_and_a_directory_suffice() {
        let args = parse_line("myfiles /mnt/s3").unwrap();
        assert_eq!((args.bucket.as_str(), args.dir), ("myfiles", PathBuf::from("/mnt/s3")));
        assert_eq!((args.file_mode, args.dir_mode), (0o444, 0o555));
        assert_eq!(args.metadata_ttl, MetadataTtl::Auto);
    }

    #[test]
    fn a_wrong_value_names_the_option_the_value_and_what_is_allowed() {
        check_refused("b /m --memory 1MiB", &["--memory", "1MiB", "32MiB"]);
        check_refused("b /m --memory lots", &["--memory", "lots", "512MiB"]);
        check_refused("b /m --open-ttl soon", &["--open-ttl", "soon", "60s", "forever"]);
        check_refused("b /m --offline-grace no", &["--offline-grace", "no", "60s", "forever"]);
        check_refused("b /m --metadata-ttl soon", &["--metadata-ttl", "soon", "auto", "forever"]);
        check_refused("b /m --file-mode 888", &["--file-mode", "888", "0777"]);
        check_refused("b /m --max-threads 0", &["--max-threads", "0", "1..=64"]);
        check_refused("b /m --max-requests 1", &["--max-requests", "1", "2 to 64"]);
        check_refused("b /m --max-requests 65", &["--max-requests", "65", "2 to 64"]);
        check_refused("b /m --max-bandwidth 63KiB", &["--max-bandwidth", "63KiB", "64KiB"]);
        check_refused("b /m --max-bandwidth fast", &["--max-bandwidth", "fast", "20MiB"]);
        check_refused("b /m --log-level loud", &["--log-level", "loud", "trace"]);
        check_refused("b /m --uid 4294967295", &["--uid", "4294967295"]);
        check_refused("b /m -o memory=1", &["--memory", "'1'", "32MiB"]);
    }

    #[test]
    fn an_unknown_option_is_answered_with_the_nearest() {
        check_refused("b /m --regoin x", &["--regoin", "--region"]);
        check_refused("b /m -o regoin=x", &["regoin", "-o"]);
        check_refused("b /m --zzz", &["no option --zzz", "--help"]);
        check_refused("b /m -z", &["no option -z"]);
    }

    #[test]
    fn each_mistake_is_one_sentence() {
        check_refused("myfiles", &["DIR is missing", "must exist"]);
        check_refused("--json", &["BUCKET[/PREFIX] and DIR are missing"]);
        check_refused("mount myfiles /n", &["'/n' is one word too many", "no command"]);
        check_refused("b /m --region", &["--region <REGION> needs a value"]);
        check_refused("b /m --json=yes", &["--json takes no value", "yes"]);
        check_refused("b /m --allow-other --allow-root", &["--allow-other", "exclude each other"]);
        for line in ["myfiles", "b /m /n", "b /m --regoin x", "b /m --memory 1", "b /m --region"] {
            let text = parse_line(line).expect_err(line);
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn the_last_of_two_equal_options_wins_and_the_command_line_wins_over_mount_options() {
        let args = parse_line("b /m --region a --region b --json --json").unwrap();
        assert_eq!(args.region.as_deref(), Some("b"));
        let args = parse_line("b /m --region a -o region=c,uid=7,allow_other -o gid=8").unwrap();
        assert_eq!(args.region.as_deref(), Some("a"));
        assert_eq!((args.uid, args.gid, args.allow_other), (Some(7), Some(8), true));
    }

    #[test]
    fn help_names_each_heading() {
        let help = parse_line("--help").unwrap_err();
        assert!(help.starts_with("0 "), "{help}");
        for part in [BUCKET, FILES, CACHING, NETWORK, RUNNING, LOGGING, "0444", "auto", "1s"] {
            assert!(help.contains(part), "{part}");
        }
        assert!(parse_line("--version").unwrap_err().starts_with("0 s3mount "));
    }

    #[test]
    fn json_is_heard_even_where_the_rest_is_wrong() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&words("s3mount --json --nonsense")));
        assert!(!wants_json(&words("s3mount -- --json x")));
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }
}
