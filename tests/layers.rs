//! The arrows between the layers, read from the `use` lines.

use std::fs;
use std::path::{Path, PathBuf};

/// Who may use a crate: a layer is named by the first part of its path below `src`.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("fuser::", &["fuse", "mount"]),
    ("aws_sdk_s3::", &["store/aws"]),
    ("aws_config::", &["store/aws", "store/credentials"]),
    ("aws_smithy_", &["store/aws", "store/credentials"]),
    ("aws_credential_types::", &["store/aws", "store/credentials"]),
    ("zbus::", &["mount/asleep"]),
    ("crate::fuse", &["fuse", "mount", "lib"]),
];

/// Which layers a layer must not know.
const FORBIDDEN: [(&str, &[&str]); 17] = [
    ("object", &["error", "store", "data", "tree", "fs", "fuse", "mount", "config", "control"]),
    ("store", &["data", "tree", "fs", "fuse", "mount", "control"]),
    ("data", &["tree", "fs", "fuse", "mount", "control"]),
    ("tree", &["data", "fs", "fuse", "mount", "control"]),
    ("fs", &["fuse", "mount", "control"]),
    ("fuse", &["mount", "control"]),
    // The side of the mount, and that of its clients.
    ("control/folder", &["store", "data", "tree", "fs", "fuse", "mount"]),
    ("control/server", &["store", "data", "tree", "fs", "fuse", "mount"]),
    ("control/commands", &["store", "data", "fuse", "mount"]),
    ("control/client", &["store", "data", "tree", "fs", "fuse"]),
    ("control/connection", &["store", "data", "tree", "fs", "fuse"]),
    ("control/holders", &["store", "data", "tree", "fs", "fuse"]),
    ("control/list", &["store", "data", "tree", "fs", "fuse"]),
    ("control/place", &["store", "data", "tree", "fs", "fuse"]),
    ("control/process", &["store", "data", "tree", "fs", "fuse"]),
    ("control/refresh", &["store", "data", "tree", "fs", "fuse"]),
    ("control/umount", &["store", "data", "tree", "fs", "fuse"]),
];

/// Only `fuse` and `mount` know fuser, only `store/aws` and its credentials know the AWS SDK, and
/// imports point down.
#[test]
fn arrows_point_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source) {
        let name = file.strip_prefix(&source).unwrap().with_extension("");
        let name = name.to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code: String = code.collect::<Vec<_>>().join("\n");
        for (what, who) in ALLOWED {
            let may = who.iter().any(|prefix| name.starts_with(prefix));
            assert!(may || !code.contains(what), "{name} must not know {what}");
        }
        for (layer, unknown) in FORBIDDEN {
            if name == layer || name.starts_with(&format!("{layer}/")) {
                for other in unknown {
                    let path = format!("crate::{other}::");
                    assert!(!code.contains(&path), "{name} must not know {other}");
                }
            }
        }
    }
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
