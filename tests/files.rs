//! Files through the kernel, read by ordinary programs.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use crate::support::mounted::Mounted;
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;

const MIB: u64 = 1 << 20;

/// A bucket with a small tree and its mount.
fn tree() -> (Simulator, Mounted) {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "hello.txt", "hello, world\n");
    simulator.put("myfiles", "empty", "");
    simulator.put("myfiles", "a/b/deep.txt", "deep");
    simulator.put("myfiles", "a/with space+plus%25 é.txt", "odd name");
    simulator.put("myfiles", "marked/", "");
    simulator.put_synthetic("myfiles", "big.bin", 30 * MIB + 12_345);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    (simulator, mounted)
}

fn run(program: &str, arguments: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory);
    let output = command.output().unwrap_or_else(|err| panic!("{program}: {err}"));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {err}");
    output
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("must fail").raw_os_error().expect("an errno")
}

/// A file shows the object's size in bytes, its LastModified in whole seconds as all three times,
/// mode 0444, one link, and blocks of 512 bytes as `du` counts them.
#[test]
fn a_file_shows_what_the_bucket_says_of_it() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let date = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_890_123);
    simulator.put_at("myfiles", "f", vec![b'x'; 513], date);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let found = fs::metadata(mounted.join("f")).unwrap();
    assert_eq!((found.len(), found.blocks(), found.nlink()), (513, 2, 1));
    assert_eq!(found.permissions().mode() & 0o7777, 0o444);
    assert_eq!([found.mtime(), found.ctime(), found.atime()], [1_234_567_890; 3]);
    assert_eq!([found.mtime_nsec(), found.ctime_nsec(), found.atime_nsec()], [0; 3]);
    assert!(found.ino() > 1);
}

/// A directory is a common prefix of keys, or an object whose key ends in `/`; it shows mode 0555,
/// one link, and the date 14 March 2006.
#[test]
fn a_directory_is_a_prefix_or_a_marker() {
    let (_simulator, mounted) = tree();
    for name in ["a", "a/b", "marked"] {
        let found = fs::metadata(mounted.join(name)).unwrap();
        assert!(found.is_dir(), "{name}");
        assert_eq!(found.permissions().mode() & 0o7777, 0o555);
        assert_eq!((found.nlink(), found.mtime()), (1, 1_142_294_400));
    }
    assert_eq!(fs::read_dir(mounted.join("marked")).unwrap().count(), 0);
}

/// A name that the bucket does not have is ENOENT, a name below a file ENOTDIR, and a name of more
/// than 255 bytes ENAMETOOLONG.
#[test]
fn a_name_that_is_not_there_has_its_errno() {
    let (_simulator, mounted) = tree();
    assert_eq!(errno(fs::metadata(mounted.join("absent"))), libc::ENOENT);
    assert_eq!(errno(fs::metadata(mounted.join("hello.txt/x"))), libc::ENOTDIR);
    assert_eq!(errno(fs::metadata(mounted.join("n".repeat(256)))), libc::ENAMETOOLONG);
}

/// Every byte of a file is the object's, whatever the offset and the length of a read, and a read
/// is short only at the end of the file.
#[test]
fn reads_of_any_shape_give_the_objects_bytes() {
    let (simulator, mounted) = tree();
    let whole = simulator.object_bytes("myfiles", "big.bin");
    let size = whole.len();
    let file = fs::File::open(mounted.join("big.bin")).unwrap();
    let shapes = [(0, 1), (1, 4096), (131_071, 2), (5_000_000, 1_500_000), (size - 10, 10)];
    for (offset, len) in shapes {
        let mut got = vec![0; len];
        file.read_exact_at(&mut got, offset as u64).unwrap();
        assert!(got == whole[offset..offset + len], "{offset}+{len}");
    }
    let mut got = vec![0; 100];
    assert_eq!(file.read_at(&mut got, size as u64 - 3).unwrap(), 3, "short only at the end");
    assert_eq!(file.read_at(&mut got, size as u64 + 5).unwrap(), 0);
    let read = fs::read(mounted.join("big.bin")).unwrap();
    assert!(read == whole);
}

/// Direct I/O, sendfile(2) and mapped memory give the same bytes as read(2).
#[test]
fn every_way_of_reading_gives_the_same_bytes() {
    let (simulator, mounted) = tree();
    let hash = simulator.sha256("myfiles", "big.bin");
    let big = mounted.join("big.bin");
    let big = big.to_str().unwrap();
    let cases = [
        ("dd", format!("dd if={big} bs=1M iflag=direct status=none")),
        ("dd small blocks", format!("dd if={big} bs=7k status=none")),
        ("cat", format!("cat {big}")),
        (
            "mapped",
            format!(
                "python3 -c \"import mmap,sys; f=open('{big}','rb'); \
             sys.stdout.buffer.write(mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ))\""
            ),
        ),
        (
            "sendfile",
            format!(
                "python3 -c \"import os,sys; f=os.open('{big}',0); at=0\nwhile n:=os.sendfile(1,f,at,1<<20): at+=n\""
            ),
        ),
    ];
    for (name, script) in cases {
        let output = run("sh", &["-c", &format!("({script}) | sha256sum")], Path::new("/"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.split_whitespace().next(), Some(hash.as_str()), "{name}");
    }
}

/// Every attempt to write, create, rename, remove or change anything fails with EROFS.
#[test]
fn every_write_is_refused() {
    let (_simulator, mounted) = tree();
    assert_eq!(errno(fs::write(mounted.join("new"), "x")), libc::EROFS);
    let open = fs::OpenOptions::new().write(true).open(mounted.join("hello.txt"));
    assert_eq!(errno(open), libc::EROFS);
    assert_eq!(errno(fs::create_dir(mounted.join("d"))), libc::EROFS);
    assert_eq!(errno(fs::remove_file(mounted.join("hello.txt"))), libc::EROFS);
    assert_eq!(errno(fs::rename(mounted.join("hello.txt"), mounted.join("x"))), libc::EROFS);
    assert_eq!(errno(fs::remove_dir(mounted.join("a"))), libc::EROFS);
    let mode = fs::Permissions::from_mode(0o644);
    assert_eq!(errno(fs::set_permissions(mounted.join("hello.txt"), mode)), libc::EROFS);
    assert_eq!(errno(std::os::unix::fs::symlink("x", mounted.join("l"))), libc::EROFS);
}

/// `cp -r`, `diff -r`, `find`, `tar`, `du`, `df` and `rsync` work as on a disk, and two archives of
/// an unchanged bucket are equal.
#[test]
fn ordinary_programs_work() {
    let (simulator, mounted) = tree();
    let scratch = tempfile::tempdir().unwrap();
    let (from, to) = (mounted.path(), scratch.path().join("copy"));
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    run("cp", &["-r", from, to], scratch.path());
    run("diff", &["-r", from, to], scratch.path());
    let copied = fs::read(format!("{to}/a/with space+plus%25 é.txt")).unwrap();
    assert_eq!(copied, b"odd name");
    let first = run("tar", &["-C", from, "-cf", "-", "."], scratch.path()).stdout;
    let second = run("tar", &["-C", from, "-cf", "-", "."], scratch.path()).stdout;
    assert!(first == second && first.len() as u64 > 30 * MIB, "two archives are equal");
    let found =
        String::from_utf8(run("find", &[from, "-type", "f"], scratch.path()).stdout).unwrap();
    assert_eq!(found.lines().count(), simulator.keys("myfiles").len() - 1, "less the marker");
    let du =
        String::from_utf8(run("du", &["-b", &format!("{from}/big.bin")], scratch.path()).stdout);
    assert!(du.unwrap().starts_with("31469625\t"));
    run("rsync", &["-rn", &format!("{from}/"), &format!("{to}/")], scratch.path());
    run("df", &[from], scratch.path());
}

/// Zip archives, and SQLite databases that are opened as immutable, are read in place.
#[test]
fn archives_and_databases_are_read_in_place() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let scratch = tempfile::tempdir().unwrap();
    let script = "import zipfile,sqlite3
z=zipfile.ZipFile('z.zip','w',zipfile.ZIP_DEFLATED)
for n in range(500): z.writestr(f'f{n}', f'content {n}'*50)
z.close()
c=sqlite3.connect('d.db')
c.execute('create table t(n integer primary key, s text)')
c.executemany('insert into t values(?,?)', ((n, 's'*100) for n in range(20000)))
c.commit()";
    run("python3", &["-c", script], scratch.path());
    for name in ["z.zip", "d.db"] {
        simulator.put("myfiles", name, fs::read(scratch.path().join(name)).unwrap());
    }
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let zip = "import zipfile; z=zipfile.ZipFile('z.zip'); print(z.testzip(), z.read('f77')[:10])";
    let output = run("python3", &["-c", zip], &mounted.path());
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "None b'content 77'");
    let query = ["file:d.db?immutable=1", "select count(*), sum(n) from t where n % 2"];
    let output = run("sqlite3", &query, &mounted.path());
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "10000|100000000");
}

/// Opening and reading a file of up to 1 MiB costs one GET, and nothing when it is repeated within
/// `--open-ttl` (1 s).
#[test]
fn a_small_file_costs_one_request() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let sizes = [1, 13, MIB];
    for size in sizes {
        simulator.put_synthetic("myfiles", &format!("f{size}"), size);
    }
    let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "60s"]);
    for size in sizes {
        let name = format!("f{size}");
        fs::metadata(mounted.join(&name)).unwrap();
        simulator.reset_log();
        for _ in 0..2 {
            let read = fs::read(mounted.join(&name)).unwrap();
            assert!(read == simulator.object_bytes("myfiles", &name), "{name}");
        }
        let counts = simulator.counts();
        assert_eq!((counts.list, counts.head, counts.get), (0, 0, 1), "{name}");
        let call = &simulator.log()[0].call;
        assert!(call.range.is_none(), "a whole object is asked for without Range");
    }
}

/// A read at a random place asks S3 for the aligned 128 KiB around it, and for nothing more.
#[test]
fn a_random_read_asks_for_little() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "big", 1 << 30);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let mut file = fs::File::open(mounted.join("big")).unwrap();
    simulator.reset_log();
    for index in 1..20 {
        // No four of these places are equally far apart.
        file.seek(SeekFrom::Start(index * index * 2 * MIB + 4096)).unwrap();
        file.read_exact(&mut [0; 4096]).unwrap();
    }
    let counts = simulator.counts();
    assert_eq!((counts.get, counts.bytes_requested), (19, 19 * 131_072));
}

/// A file that is read again within `--open-ttl` comes from the page cache, without a request.
#[test]
fn a_second_read_comes_from_the_page_cache() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "big", 20 * MIB);
    let mounted = Mounted::new(&simulator, "myfiles", &["--open-ttl", "60s"]);
    let first = fs::read(mounted.join("big")).unwrap();
    let counts = simulator.counts();
    assert_eq!(counts.bytes_requested, 20 * MIB, "no byte twice");
    let second = fs::read(mounted.join("big")).unwrap();
    assert!(first == second);
    assert_eq!(simulator.counts().get, counts.get);
}

/// The process's peak resident memory stays below `--memory` plus 64 MiB, also while many files are
/// read at once.
#[test]
fn memory_is_bounded() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_tree("myfiles", "files/", 8, 64 * MIB);
    let mounted = Mounted::new(&simulator, "myfiles", &["--memory", "64MiB"]);
    let readers: Vec<_> = (0..8)
        .map(|index| {
            let path = mounted.join(format!("files/{index:06}"));
            let path = if path.exists() { path } else { mounted.join(format!("files/{index:07}")) };
            std::thread::spawn(move || fs::read(path).unwrap().len() as u64)
        })
        .collect();
    assert!(readers.into_iter().all(|reader| reader.join().unwrap() == 64 * MIB));
    let peak = mounted.peak_resident_bytes();
    assert!(peak <= (64 + 64) * MIB, "{} MiB", peak / MIB);
}

/// A directory hides an object of the same name, and the log says so once.
#[test]
fn a_directory_wins_over_an_object_of_its_name() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    for key in ["both", "both/inside", "both-after"] {
        simulator.put("myfiles", key, "x");
    }
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    assert!(fs::metadata(mounted.join("both")).unwrap().is_dir());
    let listed = run("ls", &["-f"], &mounted.path()).stdout;
    let listed = String::from_utf8(listed).unwrap();
    let mut names: Vec<_> = listed.lines().filter(|name| !name.starts_with('.')).collect();
    names.sort_unstable();
    assert_eq!(names, ["both", "both-after"]);
    assert_eq!(mounted.log().matches("both").count(), 1, "{}", mounted.log());
}

/// A name that is not UTF-8 is ENOENT, without a request.
#[test]
fn a_name_that_is_not_utf8_costs_no_request() {
    use std::os::unix::ffi::OsStrExt;
    let (simulator, mounted) = tree();
    simulator.reset_log();
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    assert_eq!(errno(fs::metadata(mounted.join(name))), libc::ENOENT);
    assert_eq!(simulator.counts().requests(), 0);
}

/// Owner, group and permissions of everything shown are those of `--uid`, `--gid`, `--file-mode`
/// and `--dir-mode`, without write permission.
#[test]
fn modes_and_owners_are_as_asked() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "d/f", "x");
    let options = ["--uid", "1234", "--gid", "2345", "--file-mode", "0640", "--dir-mode", "0750"];
    let mounted = Mounted::new(&simulator, "myfiles", &options);
    let (file, directory) = (mounted.join("d/f"), mounted.join("d"));
    let look = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.uid(), found.gid(), found.permissions().mode() & 0o777)
    };
    assert_eq!(look(&file), (1234, 2345, 0o440), "no write bits");
    assert_eq!(look(&directory), (1234, 2345, 0o550));
}

/// A file that is read from start to end is asked for in large ranges, each byte once, however the
/// kernel splits and reorders the reads.
#[test]
fn a_stream_asks_for_each_byte_once() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "big", 100 * MIB);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    simulator.reset_log();
    let direct =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(mounted.join("big"));
    drop(direct.unwrap());
    let output = Command::new("dd")
        .arg(format!("if={}", mounted.join("big").display()))
        .args(["of=/dev/null", "bs=1M", "status=none"])
        .status();
    assert!(output.unwrap().success());
    let counts = simulator.counts();
    assert_eq!(counts.bytes_requested, 100 * MIB);
    let gets = simulator.log().iter().filter(|entry| entry.call.kind == Kind::Get).count();
    // The first window has parts of 2 MiB: 50 of them, and the smaller ones of the beginning.
    assert!(gets <= 75, "{gets} GETs");
}

/// Without `--allow-other` other users get EACCES for everything; with it they see what the
/// permissions let them see.
#[test]
fn other_users_see_what_they_may() {
    // Only root can become another user.
    if run("id", &["-u"], Path::new("/")).stdout != b"0\n" {
        return;
    }
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "f", "x");
    let reads = |options: &[&str]| {
        let mounted = Mounted::new(&simulator, "myfiles", options);
        let parent = mounted.path().parent().unwrap().to_owned();
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("cat");
        command.arg(mounted.join("f")).uid(65_534).gid(65_534);
        command.stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(!reads(&[]));
    assert!(reads(&["--allow-other"]));
    assert!(!reads(&["--allow-other", "--file-mode", "0440"]));
    assert!(!reads(&["--allow-other", "--dir-mode", "0550"]));
}

/// There are no extended attributes: the list of them is empty and any one is ENODATA, an ACL or a
/// security label ENOTSUP, without a request.
#[test]
fn there_are_no_extended_attributes() {
    let (simulator, mounted) = tree();
    fs::metadata(mounted.join("hello.txt")).unwrap();
    simulator.reset_log();
    let script = "import errno, os
print(os.listxattr('hello.txt'))
for name in 'user.x', 'trusted.x', 'system.posix_acl_access', 'security.selinux':
  try: os.getxattr('hello.txt', name)
  except OSError as err: print(errno.errorcode[err.errno])";
    let output = run("python3", &["-c", script], &mounted.path());
    let answers = "[]\nENODATA\nENODATA\nENOTSUP\nENOTSUP\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), answers);
    assert_eq!(simulator.counts().requests(), 0);
}

/// `df` shows a file system that is neither of size zero nor full.
#[test]
fn the_file_system_is_never_full() {
    let (_simulator, mounted) = tree();
    let script = "import os; s=os.statvfs('.'); print(s.f_blocks, s.f_bavail, s.f_ffree)";
    let output = run("python3", &["-c", script], &mounted.path());
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<u64> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert!(numbers.iter().all(|number| *number > 1 << 30), "{text}");
}
