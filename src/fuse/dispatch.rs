//! From a kernel request to its answer, without ever holding up a FUSE thread: the request's future
//! is polled once where it came in, and becomes a task only if it has to wait. Each has a deadline,
//! and a panic costs one EIO (fuser has no guard: it would end that FUSE thread for ever).

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;

use super::caller;
use crate::awake::{Quiet, TimeIsUp, awake_for};
use crate::error::{FsError, StoreError};

/// How long the kernel waits for an answer at most: a process that waits for one can often not even
/// be killed before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// Lookup, open and directory reads.
    pub(super) names: Duration,
    /// Reads of files.
    pub(super) read: Duration,
}

impl Deadlines {
    const USUAL: Self = Self { names: Duration::from_secs(20), read: Duration::from_secs(60) };

    /// The usual ones, and below `kernel_max`, where the administrator has set it
    /// (`fs.fuse.max_request_timeout`): the kernel aborts the whole connection over one answer that
    /// is later than that.
    pub(super) fn below(kernel_max: Option<Duration>) -> Self {
        let most = kernel_max.map_or(Duration::MAX, |max| max / 2);
        let Self { names, read } = Self::USUAL;
        Self { names: names.min(most), read: read.min(most) }
    }
}

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) deadline: Duration,
    /// The thread that waits, where nobody else does: the request ends with it. 0 for none.
    pub(super) caller: u32,
}

/// Answers with what `request` comes to, by `reply`, at once or later, but within `patience`, and before the
/// machine sleeps.
pub(super) fn dispatch<T: Send + 'static>(
    runtime: &Handle,
    quiet: &Arc<Quiet>,
    patience: Patience,
    request: impl Future<Output = Result<T, FsError>> + Send + 'static,
    reply: impl FnOnce(Result<T, FsError>) + Send + 'static,
) {
    let mut request: Pin<Box<dyn Future<Output = Result<T, FsError>> + Send>> = Box::pin(request);
    // Timers and tasks of what is polled here belong to the runtime.
    let _context = runtime.enter();
    let first = catch_unwind(AssertUnwindSafe(|| {
        request.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }));
    match first {
        Ok(Poll::Ready(answer)) => answer_with(reply, answer),
        Err(panic) => answer_with(reply, Err(panicked(&*panic))),
        Ok(Poll::Pending) => {
            let waiting = quiet.waiting();
            let quiet = Arc::clone(quiet);
            runtime.spawn(async move {
                let Patience { deadline, caller } = patience;
                let answer = tokio::select! {
                    biased;
                    // First, as what ends with the quiet is then ended by it, and not by an error.
                    why = awake_for(deadline, &quiet) => Err(match why {
                        TimeIsUp::Ran => FsError::Deadline(deadline.as_secs()),
                        TimeIsUp::Sleep => StoreError::asleep().into(),
                    }),
                    answer = AssertUnwindSafe(request).catch_unwind() => match answer {
                        Ok(answer) => answer,
                        Err(panic) => Err(panicked(&*panic)),
                    },
                    () = caller::killed(caller) => Err(FsError::Killed),
                };
                answer_with(reply, answer);
                // Until the kernel has it: a program whose answer is being written waits, too.
                drop(waiting);
            });
        }
    }
}

/// Runs `handler` on this thread, for requests that never wait.
pub(super) fn inline(handler: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(handler)) {
        panicked(&*panic);
    }
}

/// A reply that is dropped by a panic has answered EIO by itself (fuser, `ReplyRaw`).
fn answer_with<T>(reply: impl FnOnce(Result<T, FsError>), answer: Result<T, FsError>) {
    inline(|| reply(answer));
}

/// The panic hook has logged where it came from.
fn panicked(panic: &(dyn Any + Send)) -> FsError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!("a request failed by a defect of s3mount: {}", text.unwrap_or("unknown"));
    FsError::Abandoned
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::error::StoreErrorKind;

    const PATIENCE: Patience = Patience { deadline: Deadlines::USUAL.names, caller: 0 };

    /// Dispatches `request` and returns what the reply was given.
    async fn answer<T: Send + 'static>(
        request: impl Future<Output = Result<T, FsError>> + Send + 'static,
    ) -> Result<T, FsError> {
        answer_of(&Arc::default(), request).await
    }

    async fn answer_of<T: Send + 'static>(
        quiet: &Arc<Quiet>,
        request: impl Future<Output = Result<T, FsError>> + Send + 'static,
    ) -> Result<T, FsError> {
        let (sender, receiver) = oneshot::channel();
        dispatch(&Handle::current(), quiet, PATIENCE, request, |answer| {
            let _ = sender.send(answer);
        });
        receiver.await.expect("each request is answered")
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_ready_is_answered_before_dispatch_returns() {
        let (sender, mut receiver) = oneshot::channel();
        let quiet: Arc<Quiet> = Arc::default();
        dispatch(&Handle::current(), &quiet, PATIENCE, async { Ok(5) }, |answer| {
            let _ = sender.send(answer.ok());
        });
        assert_eq!(receiver.try_recv(), Ok(Some(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_at_the_first_poll_or_later_is_an_error() {
        let first = answer::<()>(async { panic!("planned") }).await;
        assert_eq!(first.unwrap_err().errno(), libc::EIO);
        let later = answer::<()>(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            panic!("planned")
        });
        assert_eq!(later.await.unwrap_err().errno(), libc::EIO);
        assert_eq!(answer(async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_comes_is_ended_by_the_deadline() {
        let never = answer::<()>(std::future::pending()).await;
        assert_eq!(never.unwrap_err().errno(), libc::ETIMEDOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn before_the_machine_sleeps_what_is_known_is_answered_and_the_rest_in_time() {
        let quiet: Arc<Quiet> = Arc::default();
        let start = tokio::time::Instant::now();
        let waiting = tokio::spawn({
            let quiet = Arc::clone(&quiet);
            async move { answer_of::<()>(&quiet, std::future::pending()).await }
        });
        tokio::task::yield_now().await;
        quiet.begin(Duration::from_secs(2));
        assert_eq!(quiet.settled().await, 1);
        let settled = start.elapsed();
        assert!(settled < Duration::from_secs(3), "{settled:?}");
        let is_asleep = |err: FsError| {
            assert_eq!(err.errno(), libc::ETIMEDOUT);
            matches!(err, FsError::Store(err) if err.kind() == StoreErrorKind::Asleep)
        };
        assert!(is_asleep(waiting.await.unwrap().unwrap_err()));
        assert_eq!(answer_of(&quiet, async { Ok(5) }).await.unwrap(), 5);
        // Nothing that has to be asked for is waited for from then on.
        let late = answer_of::<()>(&quiet, std::future::pending()).await;
        assert!(is_asleep(late.unwrap_err()));
        assert_eq!(start.elapsed(), settled);
    }

    #[test]
    fn deadlines_stay_below_the_kernels() {
        assert_eq!(Deadlines::below(None).read, Duration::from_secs(60));
        let tight = Deadlines::below(Some(Duration::from_secs(30)));
        assert_eq!((tight.names, tight.read), (Duration::from_secs(15), Duration::from_secs(15)));
    }
}
