//! Names as the kernel gives them, and what the bucket can hold. Pure.

use std::ffi::OsStr;

use crate::error::FsError;

/// `NAME_MAX`, linux/limits.h.
const NAME_BYTES_MAX: usize = 255;

/// The name as a part of a key. Keys are UTF-8 (S3, "Naming Amazon S3 objects"), so a name that is
/// not UTF-8 exists nowhere; no request is made for it.
pub(super) fn parse(name: &OsStr) -> Result<&str, FsError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(FsError::NameTooLong);
    }
    let name = name.to_str().ok_or(FsError::NotFound)?;
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        return Err(FsError::NotFound);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_name_that_cannot_be_a_key_is_answered_without_a_request() {
        let errno = |name: &'static [u8]| parse(OsStr::from_bytes(name)).map_err(|err| err.errno());
        assert_eq!(errno(b"a b+%.txt"), Ok("a b+%.txt"));
        assert_eq!(errno("\u{e9}".as_bytes()), Ok("\u{e9}"));
        assert_eq!(errno(b"\xff\xfe"), Err(libc::ENOENT));
        assert_eq!(errno(&[b'a'; 256]), Err(libc::ENAMETOOLONG));
        assert_eq!(errno(b".."), Err(libc::ENOENT));
    }
}
