//! From what was typed and what the environment says to what is meant.

use std::path::{Path, PathBuf};

use tracing::level_filters::LevelFilter;

use super::Args;
use crate::config::bucket::{BucketName, normalize_prefix};
use crate::config::{
    Access, BucketConfig, Config, Environment, LogConfig, LogTarget, MountConfig, NamesConfig,
    NetworkConfig, PageCache, UsageError, default_memory_bytes,
};
use crate::config::{endpoint, profiles};

/// Write permission is left out of all modes: nothing here can be written.
const READ_ONLY: u16 = 0o555;

/// Where the D-Bus specification has the system's bus, below today's name of its directory.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

impl Config {
    /// Checks what can be checked without a request and without a mount.
    pub fn new(args: Args, environment: &Environment) -> Result<Self, UsageError> {
        let threads = args.max_threads.map_or(environment.cores.clamp(1, 4), usize::from);
        let bucket = bucket_config(&args, environment, threads)?;
        Ok(Self {
            mount: mount_config(&args, environment, threads, &bucket)?,
            bucket,
            names: NamesConfig { metadata_ttl: args.metadata_ttl, negative_ttl: args.negative_ttl },
            memory_max_bytes: args.memory.unwrap_or_else(|| {
                default_memory_bytes(
                    environment.machine_memory_bytes,
                    environment.cgroup_memory_bytes,
                )
            }),
            open_ttl: args.open_ttl,
            offline_grace: args.offline_grace,
            network: NetworkConfig {
                requests_max: args.max_requests.map(usize::from),
                bytes_per_second_max: args.max_bandwidth,
            },
            page_cache: if args.direct_io { PageCache::Bypassed } else { PageCache::Used },
            log: log_config(args)?,
        })
    }
}

fn bucket_config(
    args: &Args,
    environment: &Environment,
    threads_max: usize,
) -> Result<BucketConfig, UsageError> {
    let profile = checked("--profile", args.profile.as_ref(), "a name is not empty", |name| {
        !name.is_empty()
    })?;
    let keys_in_environment = environment.has_keys && profile.is_none();
    let unneeded = !environment.names_files && (args.no_sign_request || keys_in_environment);
    profiles::check_readable(&environment.credential_files, unneeded)?;
    let (endpoint_url, endpoint_source) = endpoint(args, environment)?.unzip();
    let BucketName { bucket, prefix, region } =
        BucketName::parse(&args.bucket, endpoint_url.is_some())
            .map_err(|reason| invalid("BUCKET[/PREFIX]", &args.bucket, reason))?;
    let is_arn = bucket.starts_with("arn:");
    if is_arn && args.force_path_style {
        let reason = "the bucket of an access-point ARN cannot stand in the path";
        return Err(invalid("--force-path-style", "true", reason));
    }
    let force_path_style = args.force_path_style
        || !is_arn && endpoint_url.as_deref().is_some_and(endpoint::takes_path_style);
    Ok(BucketConfig {
        bucket,
        prefix: join_prefixes(prefix, args)?,
        region: join_regions(region, args)?,
        profile,
        proxy_variable: match &endpoint_url {
            Some(url) if url.starts_with("http://") => environment.http_proxy,
            _ => environment.https_proxy,
        }
        .map(str::to_owned),
        endpoint_url,
        endpoint_source: endpoint_source.unwrap_or_default(),
        force_path_style,
        sign_requests: !args.no_sign_request,
        known_paths: args.known_paths,
        requester_pays: args.requester_pays,
        expected_bucket_owner: checked(
            "--expected-bucket-owner",
            args.expected_bucket_owner.as_ref(),
            "an account is a number of 12 digits",
            |account| account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()),
        )?,
        ca_bundle: environment.ca_bundle.as_deref().map(absolute).transpose()?,
        credential_files: environment.credential_files.clone(),
        keys_in_environment,
        threads_max,
    })
}

/// The address of the server and what named it.
fn endpoint(
    args: &Args,
    environment: &Environment,
) -> Result<Option<(String, String)>, UsageError> {
    let typed = args.endpoint_url.clone().map(|url| ("--endpoint-url".to_owned(), url));
    let variable = || environment.endpoint_url.clone().map(|(name, url)| (name.to_owned(), url));
    // Also read where the address is known: what is wrong with a profile is told now.
    let of_profile = endpoint_of_profile(args, environment)?;
    let Some((source, url)) = typed.or_else(variable).or(of_profile) else { return Ok(None) };
    endpoint::parse_host(&url).map_err(|reason| invalid(&source, &url, reason))?;
    Ok(Some((url, source)))
}

fn endpoint_of_profile(
    args: &Args,
    environment: &Environment,
) -> Result<Option<(String, String)>, UsageError> {
    let Some(read) = environment.read_profile else { return Ok(None) };
    let settings = read(args.profile.as_deref()).map_err(UsageError)?;
    let name = args.profile.as_ref().or(environment.profile.as_ref());
    let name = name.map_or("default", String::as_str);
    Ok(settings.endpoint_url.map(|url| (format!("endpoint_url of the profile {name}"), url)))
}

/// A prefix may be typed in either place, and in both if they agree.
fn join_prefixes(after_bucket: Option<String>, args: &Args) -> Result<String, UsageError> {
    let normalize = |option: &str, prefix: &str| {
        normalize_prefix(prefix).map_err(|reason| invalid(option, prefix, reason))
    };
    let after_bucket = after_bucket.map(|it| normalize("BUCKET[/PREFIX]", &it)).transpose()?;
    let typed = args.prefix.as_deref().map(|it| normalize("--prefix", it)).transpose()?;
    match (after_bucket, typed) {
        (Some(one), Some(other)) if one != other => Err(invalid(
            "--prefix",
            &other,
            format!("'{one}' already follows the bucket; write one of them"),
        )),
        (one, other) => Ok(one.or(other).unwrap_or_default()),
    }
}

fn join_regions(of_arn: Option<String>, args: &Args) -> Result<Option<String>, UsageError> {
    let typed = checked(
        "--region",
        args.region.as_ref(),
        "a region consists of letters, digits, hyphens, dots and underscores",
        // It becomes part of a host name.
        |region| {
            let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            !region.is_empty() && region.bytes().all(good)
        },
    )?;
    match (of_arn, typed) {
        (Some(one), Some(other)) if one != other => {
            Err(invalid("--region", &other, format!("the ARN is of {one}; leave the option out")))
        }
        (one, other) => Ok(one.or(other)),
    }
}

fn mount_config(
    args: &Args,
    environment: &Environment,
    threads: usize,
    bucket: &BucketConfig,
) -> Result<MountConfig, UsageError> {
    if let Some(fd) = args.ready_fd {
        // Asked before anything of ours is opened, or the number could mean a file of ours.
        if !Path::new(&format!("/proc/self/fd/{fd}")).exists() {
            let reason = "not an open descriptor of this process";
            return Err(invalid("--ready-fd", &fd.to_string(), reason));
        }
    }
    if args.auto_remount && args.dir.starts_with("/dev/fd") {
        let shown = args.dir.display();
        return Err(UsageError(format!(
            "--auto-remount and {shown} exclude each other: only whoever mounted the descriptor can \
             mount it anew; leave the option out, or name a directory"
        )));
    }
    Ok(MountConfig {
        dir: args.dir.clone(),
        source: source(bucket),
        uid: args.uid.unwrap_or(environment.uid),
        gid: args.gid.unwrap_or(environment.gid),
        file_mode: args.file_mode & READ_ONLY,
        dir_mode: args.dir_mode & READ_ONLY,
        access: match (args.allow_other, args.allow_root) {
            (true, _) => Access::Everybody,
            (false, true) => Access::OwnerAndRoot,
            (false, false) => Access::Owner,
        },
        threads,
        foreground: args.foreground,
        auto_remount: args.auto_remount,
        flags: args.flags.clone(),
        runtime_dir: environment.runtime_dir.clone(),
        system_bus: environment.system_bus.clone().unwrap_or_else(|| SYSTEM_BUS.to_owned()),
        ready_fd: args.ready_fd,
        json: args.json,
    })
}

/// `s3://bucket/prefix` for mount tables. A comma or a backslash would end the option in
/// fusermount's list and begin another, and white space and control characters break the lines of
/// the tables.
fn source(bucket: &BucketConfig) -> String {
    let replace = |c: char| {
        let breaks = c == ',' || c == '\\' || c.is_whitespace() || c.is_control();
        if breaks { '_' } else { c }
    };
    let place = format!("s3://{}/{}", bucket.bucket, bucket.prefix);
    place.strip_suffix('/').unwrap_or(&place).chars().map(replace).collect()
}

fn log_config(args: Args) -> Result<LogConfig, UsageError> {
    let default_level = if args.foreground { LevelFilter::INFO } else { LevelFilter::WARN };
    let target = match args.log_file {
        Some(file) => LogTarget::File(absolute(&file)?),
        None if args.foreground => LogTarget::Terminal,
        None => LogTarget::System,
    };
    Ok(LogConfig { level: args.log_level.unwrap_or(default_level), target })
}

/// The background process leaves the working directory, so no path may depend on it.
fn absolute(path: &Path) -> Result<PathBuf, UsageError> {
    std::path::absolute(path).map_err(|err| {
        UsageError(format!("{}: the working directory is gone ({err})", path.display()))
    })
}

fn checked(
    option: &str,
    value: Option<&String>,
    reason: &str,
    is_good: impl Fn(&str) -> bool,
) -> Result<Option<String>, UsageError> {
    match value {
        Some(value) if !is_good(value) => Err(invalid(option, value, reason)),
        value => Ok(value.cloned()),
    }
}

/// The words of clap, so that all such errors look alike.
fn invalid(option: &str, value: &str, reason: impl std::fmt::Display) -> UsageError {
    UsageError(format!("invalid value '{value}' for '{option}': {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse;
    use crate::config::ReadProfile;
    use crate::store::aws::ProfileSettings;

    fn environment() -> Environment {
        Environment { uid: 1000, gid: 100, cores: 16, ..Environment::default() }
    }

    fn config_in(environment: &Environment, line: &str) -> Result<Config, String> {
        let words: Vec<_> =
            std::iter::once("s3mount").chain(line.split(' ')).map(Into::into).collect();
        let args = parse(&words).expect(line);
        Config::new(args, environment).map_err(|err| err.to_string())
    }

    fn config(line: &str) -> Config {
        config_in(&environment(), line).expect(line)
    }

    #[track_caller]
    fn check_refused(line: &str, parts: &[&str]) {
        let err = config_in(&environment(), line).expect_err(line);
        for part in parts {
            assert!(err.contains(part), "{line}: no {part:?} in {err}");
        }
    }

    #[test]
    fn the_defaults_are_the_mounting_users() {
        let Config { mount, bucket, memory_max_bytes, log, .. } = config("myfiles /mnt/s3");
        assert_eq!((mount.uid, mount.gid, mount.threads), (1000, 100, 4));
        assert_eq!((mount.access, mount.source.as_str()), (Access::Owner, "s3://myfiles"));
        assert_eq!((bucket.prefix.as_str(), bucket.sign_requests), ("", true));
        assert_eq!(memory_max_bytes, 128 << 20);
        assert_eq!((log.level, log.target), (LevelFilter::WARN, LogTarget::System));
        assert_eq!(config("myfiles /mnt/s3 -f").log.target, LogTarget::Terminal);
        assert_eq!(config("myfiles /mnt/s3 -f").log.level, LevelFilter::INFO);
    }

    #[test]
    fn write_permission_is_left_out() {
        let mount = config("myfiles /m --file-mode 0664 --dir-mode 777").mount;
        assert_eq!((mount.file_mode, mount.dir_mode), (0o444, 0o555));
    }

    #[test]
    fn a_prefix_in_both_places_must_be_the_same() {
        assert_eq!(config("myfiles/a /m --prefix a/").bucket.prefix, "a/");
        assert_eq!(config("myfiles /m --prefix /a").bucket.prefix, "/a/");
        check_refused("myfiles/a /m --prefix b", &["--prefix", "'b/'", "'a/'"]);
    }

    #[test]
    fn an_arn_brings_its_region() {
        let arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/files";
        assert_eq!(config(&format!("{arn} /m")).bucket.region.as_deref(), Some("eu-west-1"));
        check_refused(&format!("{arn} /m --region us-east-1"), &["--region", "eu-west-1"]);
        check_refused(&format!("{arn} /m --force-path-style"), &["--force-path-style"]);
    }

    #[test]
    fn the_typed_endpoint_goes_before_that_of_the_environment() {
        let url = ("AWS_ENDPOINT_URL", "http://10.0.0.1:9000".to_owned());
        let environment = Environment { endpoint_url: Some(url), ..environment() };
        let bucket = config_in(&environment, "My_Files /m").unwrap().bucket;
        assert_eq!(bucket.endpoint_url.as_deref(), Some("http://10.0.0.1:9000"));
        assert!(bucket.force_path_style, "an IP address");
        let bucket = config_in(&environment, "myfiles /m --endpoint-url https://h").unwrap().bucket;
        assert_eq!(bucket.endpoint_url.as_deref(), Some("https://h"));
        assert!(bucket.force_path_style, "not AWS");
    }

    #[test]
    fn a_profiles_endpoint_counts_as_one_that_was_typed() {
        let read: ReadProfile = |name| {
            let url = name.map(|name| format!("http://{name}:9000"));
            Ok(ProfileSettings { endpoint_url: url })
        };
        let environment = Environment { read_profile: Some(read), ..environment() };
        let bucket = config_in(&environment, "My_Files /m --profile localhost").unwrap().bucket;
        assert_eq!(bucket.endpoint_url.as_deref(), Some("http://localhost:9000"));
        assert_eq!(bucket.endpoint_source, "endpoint_url of the profile localhost");
        assert!(bucket.force_path_style);
        let err = config_in(&environment, "My_Files /m").unwrap_err();
        assert!(err.contains("lower-case"), "AWS is stricter: {err}");
        let broken: ReadProfile = |_| Err("it is malformed".to_owned());
        let environment = Environment { read_profile: Some(broken), ..environment };
        assert_eq!(config_in(&environment, "myfiles /m").unwrap_err(), "it is malformed");
    }

    #[test]
    fn a_wrong_value_names_its_option_or_variable() {
        check_refused("MyFiles /m", &["BUCKET", "MyFiles", "lower-case"]);
        check_refused("myfiles /m --endpoint-url h", &["--endpoint-url", "'h'", "https://"]);
        check_refused("myfiles /m --expected-bucket-owner 1", &["--expected-bucket-owner", "12"]);
        check_refused("myfiles /m --region a/b", &["--region", "a/b"]);
        check_refused("myfiles /m --ready-fd 999", &["--ready-fd", "999"]);
        let url = ("AWS_ENDPOINT_URL_S3", "oops".to_owned());
        let environment = Environment { endpoint_url: Some(url), ..environment() };
        let err = config_in(&environment, "myfiles /m").unwrap_err();
        assert!(err.contains("AWS_ENDPOINT_URL_S3") && err.contains("'oops'"), "{err}");
    }

    #[test]
    fn the_source_cannot_break_a_mount_table() {
        let bucket = BucketConfig {
            bucket: "myfiles".to_owned(),
            prefix: "a,suid\\,b c\nd/".to_owned(),
            ..BucketConfig::default()
        };
        assert_eq!(source(&bucket), "s3://myfiles/a_suid__b_c_d");
    }
}
