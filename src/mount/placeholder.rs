//! PLACEHOLDER for what is not here yet: a bucket without a server and a file system with one file.
//! To be deleted when `store::stack` and `fuse::Adapter` are in their places.

use std::ffi::OsStr;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::config::{BucketConfig, MountConfig};
use crate::error::{StoreError, StoreErrorKind as Kind};
use crate::store::{GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore};

/// Buckets of certain names fail or wait, for trying the start by hand.
pub(super) struct EmptyBucket(String);

impl EmptyBucket {
    pub(super) fn new(config: &BucketConfig) -> Self {
        Self(config.bucket.clone())
    }
}

impl ObjectStore for EmptyBucket {
    fn head<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        async { Err(StoreError::new(Kind::NotFound, "placeholder")) }.boxed()
    }

    fn list(&self, _request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        async {
            let kind = match self.0.as_str() {
                "try-no-bucket" => Kind::NoSuchBucket,
                "try-denied" => Kind::Denied,
                "try-no-credentials" => Kind::NoCredentials,
                "try-unreachable" => Kind::Unreachable,
                "try-panic" => panic!("tried"),
                "try-slow" => {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    return Ok(ListPage::default());
                }
                _ => return Ok(ListPage::default()),
            };
            Err(StoreError::new(kind, "placeholder"))
        }
        .boxed()
    }

    fn get(&self, _request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async { Err(StoreError::new(Kind::NotFound, "placeholder")) }.boxed()
    }
}

/// A root with the file `placeholder`.
pub(super) struct OneFile {
    attributes: [FileAttr; 2],
}

const TEXT: &[u8] = b"nothing here yet\n";
const TTL: Duration = Duration::from_secs(1);

impl OneFile {
    pub(super) fn new(config: &MountConfig) -> Self {
        let root = FileAttr {
            ino: INodeNo(1),
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::Directory,
            perm: config.dir_mode,
            nlink: 1,
            uid: config.uid,
            gid: config.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        let file = FileAttr {
            ino: INodeNo(2),
            size: TEXT.len() as u64,
            kind: FileType::RegularFile,
            perm: config.file_mode,
            ..root
        };
        Self { attributes: [root, file] }
    }
}

impl Filesystem for OneFile {
    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "placeholder" {
            reply.entry(&TTL, &self.attributes[1], Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match ino.0 {
            1 => reply.attr(&TTL, &self.attributes[0]),
            2 => reply.attr(&TTL, &self.attributes[1]),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let start = usize::try_from(offset).map_or(TEXT.len(), |start| start.min(TEXT.len()));
        let end = start.saturating_add(size as usize).min(TEXT.len());
        reply.data(&TEXT[start..end]);
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = [
            (1, FileType::Directory, "."),
            (1, FileType::Directory, ".."),
            (2, FileType::RegularFile, "placeholder"),
        ];
        for (next, (ino, kind, name)) in (1..).zip(entries) {
            if next > offset && reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: fuser::ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }
}
