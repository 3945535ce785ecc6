//! What /proc tells of the program that waits for an answer: whether it was killed meanwhile, and whether
//! it has mapped the file that it reads.
//!
//! The kernel tells of that by FUSE_INTERRUPT, which fuser answers with ENOSYS; a program in a lookup
//! or an open would then stay in state D until the answer (linux/fs/fuse/dev.c, `request_wait_answer`).
//! But its pending signals can be read in /proc, where any fatal signal is a SIGKILL
//! (linux/kernel/signal.c, `complete_signal`).

use std::time::Duration;

/// How soon a killed program is noticed: late enough to cost nothing, soon enough for a person.
const INTERVAL: Duration = Duration::from_millis(500);

/// Ready when the thread `tid` has a SIGKILL pending. Never for 0, which is a thread that this
/// process cannot see.
pub(super) async fn killed(tid: u32) {
    if tid == 0 {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(INTERVAL).await;
        // One that has gone does not wait for an answer.
        let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
        if has_kill_pending(&status) {
            return;
        }
    }
}

/// Whether the process of the thread `tid` has a mapping of inode `ino`. False for 0, and where that may not
/// be read.
pub(super) fn has_mapped(tid: u32, ino: u64) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{tid}/maps")).unwrap_or_default();
    // proc_pid_maps(5): address, permissions, offset, device, inode, path.
    maps.lines().any(|line| line.split_ascii_whitespace().nth(4) == Some(&ino.to_string()))
}

/// Reads `SigPnd` and `ShdPnd` of proc_pid_status(5).
fn has_kill_pending(status: &str) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let masks = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & KILL != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_kill_is_seen_in_either_mask() {
        let status =
            |own: &str, shared: &str| format!("Name:\tx\nSigPnd:\t{own}\nShdPnd:\t{shared}\n");
        assert!(has_kill_pending(&status("0000000000000100", "0000000000000000")));
        assert!(has_kill_pending(&status("0000000000000000", "0000000000004100")));
        assert!(!has_kill_pending(&status("0000000000004000", "0000000000000200")));
        assert!(!has_kill_pending(""));
    }

    #[tokio::test(start_paused = true)]
    async fn who_lives_or_cannot_be_seen_is_not_killed() {
        for tid in [0, std::process::id(), u32::MAX] {
            let wait = tokio::time::timeout(Duration::from_secs(60), killed(tid)).await;
            assert!(wait.is_err(), "{tid}");
        }
    }
}
