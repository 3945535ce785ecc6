//! A kernel that sends anything: requests written to the session's own descriptor, which is one end of a pair
//! of sockets here, below all that the kernel checks. Numbers of nodes and handles that were never
//! given, arguments cut off or forged, operations that nobody knows.
//!
//! What must hold: nothing panics; each request that wants an answer gets one, with its own number and
//! an errno; a read that is meant so is right in between; nothing is left at the end.
//!
//! Left out is what the kernel itself counts and fuser believes, as its thread would end or panic: the length in
//! the header, that of the data behind WRITE, SETXATTR and IOCTL; and times of SETATTR further away than a
//! `SystemTime` goes, which a read-only mount is never sent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::SessionACL;
use socket2::{Domain, Socket, Type};
use tokio::runtime::Runtime;

use super::Adapter;
use crate::config::PageCache;
use crate::fs::{FileSystem, model};
use crate::store::fake::FakeStore;

/// Requests under way at once; their answers fit into what the sockets take together.
const UNDER_WAY_MAX: usize = 8;

/// Longer than any deadline.
const PATIENCE: Duration = Duration::from_secs(90);

/// Of fuser's threads and of the tasks of the mount: a panic of theirs is a defect.
const TASKS: &str = "raw-tasks";

/// linux/fuse.h, `fuse_opcode`.
mod op {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const SETXATTR: u32 = 21;
    pub(super) const GETXATTR: u32 = 22;
    pub(super) const LISTXATTR: u32 = 23;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const ACCESS: u32 = 34;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const IOCTL: u32 = 39;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const READDIRPLUS: u32 = 44;
    /// The last that fuser knows is 47.
    pub(super) const END: usize = 56;
}

const ROOT: u64 = 1;
const HEADER: usize = 40;

/// Sizes about those where something changes, none too large for one message of a socket.
const FILES: [(&str, usize); 6] = [
    ("a", 0),
    ("b", 5),
    ("dir/page", 4096),
    ("dir/part", 128 << 10),
    ("dir/sub/odd", 131_073),
    ("dir/sub/more", 200_000),
];

/// The content of an object, whose words are numbered.
fn bytes_of(key: &str, size: usize) -> Vec<u8> {
    let salt = xxhash_rust::xxh3::xxh3_64(key.as_bytes());
    (0_u64..).flat_map(|word| (word ^ salt).to_le_bytes()).take(size).collect()
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = xxhash_rust::xxh3::xxh3_64(&self.0.to_le_bytes());
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).expect("below end")
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A number at an edge, or any.
    fn number(&mut self) -> u64 {
        let any = self.roll();
        let edges = [0, 1, 2, 3, 1 << 31, 1 << 32, 1 << 63, u64::MAX, u64::MAX - 1, 4096, any, any];
        self.pick(&edges)
    }
}

/// An answer: the errno, positive, or what came.
type Answer = Result<Vec<u8>, i32>;

/// The kernel's side of the descriptor.
struct Wire {
    socket: Socket,
    next: u64,
    /// The operation of each request that has no answer yet, and whether it must get one.
    under_way: BTreeMap<u64, (u32, bool)>,
    answers: HashMap<u64, (u32, Answer)>,
}

impl Wire {
    fn new(socket: Socket) -> Self {
        let pause = Some(Duration::from_millis(20));
        socket.set_read_timeout(pause).expect("a socket");
        Self { socket, next: 2, under_way: BTreeMap::new(), answers: HashMap::new() }
    }

    fn send(&mut self, opcode: u32, node: u64, pid: u32, body: &[u8], must: bool) -> u64 {
        let unique = self.next;
        self.next += 2;
        let len = u32::try_from(HEADER + body.len()).expect("small");
        let mut message = Vec::with_capacity(HEADER + body.len());
        for word in [len, opcode] {
            message.extend(word.to_le_bytes());
        }
        message.extend(unique.to_le_bytes());
        message.extend(node.to_le_bytes());
        for word in [0, 0, pid, 0] {
            message.extend(word.to_le_bytes());
        }
        message.extend(body);
        self.under_way.insert(unique, (opcode, must));
        self.socket.write_all(&message).expect("the session lives");
        unique
    }

    /// Takes one answer, and looks at it; false where none came for a while.
    fn take(&mut self) -> bool {
        let mut message = vec![0; 1 << 20];
        let len = match self.socket.read(&mut message) {
            Ok(len) => len,
            Err(err) => {
                let usual = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
                assert!(usual.contains(&err.kind()), "{err}");
                return false;
            }
        };
        assert!(len >= 16, "the session has ended, or an answer of {len} bytes");
        let word = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().expect("4 bytes"));
        let unique = u64::from_le_bytes(message[8..16].try_into().expect("8 bytes"));
        assert_eq!(word(0) as usize, len, "an answer is as long as it says");
        let errno = word(4).cast_signed().checked_neg().expect("an errno");
        let Some((opcode, _)) = self.under_way.remove(&unique) else {
            panic!("an answer to {unique}, which nobody waits for")
        };
        let place = format!("the answer to operation {opcode}, number {unique}");
        assert!((0..=133).contains(&errno), "{place}: errno {errno}");
        assert!(errno == 0 || len == 16, "{place}: an errno and bytes");
        let answer = if errno == 0 { Ok(message[16..len].to_vec()) } else { Err(errno) };
        self.answers.insert(unique, (opcode, answer));
        true
    }

    /// Until at most so many wait.
    fn drain(&mut self, n_max: usize) {
        let start = Instant::now();
        let waiting = |wire: &Self| wire.under_way.values().filter(|(_, must)| *must).count();
        while waiting(self) > n_max {
            self.take();
            assert!(start.elapsed() < PATIENCE, "no answer to {:?}", self.under_way);
        }
    }

    /// One request, and its answer.
    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Answer {
        let unique = self.send(opcode, node, 0, body, true);
        let start = Instant::now();
        while self.under_way.contains_key(&unique) {
            self.take();
            assert!(start.elapsed() < PATIENCE, "no answer to operation {opcode}");
        }
        self.answers.remove(&unique).expect("it was just taken").1
    }
}

fn words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn named(head: &[u64], name: &[u8]) -> Vec<u8> {
    [&words(head)[..], name, &[0]].concat()
}

/// What READ, READDIR and READDIRPLUS have in common: which, from where, and how much.
fn reading(fh: u64, offset: u64, size: u32) -> Vec<u8> {
    words(&[fh, offset, size.into(), 0, 0])
}

struct Kernel {
    wire: Wire,
    dice: Dice,
    fs: Arc<FileSystem>,
    session: JoinHandle<io::Result<()>>,
    n_threads: usize,
    /// Numbers that were given.
    nodes: HashSet<u64>,
    handles: Vec<u64>,
    /// Answers with something, and with an errno.
    n_answers: (usize, usize),
    _runtime: Runtime,
}

impl Kernel {
    /// Serves `objects`, key and content.
    fn new(seed: u64, n_threads: usize, objects: Vec<(&str, Vec<u8>)>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(TASKS)
            .enable_all()
            .build()
            .expect("a runtime");
        let store = FakeStore::new().with_latency(Duration::from_millis(1));
        for (key, bytes) in objects {
            store.put(key, bytes);
        }
        let fs = {
            let _context = runtime.enter();
            model::over(&store)
        };
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).expect("sockets");
        theirs.set_send_buffer_size(4 << 20).expect("a socket");
        let adapter = Adapter::new(
            Arc::clone(&fs),
            runtime.handle().clone(),
            PageCache::Used,
            Arc::default(),
        );
        let session = std::thread::spawn(move || {
            let mut config = fuser::Config::default();
            config.acl = SessionACL::All;
            config.n_threads = Some(n_threads);
            fuser::Session::from_fd(adapter, theirs.into(), SessionACL::All, config)?.run()
        });
        let mut kernel = Self {
            wire: Wire::new(ours),
            dice: Dice(seed),
            fs,
            session,
            n_threads,
            nodes: HashSet::from([ROOT]),
            handles: Vec::new(),
            n_answers: (0, 0),
            _runtime: runtime,
        };
        // Version 7.40, all that there is.
        let mut body = words(&[7 | 40 << 32, 1 << 20 | 0xffff_ffff << 32]);
        body.resize(64, 0);
        kernel.wire.ask(op::INIT, 0, &body).expect("both agree");
        kernel
    }

    fn node(&mut self) -> u64 {
        if self.dice.below(4) == 0 {
            return self.dice.number();
        }
        let mut known: Vec<_> = self.nodes.iter().copied().collect();
        known.sort_unstable();
        self.dice.pick(&known)
    }

    fn handle(&mut self) -> u64 {
        if self.handles.is_empty() || self.dice.below(3) == 0 {
            return self.dice.number();
        }
        let at = self.dice.below(self.handles.len());
        self.handles[at]
    }

    fn name(&mut self) -> Vec<u8> {
        let len = self.dice.pick(&[1, 255, 256, 1024, 5000]);
        match self.dice.below(8) {
            0 => Vec::new(),
            1 => vec![b'n'; len],
            2 => b"\xff\xfe".to_vec(),
            3 => self.dice.pick(&[&b"."[..], b"..", b"/", b"a/b", b"dir/", b"\n", b"%00"]).to_vec(),
            _ => self.dice.pick(&["a", "b", "dir", "sub", "page", "odd", "none"]).into(),
        }
    }

    /// A request as it should be, or nearly so. INIT and DESTROY are for the beginning and the end.
    fn request(&mut self) -> (u32, Vec<u8>) {
        let opcodes = [
            op::LOOKUP,
            op::FORGET,
            op::GETATTR,
            op::OPEN,
            op::READ,
            op::READ,
            op::RELEASE,
            op::GETXATTR,
            op::LISTXATTR,
            op::INIT,
            op::OPENDIR,
            op::READDIR,
            op::READDIRPLUS,
            op::RELEASEDIR,
            op::ACCESS,
            op::INTERRUPT,
            op::BATCH_FORGET,
        ];
        let any = u32::try_from(self.dice.below(op::END)).expect("small");
        let other = self.dice.pick(&[any, any, 4096, u32::MAX, 0]);
        let opcode = if self.dice.below(4) == 0 { other } else { self.dice.pick(&opcodes) };
        let opcode = if opcode == op::DESTROY { op::LOOKUP } else { opcode };
        let offset = self.dice.pick(&[0, 1, 2, 3, 5, 4096, 131_072, u64::MAX, 1 << 63, 1 << 62]);
        let size = self.dice.pick(&[0, 1, 24, 100, 152, 4096, 1 << 20, u32::MAX, u32::MAX - 7]);
        let number = self.dice.number();
        let body = match opcode {
            op::LOOKUP => named(&[], &self.name()),
            op::FORGET | op::INTERRUPT => words(&[number]),
            op::GETATTR => words(&[number & 1, self.handle()]),
            // Within the times that there are.
            op::SETATTR => words(&[number & 0x3ff, self.handle(), 0, 0, 1, 1, 1, 0, 0, 0, 0]),
            // With the one byte of data that they say.
            op::WRITE => [words(&[self.handle(), offset, 1, 0, 0]), vec![1]].concat(),
            op::SETXATTR => [named(&[1], b"user.a"), vec![1]].concat(),
            op::IOCTL => [words(&[self.handle(), number, number, 1]), vec![1]].concat(),
            op::OPEN | op::OPENDIR => words(&[self.dice.pick(&[0, 0, 0, 1, 2, 0o40000, number])]),
            op::READ | op::READDIR | op::READDIRPLUS => reading(self.handle(), offset, size),
            op::RELEASE | op::RELEASEDIR => words(&[self.handle(), 0, 0]),
            op::GETXATTR => named(&[size.into()], &self.name()),
            op::LISTXATTR => words(&[size.into()]),
            op::ACCESS => words(&[self.dice.pick(&[0, 1, 2, 4, 7, number])]),
            op::BATCH_FORGET => {
                let count = self.dice.pick(&[0, 1, 2, 2, 1 << 31, 0xffff_ffff]);
                words(&[count, self.node(), number, self.node(), 1])
            }
            _ => {
                let len = self.dice.below(200);
                (0..len).map(|_| self.dice.roll().to_le_bytes()[0]).collect()
            }
        };
        let is_believed = [op::SETATTR, op::WRITE, op::SETXATTR, op::IOCTL].contains(&opcode);
        (opcode, if is_believed { body } else { self.mutated(body) })
    }

    fn mutated(&mut self, mut body: Vec<u8>) -> Vec<u8> {
        match self.dice.below(10) {
            0 => body.truncate(self.dice.below(body.len() + 1)),
            1 => body.extend(vec![0xff; self.dice.below(300)]),
            2 if !body.is_empty() => {
                let at = self.dice.below(body.len());
                body[at] ^= 1 << self.dice.below(8);
            }
            3 if body.len() >= 8 => {
                let at = self.dice.below(body.len() / 8) * 8;
                body.splice(at..at + 8, self.dice.number().to_le_bytes());
            }
            _ => {}
        }
        body
    }

    fn step(&mut self) {
        let (opcode, body) = self.request();
        let (node, pid) = (self.node(), self.dice.pick(&[0, 0, 1, std::process::id(), u32::MAX]));
        // One that cannot be read is refused as any other; one that can has no answer.
        let must = ![op::FORGET, op::BATCH_FORGET].contains(&opcode);
        self.wire.send(opcode, node, pid, &body, must);
        self.wire.drain(UNDER_WAY_MAX);
        self.learn();
    }

    /// What was given may be used, rightly or not.
    fn learn(&mut self) {
        for (_, (opcode, answer)) in self.wire.answers.drain() {
            let Ok(bytes) = answer else {
                self.n_answers.1 += 1;
                continue;
            };
            self.n_answers.0 += 1;
            match opcode {
                op::LOOKUP => drop(self.nodes.insert(word(&bytes, 0))),
                op::OPEN | op::OPENDIR => self.handles.push(word(&bytes, 0)),
                op::READDIRPLUS => {
                    self.nodes.extend(entries(&bytes, 128).into_iter().map(|it| it.0))
                }
                _ => {}
            }
        }
        self.nodes.remove(&0);
    }

    /// Walks to a key; the number of its node and its size.
    fn walk(&mut self, key: &str) -> Result<(u64, u64), i32> {
        let (mut node, mut size) = (ROOT, 0);
        for name in key.split('/') {
            let entry = self.wire.ask(op::LOOKUP, node, &named(&[], name.as_bytes()))?;
            node = word(&entry, 0);
            self.nodes.insert(node);
            // fuse_entry_out: 40 bytes, then fuse_attr, in which the size comes second.
            size = word(&entry, 48);
        }
        Ok((node, size))
    }

    /// All of one file, as a program would read it.
    fn check_file(&mut self) {
        let (key, size) = self.dice.pick(&FILES);
        let opened = |kernel: &mut Self| {
            let (node, told) = kernel.walk(key)?;
            let open = kernel.wire.ask(op::OPEN, node, &words(&[0]))?;
            Ok((node, told, word(&open, 0)))
        };
        // A forged FORGET may still be under way on the other thread.
        let mut answer = opened(self);
        for _ in 0..5 {
            if answer == Err(libc::ESTALE) || answer == Err(libc::ENOENT) {
                answer = opened(self);
            }
        }
        let (node, told, fh) = answer.unwrap_or_else(|errno| panic!("{key}: errno {errno}"));
        assert_eq!(told, size as u64, "{key}");
        let wanted = bytes_of(key, size);
        let piece = self.dice.pick(&[4096, 65_536, 131_072]);
        let mut whole: Vec<u8> = Vec::new();
        loop {
            let body = reading(fh, whole.len() as u64, piece);
            let bytes = self.wire.ask(op::READ, node, &body).expect("bytes");
            whole.extend(&bytes);
            if bytes.len() < piece as usize {
                break;
            }
        }
        assert!(whole == wanted, "{key}: {} bytes", whole.len());
        self.wire.ask(op::RELEASE, node, &words(&[fh, 0, 0])).expect("closed");
    }

    /// All names of a directory.
    fn check_directory(&mut self) {
        let open = self.wire.ask(op::OPENDIR, ROOT, &words(&[0])).expect("a directory");
        let (fh, mut offset) = (word(&open, 0), 0);
        let (opcode, skipped) = self.dice.pick(&[(op::READDIR, 0), (op::READDIRPLUS, 128)]);
        let mut names = Vec::new();
        loop {
            let body = reading(fh, offset, 4096);
            let bytes = self.wire.ask(opcode, ROOT, &body).expect("names");
            let some = entries(&bytes, skipped);
            let Some((_, next, _)) = some.last() else { break };
            offset = *next;
            if skipped > 0 {
                self.nodes.extend(some.iter().map(|entry| entry.0));
            }
            names.extend(some.into_iter().map(|entry| entry.2));
        }
        assert_eq!(names, [".", "..", "a", "b", "dir"]);
        self.wire.ask(op::RELEASEDIR, ROOT, &words(&[fh, 0, 0])).expect("closed");
    }

    /// Gives all back, and looks what is left.
    fn leave(mut self) {
        self.wire.drain(0);
        self.learn();
        for fh in std::mem::take(&mut self.handles) {
            for opcode in [op::RELEASE, op::RELEASEDIR] {
                self.wire.ask(opcode, ROOT, &words(&[fh, 0, 0])).expect("closed");
            }
        }
        for node in &self.nodes {
            self.wire.send(op::FORGET, *node, 0, &words(&[u64::MAX]), false);
        }
        self.wire.ask(op::GETATTR, ROOT, &words(&[0, 0])).expect("the root");
        let start = Instant::now();
        while !model::left_over(&self.fs).is_empty() && start.elapsed() < PATIENCE {
            self.wire.take();
        }
        assert_eq!(model::left_over(&self.fs), Vec::<&str>::new());
        for _ in 0..self.n_threads {
            self.wire.ask(op::DESTROY, 0, &[]).expect("the end");
        }
        let ended = self.session.join().expect("no panic");
        ended.expect("the session ends as it is told");
    }
}

/// Node, place of the next, and name of each entry, which begins so many bytes on.
fn entries(bytes: &[u8], skipped: usize) -> Vec<(u64, u64, String)> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while rest.len() >= skipped + 24 {
        let entry = &rest[skipped..];
        let len = u32::from_le_bytes(entry[16..20].try_into().expect("4 bytes")) as usize;
        let name = String::from_utf8(entry[24..24 + len].to_vec()).expect("UTF-8");
        let node = if skipped > 0 { word(rest, 0) } else { word(entry, 0) };
        entries.push((node, word(entry, 8), name));
        rest = &rest[(skipped + 24 + len).next_multiple_of(8).min(rest.len())..];
    }
    entries
}

/// Counts the panics of threads that serve.
fn count_panics() -> Arc<AtomicUsize> {
    let n_panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n_panics);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        if thread.name().is_some_and(|name| name.starts_with("fuser-") || name == TASKS) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        before(info);
    }));
    n_panics
}

fn run(seed: u64, n_threads: usize, n_steps: usize) {
    let n_panics = count_panics();
    let objects = FILES.map(|(key, size)| (key, bytes_of(key, size)));
    let mut kernel = Kernel::new(seed, n_threads, objects.into());
    for step in 0..n_steps {
        kernel.step();
        if step % 25 == 0 {
            kernel.check_file();
            kernel.check_directory();
        }
    }
    let (n_good, n_errors) = kernel.n_answers;
    assert!(n_good > n_steps / 10 && n_errors > n_steps / 10, "{:?}", kernel.n_answers);
    kernel.leave();
    assert_eq!(n_panics.load(Ordering::Relaxed), 0, "seed {seed}");
}

#[test]
fn requests_that_no_kernel_sends_are_answered_once_and_harm_nobody() {
    for (seed, n_threads) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
        run(seed, n_threads, 3000);
    }
}

/// What the kernel has agreed to ask for at once always finds room.
#[test]
fn a_read_of_more_than_was_agreed_is_refused() {
    let n_panics = count_panics();
    // More than all memory of the mount.
    let mut kernel = Kernel::new(1, 1, vec![("large", vec![1; 48 << 20])]);
    let (node, _) = kernel.walk("large").expect("it is there");
    let open = kernel.wire.ask(op::OPEN, node, &words(&[0])).expect("it is there");
    let fh = word(&open, 0);
    for size in [u32::MAX, 40 << 20, (16 << 20) + 1] {
        let answer = kernel.wire.ask(op::READ, node, &reading(fh, 0, size));
        assert_eq!(answer, Err(libc::EINVAL), "{size}");
    }
    let bytes = kernel.wire.ask(op::READ, node, &reading(fh, 47 << 20, 100_000));
    assert_eq!(bytes, Ok(vec![1; 100_000]));
    kernel.wire.ask(op::RELEASE, node, &words(&[fh, 0, 0])).expect("closed");
    kernel.leave();
    assert_eq!(n_panics.load(Ordering::Relaxed), 0);
}

/// `S3MOUNT_CLIENT_SEED=7 S3MOUNT_CLIENT_STEPS=1000000 cargo test --lib -- --ignored raw::`
#[test]
#[ignore = "by hand, for as long as one likes"]
fn requests_that_no_kernel_sends_from_any_seed() {
    let number = |name: &str| std::env::var_os(name)?.to_str()?.parse().ok();
    let seed = number("S3MOUNT_CLIENT_SEED").unwrap_or(5);
    let n_steps = number("S3MOUNT_CLIENT_STEPS").unwrap_or(100_000);
    run(seed, 2, usize::try_from(n_steps).expect("a number of steps"));
}
