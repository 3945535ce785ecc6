//! The checksum that S3 keeps of an object and sends with the whole of it, when it is asked for.

use aws_smithy_checksums::ChecksumAlgorithm;
use aws_smithy_types::base64;
use http::{HeaderMap, HeaderValue};

use super::content::Content;

/// Which one an object has. S3 gives CRC64NVME to what is uploaded without any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Checksum {
    Whole(ChecksumAlgorithm),
    /// Of the checksums of so many parts.
    Composite(ChecksumAlgorithm, u32),
    /// Of other bytes: what is kept is broken.
    Wrong(ChecksumAlgorithm),
    None,
}

impl Checksum {
    /// The headers for an object of this content.
    pub(crate) fn headers(self, content: &Content) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let (algorithm, kind, suffix) = match self {
            Self::None => return headers,
            Self::Whole(algorithm) | Self::Wrong(algorithm) => {
                (algorithm, "FULL_OBJECT", String::new())
            }
            Self::Composite(algorithm, n_parts) => (algorithm, "COMPOSITE", format!("-{n_parts}")),
        };
        let mut checksum = algorithm.into_impl();
        let mut position = 0;
        while position < content.size() {
            let slice = content.slice(position, content.size());
            position += slice.len() as u64;
            checksum.update(&slice);
        }
        if !matches!(self, Self::Whole(_)) {
            checksum.update(b"other");
        }
        let name = checksum.header_name();
        let value = base64::encode(checksum.finalize()) + &suffix;
        headers.insert(name, HeaderValue::from_str(&value).expect("made of ASCII"));
        headers.insert("x-amz-checksum-type", HeaderValue::from_static(kind));
        headers
    }
}
