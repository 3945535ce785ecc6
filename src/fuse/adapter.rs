//! fuser's trait over [`FileSystem`].

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle as Runtime;

use super::caller;
use super::dispatch::{Deadlines, Patience, dispatch, inline};
use super::entries::{EntriesReply, fill};
use super::kernel;
use super::report::Report;
use crate::awake::Quiet;
use crate::config::PageCache;
use crate::error::FsError;
use crate::fs::{Attr, Entry, FileSystem, Handle, Keeping};
use crate::object::Ino;

/// Inode numbers are never used again for something else, so one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

/// What fuser's session owns.
pub struct Adapter {
    fs: Arc<FileSystem>,
    runtime: Runtime,
    report: Arc<Report>,
    deadlines: Deadlines,
    page_cache: PageCache,
    quiet: Arc<Quiet>,
}

impl Adapter {
    /// Requests that have to wait become tasks of `runtime`, and are waited for as `quiet` says.
    pub(crate) fn new(
        fs: Arc<FileSystem>,
        runtime: Runtime,
        page_cache: PageCache,
        quiet: Arc<Quiet>,
    ) -> Self {
        let deadlines = Deadlines::below(kernel::request_timeout());
        Self { fs, runtime, report: Arc::new(Report::new()), deadlines, page_cache, quiet }
    }

    /// For a request that one program alone waits for.
    fn patience(&self, req: &Request) -> Patience {
        Patience { deadline: self.deadlines.names, caller: req.pid() }
    }

    /// The errno for a failed request, which is logged.
    fn blame(&self, operation: &'static str) -> impl Fn(Ino, &FsError) -> Errno + Send + use<> {
        let (fs, report) = (Arc::clone(&self.fs), Arc::clone(&self.report));
        move |ino, err| Errno::from_i32(report.error(operation, &fs.name_of(ino), err))
    }

    /// Answers READDIR and READDIRPLUS.
    fn read_directory(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: impl EntriesReply,
    ) {
        let handle = Handle(fh.0);
        let (fs, blame) = (Arc::clone(&self.fs), self.blame("readdir"));
        let reader = Arc::clone(&fs);
        let request = async move { reader.read_directory(handle, offset).await };
        dispatch(
            &self.runtime,
            &self.quiet,
            self.patience(req),
            request,
            move |answer| match answer {
                Ok(entries) => fill(reply, &fs, handle, offset, entries),
                Err(err) => reply.error(blame(Ino(ino.0), &err)),
            },
        );
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        kernel::configure(config, self.page_cache);
        Ok(())
    }

    fn destroy(&mut self) {
        // The connection was aborted, as by `umount -f`.
        let (files, directories) = self.fs.n_open();
        if files + directories > 0 {
            tracing::info!("still open at the end: files {files}, directories {directories}");
        }
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (Ino(parent.0), name.to_owned());
        let (fs, blame) = (Arc::clone(&self.fs), self.blame("lookup"));
        let request = async move { fs.lookup(parent, &name).await };
        dispatch(
            &self.runtime,
            &self.quiet,
            self.patience(req),
            request,
            move |answer| match answer {
                Ok(Entry { attr: Some(attr), valid_for }) => {
                    reply.entry_with_ttls(
                        &crate::config::FOREVER,
                        &valid_for,
                        &file_attr(&attr),
                        GENERATION,
                    );
                }
                // An entry with the inode number 0 is an absence that the kernel may keep.
                Ok(Entry { attr: None, valid_for }) if !valid_for.is_zero() => {
                    reply.entry(&valid_for, &absent(), GENERATION);
                }
                Ok(Entry { attr: None, .. }) => reply.error(Errno::ENOENT),
                Err(err) => reply.error(blame(parent, &err)),
            },
        );
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        inline(|| self.fs.forget(Ino(ino.0), nlookup));
    }

    // `batch_forget` is fuser's own, which calls `forget` for each node.

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        inline(|| match self.fs.attributes(Ino(ino.0)) {
            Ok((attr, valid_for)) => reply.attr(&valid_for, &file_attr(&attr)),
            Err(err) => reply.error(self.blame("getattr")(Ino(ino.0), &err)),
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let ino = Ino(ino.0);
        let (fs, blame) = (Arc::clone(&self.fs), self.blame("open"));
        let request = async move { fs.open(ino, flags.0).await };
        let kept = match self.page_cache {
            // An inode is one version, so the pages that the kernel has of it are always right.
            PageCache::Used => FopenFlags::FOPEN_KEEP_CACHE,
            PageCache::Bypassed => FopenFlags::FOPEN_DIRECT_IO,
        };
        dispatch(
            &self.runtime,
            &self.quiet,
            self.patience(req),
            request,
            move |answer| match answer {
                Ok(handle) => reply.opened(FileHandle(handle.0), kept),
                Err(err) => reply.error(blame(ino, &err)),
            },
        );
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if size > kernel::READ_BYTES_MAX {
            return reply.error(Errno::EINVAL);
        }
        let handle = Handle(fh.0);
        let (fs, blame) = (Arc::clone(&self.fs), self.blame("read"));
        let reader = Arc::clone(&fs);
        let pid = req.pid();
        let request = async move {
            let bytes = reader.read(handle, offset, size).await?;
            if reader.may_be_loaded(handle) {
                tokio::spawn(load(reader, handle, Ino(ino.0), pid));
            }
            Ok(bytes)
        };
        // Others may wait for the pages that one program has asked for: none is the only one. Without the
        // page cache it is, and cannot be killed while it waits; a page fault of another on the same page
        // asks again by itself (linux/mm/filemap.c, `filemap_fault`).
        let is_direct = self.page_cache == PageCache::Bypassed || flags.0 & libc::O_DIRECT != 0;
        let caller = if is_direct { pid } else { 0 };
        let patience = Patience { deadline: self.deadlines.read, caller };
        dispatch(&self.runtime, &self.quiet, patience, request, move |answer| match answer {
            Ok(bytes) => reply.data(bytes.as_ref()),
            Err(err) => {
                fs.note_deadline(handle, offset, size, &err);
                reply.error(blame(Ino(ino.0), &err));
            }
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        inline(|| self.fs.release(Handle(fh.0)));
        reply.ok();
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let ino = Ino(ino.0);
        let (fs, blame) = (Arc::clone(&self.fs), self.blame("opendir"));
        let request = async move { fs.open_directory(ino).await };
        dispatch(
            &self.runtime,
            &self.quiet,
            self.patience(req),
            request,
            move |answer| match answer {
                Ok((handle, keeping)) => {
                    let flags = match keeping {
                        Keeping::Apart => FopenFlags::empty(),
                        Keeping::Fills => FopenFlags::FOPEN_CACHE_DIR,
                        Keeping::Uses => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
                    };
                    reply.opened(FileHandle(handle.0), flags);
                }
                Err(err) => reply.error(blame(ino, &err)),
            },
        );
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.read_directory(req, ino, fh, offset, reply);
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.read_directory(req, ino, fh, offset, reply);
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        inline(|| self.fs.release_directory(Handle(fh.0)));
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let all = self.fs.statistics();
        let (blocks, files, bytes) = (all.blocks, all.files, all.block_bytes);
        reply.statfs(blocks, blocks, blocks, files, files, bytes, all.name_bytes_max, bytes);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, mask: fuser::AccessFlags, reply: ReplyEmpty) {
        // The kernel checks modes itself (default_permissions); only writing is ours to refuse.
        if mask.contains(fuser::AccessFlags::W_OK) {
            reply.error(Errno::EROFS);
        } else {
            reply.ok();
        }
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, name: &OsStr, _size: u32, reply: ReplyXattr) {
        // `ls -l` asks for the ACL and the label of each file, until it hears that there are none on this
        // device (coreutils, src/ls.c, errno_unsupported).
        let is_of = |class: &str| name.as_encoded_bytes().starts_with(class.as_bytes());
        let has_none = is_of("security.") || is_of("system.");
        reply.error(if has_none { Errno::EOPNOTSUPP } else { Errno::ENODATA });
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }
}

/// Loads a file that the program which reads it has mapped.
async fn load(fs: Arc<FileSystem>, handle: Handle, ino: Ino, pid: u32) {
    // /proc may wait for a lock of that program's memory.
    let is_mapped = tokio::task::spawn_blocking(move || caller::has_mapped(pid, ino.0));
    if is_mapped.await.unwrap_or(false) {
        fs.load(handle).await;
    }
}

pub(super) fn file_type(attr: &Attr) -> FileType {
    if attr.is_directory { FileType::Directory } else { FileType::RegularFile }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let seconds = Duration::from_secs(attr.modified.unsigned_abs());
    let time = if attr.modified < 0 {
        SystemTime::UNIX_EPOCH - seconds
    } else {
        SystemTime::UNIX_EPOCH + seconds
    };
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: attr.block_bytes,
        flags: 0,
    }
}

/// The reply for a name that is not there.
fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
