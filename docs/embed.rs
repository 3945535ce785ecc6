//! Mounts a bucket from within a program: `cargo run --example embed -- BUCKET DIR KEY`.
//!
//! It mounts, reads one file, reacts to two kinds of failure, and unmounts.

use std::io::{self, Write};
use std::process::ExitCode;

use s3mount::{Mount, StartErrorKind};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [bucket, dir, key] = &words[..] else {
        return complain("usage: embed BUCKET DIR KEY", 2);
    };
    let started = Mount::builder(bucket, dir)
        .memory(64 << 20)
        .on_warning(|sentence| {
            complain(sentence, 0);
        })
        .start();
    let mut mount = match started {
        Ok(mount) => mount,
        // What a program may know how to mend, it tells apart by kind.
        Err(err) if err.kind() == StartErrorKind::NotFound => {
            return complain(&format!("create the bucket {bucket} first: {err}"), 5);
        }
        Err(err) if err.kind() == StartErrorKind::MountPoint => {
            return complain(&format!("choose another directory: {err}"), 7);
        }
        Err(err) => return complain(&err.to_string(), err.exit_code()),
    };

    let copied = std::fs::File::open(mount.dir().join(key))
        .and_then(|mut file| io::copy(&mut file, &mut io::stdout()));
    let ended = mount.unmount().map_err(io::Error::other).and_then(|()| mount.wait());
    match copied.and(ended) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => complain(&format!("{key}: {err}"), 1),
    }
}

fn complain(sentence: &str, exit_code: u8) -> ExitCode {
    // Nobody is left to be told where even this fails.
    let _ = writeln!(io::stderr(), "embed: {sentence}");
    ExitCode::from(exit_code)
}
