//! The thread in which fuser serves a descriptor, and what the rest of the mount sees of it.

use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use fuser::{Filesystem, Notifier, SessionACL};
use tokio::sync::oneshot;

use crate::config::{Access, MountConfig};

/// A session of fuser on a thread of its own.
#[derive(Debug)]
pub(super) struct Session {
    opened: Option<oneshot::Receiver<Notifier>>,
    ended: oneshot::Receiver<io::Result<()>>,
    thread: JoinHandle<()>,
}

impl Session {
    /// Serves `device` until it is unmounted.
    pub(super) fn start(
        filesystem: impl Filesystem,
        device: OwnedFd,
        config: &MountConfig,
    ) -> io::Result<Self> {
        let acl = match config.access {
            Access::Owner => SessionACL::Owner,
            Access::OwnerAndRoot => SessionACL::RootAndOwner,
            Access::Everybody => SessionACL::All,
        };
        let mut session_config = fuser::Config::default();
        session_config.acl = acl;
        session_config.n_threads = Some(config.threads);

        let (opened_sender, opened) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("session".to_owned()).spawn(move || {
            // The greeting of the kernel is waited for here, too: it never comes through a
            // descriptor that nobody has mounted.
            let result = fuser::Session::from_fd(filesystem, device, acl, session_config).and_then(
                |session| {
                    let _ = opened_sender.send(session.notifier());
                    session.run()
                },
            );
            let _ = ended_sender.send(result);
        })?;
        Ok(Self { opened: Some(opened), ended, thread })
    }

    /// Kernel and file system have agreed. Gives `None` where the session ended before.
    pub(super) async fn opened(&mut self) -> Option<Notifier> {
        match self.opened.take() {
            Some(opened) => opened.await.ok(),
            None => None,
        }
    }

    /// Unmounted, by whomever. To be awaited to its end once; it may be dropped before that.
    pub(super) async fn ended(&mut self) -> io::Result<()> {
        match (&mut self.ended).await {
            Ok(Err(err)) if err.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            Ok(result) => result,
            Err(_) => Err(io::Error::other("the session's thread panicked")),
        }
    }

    /// After the end: the file system has been dropped when this returns.
    pub(super) fn join(self) {
        // A panic was told by `ended`.
        let _ = self.thread.join();
    }
}
