//! What the machine gives a process: memory in a cgroup, descriptors, and room beside others like it.

use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::mounted::{Mounted, binary, command, wait_until};
use crate::support::simulator::Simulator;

const MIB: u64 = 1 << 20;

/// A memory cgroup of either version, which is gone with this value.
struct Cgroup {
    path: PathBuf,
    /// Of version 1: the files have other names.
    is_old: bool,
}

impl Cgroup {
    fn new(limit: u64) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let is_old = root.join("memory").is_dir();
        let parent = if is_old { root.join("memory") } else { root.to_owned() };
        if !is_old {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let path = parent.join(format!("s3mount-test-{}", std::process::id()));
        let cgroup = Self { path, is_old };
        fs::create_dir(&cgroup.path).expect("root may make a cgroup");
        let name = if is_old { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(cgroup.path.join(name), limit.to_string()).expect("a limit");
        cgroup
    }

    /// The command, as a member from its first instruction on.
    fn run(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        let script =
            format!("echo $$ > {}/cgroup.procs; exec {program} \"$@\"", self.path.display());
        command.args(["-c", &script, "sh"]);
        command
    }

    fn n_oom_kills(&self) -> u64 {
        let name = if self.is_old { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.path.join(name)).expect("counts");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.parse().ok()).expect("a count of kills")
    }

    fn peak(&self) -> u64 {
        let name = if self.is_old { "memory.max_usage_in_bytes" } else { "memory.peak" };
        let text = fs::read_to_string(self.path.join(name)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        wait_until(|| fs::remove_dir(&self.path).is_ok());
    }
}

/// `cp` of 1 GiB works in a cgroup of 96 MiB that holds the program, the mount and the kernel's pages of
/// both, byte for byte and without anything being killed; the default of `--memory` follows that limit.
#[test]
fn a_large_copy_works_in_a_small_cgroup() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "big", 1 << 30);
    let cgroup = Cgroup::new(96 * MIB);
    let mut program = cgroup.run(binary().to_str().unwrap());
    let plain = command(&simulator);
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => program.env(name, value),
            None => program.env_remove(name),
        };
    }
    let mounted = Mounted::start(program, "myfiles", &[]);
    // On a disk: the pages of a tmpfs could not be written out.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let copy = directory.path().join("copy");
    let output = cgroup.run("cp").arg(mounted.join("big")).arg(&copy).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(cgroup.n_oom_kills(), 0);
    assert!(cgroup.peak() <= 96 * MIB);
    let sum = Command::new("sha256sum").arg(&copy).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(sum.split(' ').next(), Some(simulator.sha256("myfiles", "big").as_str()));
    let resident = mounted.peak_resident_bytes();
    assert!(resident < 90 * MIB, "{} MiB", resident / MIB);
    drop(mounted);
}

/// Fifty mounts that nobody uses take less than 1 GiB together.
#[test]
fn many_idle_mounts_are_small() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "f", "x");
    let mounts: Vec<Mounted> = (0..50).map(|_| Mounted::new(&simulator, "myfiles", &[])).collect();
    // What is shared counts once (proc_pid_smaps(5), Pss).
    let of_process = |mounted: &Mounted| -> u64 {
        let path = format!("/proc/{}/smaps_rollup", mounted.pid());
        let text = fs::read_to_string(path).expect("alive");
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Pss");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    };
    let total: u64 = mounts.iter().map(of_process).sum();
    assert!(total < 1024 * MIB, "{} MiB", total / MIB);
    assert!(mounts.iter().all(|mounted| fs::read_to_string(mounted.join("f")).is_ok()));
}

/// The limit of open files is raised to what the process may have at most; where that is little, a
/// warning says so, fewer requests are in flight, and all is read.
#[test]
fn the_limit_of_open_files_is_raised_and_kept() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    for index in 0..40_u64 {
        simulator.put_synthetic("myfiles", &format!("f{index}"), 3 * MIB + index);
    }
    for (limits, raised, is_enough) in
        [("ulimit -Sn 64; ulimit -Hn 4096", "4096", true), ("ulimit -n 84", "84", false)]
    {
        let mut program = Command::new("sh");
        let script = format!("{limits}; exec {} \"$@\"", binary().display());
        program.args(["-c", &script, "sh"]);
        for (name, value) in command(&simulator).get_envs() {
            match value {
                Some(value) => program.env(name, value),
                None => program.env_remove(name),
            };
        }
        let mounted = Mounted::start(program, "myfiles", &["--memory", "256MiB"]);
        let text = fs::read_to_string(format!("/proc/{}/limits", mounted.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(line.split_whitespace().nth(3), Some(raised));
        simulator.shape(|shaping| shaping.latency_get = std::time::Duration::from_millis(20));
        let readers: Vec<_> = (0..40)
            .map(|index| {
                let mut program = Command::new("sha256sum");
                let program = program.arg(mounted.join(format!("f{index}")));
                program.stdout(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for (index, reader) in readers.into_iter().enumerate() {
            let text = String::from_utf8(reader.wait_with_output().unwrap().stdout).unwrap();
            let sum = simulator.sha256("myfiles", &format!("f{index}"));
            assert_eq!(text.split(' ').next(), Some(sum.as_str()), "{}", mounted.log());
        }
        let log = mounted.log();
        let warned = log.contains("open files leaves room for 10 requests in flight instead of");
        assert_eq!(warned, !is_enough, "{log}");
        assert!(!log.contains("Too many open files"), "{log}");
    }
}

/// How much address space a process may have.
fn limit_addresses(mounted: &Mounted, bytes: u64) {
    let limits = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    let pid = libc::pid_t::try_from(mounted.pid()).expect("a process");
    // SAFETY: the limits are read from a value that is there, and nothing is written.
    let result =
        unsafe { libc::prlimit(pid, libc::RLIMIT_AS, &raw const limits, std::ptr::null_mut()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn sha256(path: &Path) -> Result<String, String> {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout)[..64].to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Where the system has no memory for a read, that read is EIO at once, also for many who read together; names
/// are told on, the log says once a minute what to do, and when there is memory again the same file is
/// read, every byte.
#[test]
fn no_memory_for_a_read_is_an_error_and_not_the_end() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "big", 24 * MIB);
    simulator.put_synthetic("myfiles", "small", 50_000);
    simulator.put("myfiles", "d/f", "text");
    let mut mounted = Mounted::new(&simulator, "myfiles", &["--memory", "256MiB"]);
    // A part leaves 8 MiB to the rest of the process, which has to live on from these.
    limit_addresses(&mounted, mounted.address_bytes() + 6 * MIB);
    for name in ["big", "small"] {
        let err = sha256(&mounted.join(name)).unwrap_err();
        assert!(err.contains("Input/output error"), "{err}");
    }
    let direct =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(mounted.join("big"));
    let direct = direct.unwrap();
    let read_at = |at| {
        let mut memory = vec![0_u8; 3 * 4096];
        let start = memory.as_ptr().align_offset(4096);
        direct.read_exact_at(&mut memory[start..start + 4096], at)?;
        Ok::<_, std::io::Error>(memory[start..start + 4096].to_vec())
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..16).map(|n| scope.spawn(move || read_at(n % 5 * MIB))).collect();
        for reader in readers {
            let err = reader.join().unwrap().unwrap_err();
            assert_eq!(err.raw_os_error(), Some(libc::EIO), "not its deadline");
        }
    });
    assert_eq!(fs::metadata(mounted.join("d/f")).unwrap().len(), 4);
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 3);
    let log = mounted.log();
    let failed = "the system has no memory for the bytes; raise the limit of the process";
    assert_eq!(log.matches(failed).count(), 1, "{log}");
    assert!(log.contains("or mount with a smaller --memory"), "{log}");

    limit_addresses(&mounted, libc::RLIM_INFINITY);
    let expected = simulator.range_bytes("myfiles", "big", 2 * MIB..2 * MIB + 4096);
    assert!(read_at(2 * MIB).unwrap() == expected);
    for name in ["big", "small"] {
        assert_eq!(sha256(&mounted.join(name)), Ok(simulator.sha256("myfiles", name)));
    }
    assert_eq!(fs::read_to_string(mounted.join("d/f")).unwrap(), "text");
    assert!(mounted.is_running());
}

/// Where the system has less memory than `--memory` allows, files are read all the same, many at once: what was
/// read already goes first, less comes ahead, readers wait for each other, and the log says so.
#[test]
fn less_memory_than_allowed_is_enough_for_those_who_read() {
    const FILES: u64 = 8;
    let simulator = Simulator::builder().bucket("myfiles").start();
    for index in 0..FILES {
        simulator.put_synthetic("myfiles", &format!("f{index}"), 12 * MIB + index);
    }
    // What was read stays in memory as long as there is some: the kernel keeps none of it.
    let mounted = Mounted::new(&simulator, "myfiles", &["--memory", "256MiB", "--direct-io"]);
    limit_addresses(&mounted, mounted.address_bytes() + 32 * MIB);
    for _ in 0..2 {
        std::thread::scope(|scope| {
            let read = |name: String| (sha256(&mounted.join(&name)), name);
            let readers: Vec<_> =
                (0..FILES).map(|index| scope.spawn(move || read(format!("f{index}")))).collect();
            for reader in readers {
                let (sum, name) = reader.join().unwrap();
                assert_eq!(sum, Ok(simulator.sha256("myfiles", &name)), "{name}");
            }
        });
    }
    let log = mounted.log();
    assert!(log.contains("the system has no more memory for s3mount"), "{log}");
    assert!(!log.contains("no memory for the bytes"), "{log}");
}

/// Names take the memory of what was read where the system has no more for both: a large directory is listed
/// after large files were read.
#[test]
fn names_take_the_memory_of_what_was_read() {
    const NAMES: u64 = 250_000;
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "big", 96 * MIB);
    simulator.put_tree("myfiles", "d/", NAMES, 10);
    let mut mounted = Mounted::new(&simulator, "myfiles", &["--memory", "256MiB", "--direct-io"]);
    let at_first = mounted.address_bytes();
    limit_addresses(&mounted, at_first + 64 * MIB);
    assert_eq!(sha256(&mounted.join("big")), Ok(simulator.sha256("myfiles", "big")));
    let n_names = fs::read_dir(mounted.join("d")).unwrap().filter(Result::is_ok).count();
    assert_eq!(n_names as u64, NAMES, "{}", mounted.log());
    assert!(mounted.is_running());
    assert_eq!(sha256(&mounted.join("big")), Ok(simulator.sha256("myfiles", "big")));
}
