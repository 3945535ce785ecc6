//! Names, bytes and listings: what is stored beforehand and then looked at through the mount.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::changes;
use super::ground::{Ground, Outcome, Plot, fail, must};
use crate::support::simulator::content::content;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// More than two pages of a listing.
const MANY: usize = 2_500;

/// One thing that must hold on every server.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// Where its objects lie; checks of one directory share them.
    pub(super) directory: &'static str,
    pub(super) objects: Vec<Planned>,
    pub(super) look: Look,
}

type Look = Box<dyn Fn(&Plot<'_>) -> Outcome + Send + Sync>;

/// An object that is there before anything is mounted.
pub(super) struct Planned {
    /// Below the directory of its check.
    pub(super) name: String,
    pub(super) content: Bytes,
}

impl Check {
    pub(super) fn new(
        name: &'static str,
        directory: &'static str,
        look: impl Fn(&Plot<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Self { name, directory, objects: Vec::new(), look: Box::new(look) }
    }

    fn with<N: Into<String>>(
        mut self,
        objects: impl IntoIterator<Item = (N, impl Into<Bytes>)>,
    ) -> Self {
        self.objects.extend(
            objects
                .into_iter()
                .map(|(name, content)| Planned { name: name.into(), content: content.into() }),
        );
        self
    }

    pub(super) fn run(&self, ground: &Ground) -> Outcome {
        (self.look)(&ground.plot(self.directory)?)
    }

    pub(super) fn is_large(&self) -> bool {
        self.objects.len() >= MANY
    }
}

/// All of them, in the order of the report.
pub(super) fn all() -> Vec<Check> {
    let mut checks = Vec::new();
    names(&mut checks);
    order(&mut checks);
    sizes(&mut checks);
    listings(&mut checks);
    changes::add(&mut checks);
    checks
}

/// Each kind in a directory of its own, so that one that breaks a listing breaks no other.
fn names(checks: &mut Vec<Check>) {
    let mut add = |name, directory, components: &'static [&'static str]| {
        let files = components.iter().map(|name| ((*name).to_owned(), *name));
        let inside = components.iter().map(|name| (format!("d/{name}/inside"), *name));
        let objects: Vec<_> = files.chain(inside).collect();
        let look = move |plot: &Plot<'_>| are_names(plot, components);
        checks.push(Check::new(name, directory, look).with(objects));
    };
    add("name: space", "n-space", &["a b", " lead", "trail ", "two  spaces"]);
    add("name: plus", "n-plus", &["a+b", "+", "a%2Bb"]);
    add("name: percent", "n-percent", &["100%", "%41", "%", "%zz", "a%20b"]);
    add("name: question mark", "n-question", &["a?b=c", "?versionId=1"]);
    add("name: hash", "n-hash", &["a#b", "#"]);
    add("name: ampersand and angle brackets", "n-xml", &["a&b", "&amp;", "<a>", "]]>"]);
    add("name: quotes", "n-quotes", &["\"a\"", "it's", "`b`"]);
    add("name: backslash", "n-backslash", &["a\\b", "\\"]);
    add("name: other punctuation", "n-other", &["a:b", "*;|~=,@$!^()[]{}_-"]);
    add("name: unicode, composed and decomposed", "n-unicode", &["\u{e9}", "e\u{301}", "\u{4e2d}"]);
    add("name: 4-byte unicode", "n-4byte", &["\u{1f980}", "\u{1d11e}x"]);
    add("name: leading dot", "n-dot", &[".hidden", "...", "..a"]);
    add("name: 255 bytes", "n-255", &[LONGEST, LONGEST_UNICODE]);
    add("name: tab", "n-tab", &["a\tb", "\t"]);
    add("name: newline", "n-newline", &["a\nb", "a\n"]);
    add("name: carriage return", "n-return", &["a\rb"]);
    add("name: control characters", "n-control", &["a\u{1}b", "\u{1b}[31m", "\u{7f}"]);
}

/// `NAME_MAX` of Linux.
const LONGEST: &str = "255-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const LONGEST_UNICODE: &str = "\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\
    \u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\
    \u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\
    \u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\
    \u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\
    \u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\
    \u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}xyz";

/// Each is found by its name, listed once, and readable, as a file and as a directory.
fn are_names(plot: &Plot<'_>, components: &[&str]) -> Outcome {
    for name in components {
        // Before any listing: a lookup of its own.
        let inside = plot.path(format!("d/{name}/inside"));
        must(read(&inside)? == name.as_bytes(), format!("{name:?}: wrong bytes below it"))?;
    }
    has_names(&plot.path("d"), components.iter().copied())?;
    has_names(&plot.path(""), components.iter().copied().chain(["d"]))?;
    for name in components {
        must(read(&plot.path(name))? == name.as_bytes(), format!("{name:?}: wrong bytes"))?;
    }
    Ok(())
}

fn order(checks: &mut Vec<Check>) {
    let siblings = ["a-x", "a.txt", "a/b", "a0", "a!", "a b/c"].map(|name| (name, name));
    let look = |plot: &Plot<'_>| {
        has_names(&plot.path(""), ["a", "a-x", "a.txt", "a0", "a!", "a b"])?;
        has_names(&plot.path("a"), ["b"])?;
        must(fs::metadata(plot.path("a"))?.is_dir(), "a is no directory")
    };
    checks.push(Check::new("names around a directory", "around", look).with(siblings));

    let objects = ["a", "a-x", "a.txt", "a/b"].map(|name| (name, name));
    let look = |plot: &Plot<'_>| {
        must(fs::metadata(plot.path("a"))?.is_dir(), "the directory does not hide the object")?;
        has_names(&plot.path(""), ["a", "a-x", "a.txt"])?;
        must(read(&plot.path("a/b"))? == b"a/b", "wrong bytes")
    };
    let check = Check::new("an object with the name of a directory", "hidden", look);
    checks.push(check.with(objects));

    let objects = [("empty/", ""), ("full/", ""), ("full/f", "f"), ("full/deeper/", "")];
    let look = |plot: &Plot<'_>| {
        has_names(&plot.path(""), ["empty", "full"])?;
        has_names(&plot.path("empty"), [])?;
        has_names(&plot.path("full"), ["f", "deeper"])?;
        must(fs::metadata(plot.path("full/deeper"))?.is_dir(), "a marker is no directory")
    };
    checks.push(Check::new("marker objects", "markers", look).with(objects));
}

fn sizes(checks: &mut Vec<Check>) {
    let mut add = |name, directory, size| {
        let look = move |plot: &Plot<'_>| is_whole(&plot.path("f"), &bytes(directory, size));
        let check = Check::new(name, directory, look);
        checks.push(check.with([("f", bytes(directory, size))]));
    };
    add("size 0", "s-0", 0);
    add("size 1", "s-1", 1);
    add("size 8,191", "s-8191", 8_191);
    add("size 128 KiB - 1", "s-128k-1", 128 * KIB - 1);
    add("size 128 KiB", "s-128k", 128 * KIB);
    add("size 128 KiB + 1", "s-128k+1", 128 * KIB + 1);
    add("size 8 MiB + 1", "s-8m+1", 8 * MIB + 1);

    // Before anything of it is cached; the others share its bytes.
    let big = || bytes("big", 20 * MIB);
    let objects = [("f", big())];
    let random = move |plot: &Plot<'_>| has_random_reads(&plot.path("f"), &big());
    checks.push(Check::new("random reads at odd offsets", "big", random).with(objects));
    let parts = move |plot: &Plot<'_>| is_whole(&plot.path("f"), &big());
    checks.push(Check::new("20 MiB in three parts", "big", parts));
    let etag = move |plot: &Plot<'_>| {
        let listed = plot.list()?;
        let [only] = listed.as_slice() else { return fail(format!("{} keys", listed.len())) };
        // Listings of some servers have none, and HEAD is refused by others.
        let etag = only.etag.clone().or_else(|| plot.ground.etag(&only.key)).unwrap_or_default();
        // Twice: the second open asks whether the version is still the same.
        is_whole(&plot.fresh("f"), &big())?;
        is_whole(&plot.fresh("f"), &big())?;
        must(etag.trim_matches('"').ends_with("-3"), format!("the ETag of three parts is {etag:?}"))
    };
    checks.push(Check::new("the ETag of an upload in parts", "big", etag));
    let direct = move |plot: &Plot<'_>| has_direct_reads(&plot.path("f"), &big());
    checks.push(Check::new("direct I/O", "big", direct));
    let mapped = move |plot: &Plot<'_>| is_mapped(&plot.fresh("f"), &big());
    checks.push(Check::new("mapped memory", "big", mapped));
}

fn listings(checks: &mut Vec<Check>) {
    let dates = |plot: &Plot<'_>| {
        let listed = plot.list()?;
        must(listed.len() == 3, format!("{} keys listed", listed.len()))?;
        for object in listed {
            let name = object.key.rsplit('/').next().unwrap_or_default().to_owned();
            let found = fs::metadata(plot.path(&name))?;
            must(found.len() == object.size, format!("{name}: size {}", found.len()))?;
            let (shown, said) = (found.mtime(), object.modified);
            must(shown == said && said > 0, format!("{name}: mtime {shown}, listed {said}"))?;
            // The answer to HEAD or GET must not be another version.
            must(read(&plot.path(&name))? == name.as_bytes(), format!("{name}: wrong bytes"))?;
            must(fs::metadata(plot.path(&name))?.mtime() == said, "another date after reading")?;
        }
        Ok(())
    };
    let objects = ["x", "yy", "zzz"].map(|name| (name, name));
    checks.push(Check::new("dates as listed", "dates", dates).with(objects));

    let names = || (0..MANY).map(|number| format!("f{number:04}"));
    let look = move |plot: &Plot<'_>| {
        // First a name whose directory is not known yet.
        must(read(&plot.path("f1777"))? == b"f1777", "wrong bytes")?;
        let names: Vec<_> = names().collect();
        has_names(&plot.path(""), names.iter().map(String::as_str))?;
        for name in names.iter().step_by(97) {
            must(fs::metadata(plot.path(name))?.len() == 5, format!("{name}: wrong size"))?;
        }
        let last = &names[MANY - 1];
        must(read(&plot.path(last))? == last.as_bytes(), format!("{last}: wrong bytes"))
    };
    let objects: Vec<_> = names().map(|name| (name.clone(), name)).collect();
    checks.push(Check::new("2,500 keys in one directory", "many", look).with(objects));

    let deep = "1/22/333/4444/55555/666666/f";
    let look = move |plot: &Plot<'_>| {
        must(read(&plot.path(deep))? == deep.as_bytes(), "wrong bytes")?;
        let mut at = String::new();
        for name in deep.split('/') {
            has_names(&plot.path(&at), [name])?;
            at = format!("{at}{name}/");
        }
        Ok(())
    };
    checks.push(Check::new("six levels", "nested", look).with([(deep, deep)]));

    tree(checks);

    let objects = ["inside/f", "inside/d/g", "inside-not/x", "insidey", "f"];
    let look = |plot: &Plot<'_>| {
        let mounted = plot.mount("inside", &[])?;
        has_names(&mounted.path(), ["f", "d"])?;
        must(read(&mounted.join("f"))? == b"inside/f", "wrong bytes")?;
        has_names(&mounted.join("d"), ["g"])?;
        is_missing(&mounted.join("x"))?;
        is_missing(&mounted.join("insidey"))
    };
    let check = Check::new("a prefix shows what is below it", "prefix", look);
    checks.push(check.with(objects.map(|name| (name, name))));

    let objects = [("known/f", "f"), ("unknown/f", "f"), ("unknown/d/f", "f")];
    let look = |plot: &Plot<'_>| {
        for name in ["absent", "unknown/absent", "unknown/d/absent", "absent/too", "unknown/f/x"] {
            is_missing(&plot.path(name))?;
        }
        has_names(&plot.path("known"), ["f"])?;
        is_missing(&plot.path("known/absent"))?;
        is_missing(&plot.path("known/absent/too"))?;
        // A key that begins so is no directory, and a directory no file of a longer name.
        is_missing(&plot.path("know"))?;
        is_missing(&plot.path("known/f2"))
    };
    checks.push(Check::new("missing names", "missing", look).with(objects));
}

/// A tree of more than one page, whose first directory alone is longer than one.
fn tree(checks: &mut Vec<Check>) {
    let keys = || {
        let long = (0..1_050).map(|number| format!("t/a/x/{number:04}"));
        let short = (0..40)
            .flat_map(|dir| ["1", "d/2", "d-", "d.e"].map(|name| format!("t/b{dir:02}/{name}")));
        long.chain(short).chain(["t/a-b", "t/a.c", "t/a/y", "t/c"].map(str::to_owned))
    };
    let look = move |plot: &Plot<'_>| {
        let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for key in keys() {
            for (slash, _) in key.match_indices('/').chain([(key.len(), "")]) {
                let at = key[..slash].rfind('/').map_or(0, |slash| slash + 1);
                let names = expected.entry(key[..at].to_owned()).or_default();
                names.insert(key[at..slash].to_owned());
            }
        }
        // Looked up, listed, and then walked through.
        must(fs::metadata(plot.path("t"))?.is_dir(), "t is no directory")?;
        for (dir, names) in &expected {
            has_names(&plot.path(dir), names.iter().map(String::as_str))?;
        }
        let mounted = plot.mount("t", &[])?;
        let mut files = 0;
        for entry in walk(&mounted.path())? {
            files += usize::from(entry.metadata()?.is_file());
        }
        must(files == keys().count(), format!("{files} files"))
    };
    let objects: Vec<_> = keys().map(|key| (key, "x")).collect();
    checks.push(Check::new("a tree of 1,214 keys", "tree", look).with(objects));
}

/// All that is below a directory, in the order of a walk.
fn walk(path: &Path) -> Outcome<Vec<fs::DirEntry>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.append(&mut walk(&entry.path())?);
        }
        all.push(entry);
    }
    Ok(all)
}

/// Bytes that are those of no other place and no other object.
pub(super) fn bytes(seed: &str, size: usize) -> Vec<u8> {
    content(seed, size as u64, 0..size as u64)
}

pub(super) fn read(path: &Path) -> Outcome<Vec<u8>> {
    fs::read(path).or_else(|err| fail(format!("{}: {err}", shown(path))))
}

/// The directory has exactly these names, each once.
pub(super) fn has_names<'a>(path: &Path, names: impl IntoIterator<Item = &'a str>) -> Outcome {
    let expected: BTreeSet<_> = names.into_iter().map(|name| OsStr::new(name).to_owned()).collect();
    let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let entries = entries.or_else(|err| fail(format!("{}: {err}", shown(path))))?;
    let found: BTreeSet<_> = entries.iter().map(|entry| entry.file_name()).collect();
    let missing: Vec<_> = expected.difference(&found).take(3).collect();
    let strange: Vec<_> = found.difference(&expected).take(3).collect();
    let n_twice = entries.len() - found.len();
    must(
        missing.is_empty() && strange.is_empty() && n_twice == 0,
        format!("{}: missing {missing:?}, strange {strange:?}, {n_twice} twice", shown(path)),
    )
}

/// ENOENT, or ENOTDIR below a file, and nothing else.
pub(super) fn is_missing(path: &Path) -> Outcome {
    match fs::metadata(path) {
        Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(()),
        Err(err) => fail(format!("{}: {err}, not ENOENT", shown(path))),
        Ok(_) => fail(format!("{} is there", shown(path))),
    }
}

/// Size and bytes, compared by SHA-256.
fn is_whole(path: &Path, expected: &[u8]) -> Outcome {
    let size = fs::metadata(path).or_else(|err| fail(format!("{}: {err}", shown(path))))?.len();
    must(size == expected.len() as u64, format!("size {size}, not {}", expected.len()))?;
    let got = read(path)?;
    must(Sha256::digest(&got) == Sha256::digest(expected), "another SHA-256")
}

fn has_random_reads(path: &Path, expected: &[u8]) -> Outcome {
    let file = File::open(path)?;
    // A full cycle of a generator of small numbers: far apart, none aligned, the same in every run.
    let mut at = 12_345_677;
    for number in 0..24 {
        at = (at * 7_368_787 + 1_299_709) % expected.len();
        let len = (1 + number * 7_919).min(expected.len() - at);
        let mut got = vec![0; len];
        file.read_exact_at(&mut got, at as u64)?;
        must(got == expected[at..at + len], format!("wrong bytes at {at}+{len}"))?;
    }
    let mut got = [0; 100];
    let n_read = file.read_at(&mut got, expected.len() as u64 - 3)?;
    must(n_read == 3, format!("{n_read} bytes where 3 are left"))
}

fn has_direct_reads(path: &Path, expected: &[u8]) -> Outcome {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut got = vec![0; 300 * KIB];
    for at in [0, 7 * MIB + 4 * KIB, expected.len() - 4 * KIB] {
        let n_read = file.read_at(&mut got, at as u64)?;
        let wanted = got.len().min(expected.len() - at);
        must(n_read == wanted, format!("{n_read} bytes of {wanted} at {at}"))?;
        must(got[..n_read] == expected[at..at + n_read], format!("wrong bytes at {at}"))?;
    }
    Ok(())
}

/// By Python, which needs no unsafe code here.
fn is_mapped(path: &Path, expected: &[u8]) -> Outcome {
    const SCRIPT: &str = "import hashlib, mmap, sys
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
m[len(m) - 1], m[len(m) // 2]
print(hashlib.sha256(m).hexdigest())";
    let output = Command::new("python3").args(["-c", SCRIPT]).arg(path).output()?;
    let hash: String = Sha256::digest(expected).iter().map(|byte| format!("{byte:02x}")).collect();
    let said = String::from_utf8_lossy(&output.stdout);
    must(said.trim() == hash, format!("{said} {}", String::from_utf8_lossy(&output.stderr)))
}

/// The path in the mount, without that of the mount.
fn shown(path: &Path) -> String {
    let text = format!("{path:?}");
    text.split_once("/mnt/").map_or(text.clone(), |(_, below)| format!("\"{below}"))
}
