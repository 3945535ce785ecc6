//! Objects that change under a mount, and how a mount begins: credentials, region, bucket.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use super::checks::{Check, bytes, has_names, is_missing, read};
use super::ground::{Failed, Ground, Outcome, Plot, fail, must};
use crate::support::mounted::{Mounted, wait_until};

const MIB: usize = 1 << 20;

/// Large enough that an open does not bring it whole.
const SIZE: usize = 6 * MIB;

pub(super) fn add(checks: &mut Vec<Check>) {
    checks.push(Check::new("a replaced object is noticed", "replaced", |plot| {
        plot.put("f", "first")?;
        must(read(&plot.fresh("f"))? == b"first", "wrong bytes at first")?;
        // Of the same size and perhaps in the same second: only the ETag tells.
        plot.put("f", "other")?;
        must(read(&plot.fresh("f"))? == b"other", "the old bytes")?;
        plot.put("f", "longer than before")?;
        must(read(&plot.fresh("f"))? == b"longer than before", "the old bytes or size")
    }));
    checks.push(Check::new("versions are never mixed", "mixed", |plot| {
        plot.put("f", vec![b'a'; SIZE])?;
        let file = File::open(plot.fresh("f"))?;
        file.read_exact_at(&mut [0; 4_096], 0)?;
        plot.put("f", vec![b'b'; SIZE])?;
        let n_stale = read_backwards(&file, b'a')?;
        must(n_stale > 0, "no read of the replaced object failed: it was not asked for")?;
        let after = read(&plot.fresh("f"))?;
        must(after.iter().all(|byte| *byte == b'b'), "the next open has old bytes")
    }));
    checks.push(Check::new("a deleted object is gone", "deleted", |plot| {
        plot.put("f", "f")?;
        plot.put("other", "other")?;
        must(read(&plot.fresh("f"))? == b"f", "wrong bytes")?;
        plot.delete("f")?;
        let gone = fs::read(plot.fresh("f")).err().and_then(|err| err.raw_os_error());
        must(gone == Some(libc::ENOENT), format!("errno {gone:?} at the next open"))?;
        let gone = wait_until(|| is_missing(&plot.fresh("f")).is_ok());
        must(gone, "it is still shown")?;
        has_names(&plot.fresh(""), ["other"])
    }));
    checks.push(Check::new("a new object is found", "new", |plot| {
        plot.put("other", "other")?;
        is_missing(&plot.fresh("f"))?;
        plot.put("f", "f")?;
        must(wait_until(|| plot.fresh("f").exists()), "it is not shown")?;
        must(read(&plot.fresh("f"))? == b"f", "wrong bytes")
    }));
    checks.push(Check::new("a versioned bucket keeps old bytes", "versions", keeps_old_bytes));
    starts(checks);
}

fn starts(checks: &mut Vec<Check>) {
    checks.push(Check::new("no such bucket ends with 5", "start", |plot| {
        let bucket = format!("{}-absent", plot.ground.bucket);
        ends_with(5, &bucket, plot.ground.mount_with(&bucket, &[], &[]))
    }));
    checks.push(Check::new("a wrong secret ends with 4", "start", |plot| {
        let Ground { bucket, .. } = plot.ground;
        let wrong = [("AWS_SECRET_ACCESS_KEY", "wrong-wrong-wrong-wrong-wrong-wrong-wron")];
        ends_with(4, "secret", plot.ground.mount_with(bucket, &[], &wrong))
    }));
    checks.push(Check::new("an unknown access key ends with 4", "start", |plot| {
        let Ground { bucket, .. } = plot.ground;
        let wrong = [("AWS_ACCESS_KEY_ID", "AKIAUNKNOWNUNKNOWN00")];
        ends_with(4, "does not know the access key", plot.ground.mount_with(bucket, &[], &wrong))
    }));
    checks.push(Check::new("the region is found", "region", |plot| {
        plot.put("f", "f")?;
        let other = match plot.ground.server.region.as_str() {
            "eu-central-1" => "us-west-2",
            _ => "eu-central-1",
        };
        let source = format!("{}/{}", plot.ground.bucket, plot.key(""));
        let mounted = mounts(plot.ground.mount_with(&source, &[], &[("AWS_REGION", other)]))?;
        must(read(&mounted.join("f"))? == b"f", "wrong bytes")
    }));
    checks.push(Check::new("a prefix that does not exist is empty", "absent", |plot| {
        let mounted = plot.mount("nothing/here", &[])?;
        has_names(&mounted.path(), [])?;
        is_missing(&mounted.join("f"))
    }));
    checks.push(Check::new("a private bucket refuses anonymous requests", "start", |plot| {
        let bucket = plot.ground.own_bucket("private")?;
        ends_with(4, &bucket, plot.ground.mount_with(&bucket, &["--no-sign-request"], &[]))
    }));
    checks.push(Check::new("a public bucket needs no credentials", "start", |plot| {
        let bucket = plot.ground.own_bucket("public")?;
        plot.ground.make_public(&bucket)?;
        plot.ground.put(&bucket, "d/f", "public")?;
        let none = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
        let mounted = mounts(plot.ground.mount_with(&bucket, &["--no-sign-request"], &none))?;
        has_names(&mounted.path(), ["d"])?;
        must(read(&mounted.join("d/f"))? == b"public", "wrong bytes")?;
        is_missing(&mounted.join("absent"))
    }));
}

fn keeps_old_bytes(plot: &Plot<'_>) -> Outcome {
    let ground = plot.ground;
    let bucket = match ground.own_bucket("versioned") {
        Ok(bucket) => {
            ground.keep_versions(&bucket)?;
            bucket
        }
        // The one that we were given may be just that.
        Err(_) if ground.keeps_versions(&ground.bucket) => ground.bucket.clone(),
        Err(Failed::NotTried(_)) => {
            return Err(Failed::NotTried("the bucket given keeps no versions"));
        }
        Err(failed) => return Err(failed),
    };
    let key = plot.key("f");
    ground.put(&bucket, &key, vec![b'a'; SIZE])?;
    let source = format!("{bucket}/{}", plot.key(""));
    let mounted = mounts(ground.mount_with(&source, &["--open-ttl", "0"], &[]))?;
    let file = File::open(mounted.join("f"))?;
    ground.put(&bucket, &key, bytes("versioned", SIZE))?;
    let n_stale = read_backwards(&file, b'a')?;
    must(n_stale == 0, "the old bytes could not be had")?;
    must(read(&mounted.join("f"))? == bytes("versioned", SIZE), "the next open has old bytes")
}

/// Reads all MiBs, the last first, each of which is of `old` bytes or ESTALE. Returns how many were
/// the latter.
fn read_backwards(file: &File, old: u8) -> Outcome<usize> {
    let mut n_stale = 0;
    let mut chunk = vec![0; MIB];
    for at in (0..SIZE / MIB).rev() {
        match file.read_exact_at(&mut chunk, (at * MIB) as u64) {
            Ok(()) => must(chunk.iter().all(|byte| *byte == old), format!("mixed at {at} MiB"))?,
            Err(err) if is_stale(&err) => n_stale += 1,
            Err(err) => return fail(format!("{err}, not ESTALE, at {at} MiB")),
        }
    }
    Ok(n_stale)
}

fn is_stale(err: &io::Error) -> bool {
    err.raw_os_error() == Some(libc::ESTALE)
}

fn mounts(started: Result<Mounted, crate::support::mounted::Ended>) -> Outcome<Mounted> {
    started.or_else(|ended| fail(format!("exit code {:?}: {}", ended.code, ended.log.trim())))
}

/// With this exit code, and a sentence that has this word.
fn ends_with(
    code: i32,
    word: &str,
    started: Result<Mounted, crate::support::mounted::Ended>,
) -> Outcome {
    match started {
        Ok(_) => fail("it is mounted"),
        Err(ended) if ended.code == Some(code) && ended.log.contains(word) => Ok(()),
        Err(ended) => fail(format!("exit code {:?}: {}", ended.code, ended.log.trim())),
    }
}
