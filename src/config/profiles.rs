//! The files with profiles and keys, before anything relies on them. The SDK takes a file that it
//! cannot read for an empty one.

use std::io;
use std::path::Path;

use super::{CredentialFiles, UsageError};

/// Fails where a file is there and cannot be read. `unneeded`: credentials come from elsewhere, so
/// that a home directory which is not ours, as under `sudo -u`, does not stand in the way.
pub fn check_readable(files: &CredentialFiles, unneeded: bool) -> Result<(), UsageError> {
    for path in [&files.config_file, &files.credentials_file].into_iter().flatten() {
        match read(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied && unneeded => {}
            Err(err) => {
                return Err(UsageError(format!(
                    "the AWS configuration file {} cannot be read ({err}); check its mode and \
                     owner, or name another with AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE",
                    path.display()
                )));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<()> {
    let bytes = std::fs::read(path)?;
    match String::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(io::Error::other("it is not UTF-8")),
    }
}
