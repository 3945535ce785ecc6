//! The table: what is wrong, how it is made, and what the user is told. `MNT` stands for the mount
//! point and `HOME` for the directory that it is in, `*` for what differs from run to run.

mod local;
mod remote;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::mounted::binary;
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

/// Looks at a mount point.
pub(super) type Check = fn(&Path) -> Result<(), String>;

pub(super) struct Case {
    pub(super) failure: &'static str,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, Option<String>)>,
    /// Runs in a mount namespace of its own after this script; `$RUN` goes before the binary.
    pub(super) wrapper: Option<&'static str>,
    pub(super) prepare: fn(&World, &Place),
    /// What must hold while it is mounted, where it is.
    pub(super) mounted: Option<Check>,
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

        let tools = tempfile::tempdir().expect("a directory");
        open_to_all(tools.path());
        let public_binary = tools.path().join("s3mount");
        let binary = binary();
        if fs::hard_link(&binary, &public_binary).is_err() {
            fs::copy(binary, &public_binary).expect("a directory of our own");
        }
        // Where it is missing, the cases that need it are skipped.
        let _ = fs::copy("/usr/bin/setpriv", tools.path().join("setpriv"));
        let confined = tools.path().join("confined");
        fs::create_dir(&confined).expect("a directory of our own");
        open_to_all(&confined);
        let program = confined.join("fusermount3");
        // What it says where AppArmor is in its way.
        let script = "#!/bin/sh\necho 'fusermount3: mount failed: Permission denied' >&2\nexit 1\n";
        fs::write(&program, script).expect("a directory of our own");
        open_to_all(&program);
        // The port is a fixed one, but the addresses of this machine are many: one for each process.
        let name_server =
            (2..100).find_map(|last| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 53)).ok());
        if let Some(server) = &name_server {
            let address = server.local_addr().expect("bound").ip();
            let settings = format!("nameserver {address}\noptions timeout:30 attempts:1\n");
            fs::write(tools.path().join("resolv.conf"), settings).expect("a directory of our own");
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
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a directory of our own");
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
    fn of_nobody(self) -> Self {
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

    fn mounts(mut self, check: Check) -> Self {
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
    let mut cases = remote::bucket(world);
    cases.extend(remote::credentials(world));
    cases.extend(remote::network(world));
    cases.extend(local::configuration(world));
    cases.extend(local::words());
    cases.extend(local::mount_point());
    cases.extend(local::fuse());
    cases
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn write(place: &Place, name: &str, text: &str) {
    fs::write(place.path().join(name), text).expect("a directory of our own");
}

fn give_away(_: &World, place: &Place) {
    std::os::unix::fs::chown(place.mount(), Some(65534), Some(65534))
        .expect("a directory of our own");
}

fn reads_hello(mount: &Path) -> Result<(), String> {
    match fs::read_to_string(mount.join("hello.txt")) {
        Ok(text) if text == "hello" => Ok(()),
        found => Err(format!("{found:?}")),
    }
}
