//! `-o`: what mount(8) and /etc/fstab say, in the words of our own options.

use std::ffi::OsString;

use clap::Command;

use crate::config::MountFlag;

/// What a list of mount options comes to.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Expanded {
    /// The same as long options, as `--region=eu-west-1`.
    pub(super) words: Vec<OsString>,
    pub(super) flags: Vec<MountFlag>,
}

/// What is for mount(8) or is so anyway. mount(8) itself adds `rw` to every list without `ro`, and
/// mount.fuse adds `suid` and `dev`: they cannot be errors, and they change nothing, as a mount is
/// read-only and has neither set-user-id files nor devices.
const WITHOUT_EFFECT: &[&str] = &[
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "exec",
    "relatime",
    "atime",
    "strictatime",
    "nodiratime",
    "async",
    "auto",
    "noauto",
    "_netdev",
    "nofail",
    "defaults",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "default_permissions",
];

/// Options that make no sense in a list: they end the program, or are the list itself.
const COMMAND_LINE_ONLY: &[&str] = &["help", "version"];

pub(super) fn expand(command: &Command, options: &[String]) -> Result<Expanded, clap::Error> {
    let mut expanded = Expanded::default();
    for option in options.iter().map(|option| option.trim()) {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let long = name.replace('_', "-");
        match name {
            "noexec" => expanded.flags.push(MountFlag::NoExec),
            "noatime" => expanded.flags.push(MountFlag::NoAtime),
            "" => {}
            name if WITHOUT_EFFECT.contains(&name) => {}
            name if name.starts_with("x-") || name.starts_with("comment") => {}
            _ if is_ours(command, &long) => expanded.words.push(match value {
                Some(value) => format!("--{long}={value}").into(),
                None => format!("--{long}").into(),
            }),
            _ => {
                let near = super::sentences::nearest_option(command, &long)
                    .map(|near| format!("did you mean {}? ", near.replace('-', "_")))
                    .unwrap_or_default();
                return Err(super::wrong(format!(
                    "invalid value '{option}' for '-o <OPTIONS>': no such mount option; {near}allowed \
                     are ro, noexec, noatime, allow_other, allow_root, uid=N, gid=N, those of mount(8) \
                     without effect here (defaults, _netdev, nofail, x-...), and every long option \
                     of `s3mount --help` without its dashes, as region=eu-west-1"
                )));
            }
        }
    }
    Ok(expanded)
}

fn is_ours(command: &Command, long: &str) -> bool {
    !COMMAND_LINE_ONLY.contains(&long)
        && command.get_arguments().any(|arg| arg.get_long() == Some(long))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Args;

    fn check(list: &str, words: &[&str], flags: &[MountFlag]) {
        let options: Vec<String> = list.split(',').map(str::to_owned).collect();
        let expanded = expand(&Args::command(), &options).expect(list);
        let words = words.iter().map(Into::into).collect();
        assert_eq!(expanded, Expanded { words, flags: flags.to_vec() });
    }

    #[test]
    fn what_mount_and_fstab_say_is_understood() {
        check("ro,nosuid,nodev,relatime,_netdev,nofail,x-systemd.automount,user=joe,", &[], &[]);
        check("rw,dev,suid", &[], &[]);
        check("noexec,noatime", &[], &[MountFlag::NoExec, MountFlag::NoAtime]);
        check("allow_other,uid=5,gid=6", &["--allow-other", "--uid=5", "--gid=6"], &[]);
    }

    #[test]
    fn each_long_option_is_a_mount_option_with_dashes_or_underscores() {
        check("endpoint_url=http://h:1/a=b", &["--endpoint-url=http://h:1/a=b"], &[]);
        check("endpoint-url=http://h", &["--endpoint-url=http://h"], &[]);
        check("foreground", &["--foreground"], &[]);
    }

    #[test]
    fn anything_else_is_refused() {
        for option in ["help", "version", "regoin=x", "sync", "o=x", "remount"] {
            let err = expand(&Args::command(), &[option.to_owned()]).expect_err(option);
            assert_eq!(err.exit_code(), 2, "{option}");
            assert!(err.render().to_string().contains(&format!("'{option}'")), "{option}");
        }
        let err = expand(&Args::command(), &["allow_othr".to_owned()]).expect_err("unknown");
        assert!(err.render().to_string().contains("did you mean allow_other?"), "{err}");
    }
}
