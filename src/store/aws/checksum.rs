//! The checksum that S3 keeps of an object, and sends with the whole of it when it is asked for.

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::ChecksumType;
use aws_smithy_checksums::ChecksumAlgorithm;
use aws_smithy_checksums::http::HttpChecksum;
use aws_smithy_types::base64;

use crate::error::{StoreError, StoreErrorKind};
use crate::store::Checksum;

/// The checksum of a whole object, on its way over the object's bytes.
pub(super) struct Expected {
    key: String,
    algorithm: ChecksumAlgorithm,
    value: Vec<u8>,
    so_far: Box<dyn HttpChecksum>,
}

impl Expected {
    /// What the answer to a GET without Range has of it. `None` where there is none that the bytes can be
    /// compared with: that of an object of several parts may be the checksum of their checksums
    /// (COMPOSITE, which ends in `-` and their number), and some algorithms are not known here.
    pub(super) fn of(key: &str, answer: &GetObjectOutput) -> Option<Self> {
        if matches!(answer.checksum_type(), Some(kind) if *kind != ChecksumType::FullObject) {
            return None;
        }
        // S3 keeps one of them; of several that another server sends the one that costs least.
        let sent = [
            (ChecksumAlgorithm::Crc64Nvme, answer.checksum_crc64_nvme()),
            (ChecksumAlgorithm::Crc32c, answer.checksum_crc32_c()),
            (ChecksumAlgorithm::Crc32, answer.checksum_crc32()),
            (ChecksumAlgorithm::Sha1, answer.checksum_sha1()),
            (ChecksumAlgorithm::Sha256, answer.checksum_sha256()),
        ];
        sent.into_iter().find_map(|(algorithm, text)| Self::new(key, algorithm, text?))
    }

    /// `None` where `text` is no such checksum.
    fn new(key: &str, algorithm: ChecksumAlgorithm, text: &str) -> Option<Self> {
        let so_far = algorithm.into_impl();
        let value = base64::decode(text).ok()?;
        let fits = value.len() as u64 == aws_smithy_checksums::Checksum::size(&*so_far);
        fits.then(|| Self { key: key.to_owned(), algorithm, value, so_far })
    }
}

impl Checksum for Expected {
    fn update(&mut self, bytes: &[u8]) {
        self.so_far.update(bytes);
    }

    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        if self.so_far.finalize() == self.value {
            return Ok(());
        }
        let message = format!(
            "GetObject {:?}: the bytes that came are not those that the object's checksum ({}) is of",
            self.key,
            self.algorithm.as_str()
        );
        Err(StoreError::new(StoreErrorKind::Corrupt, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> aws_sdk_s3::operation::get_object::builders::GetObjectOutputBuilder {
        GetObjectOutput::builder()
    }

    /// Of `123456789`, as the catalogs of such algorithms have it.
    #[test]
    fn each_algorithm_takes_the_right_bytes_and_no_others() {
        let cases = [
            answer().checksum_crc32("y/Q5Jg=="),
            answer().checksum_crc32_c("4waSgw=="),
            answer().checksum_crc64_nvme("rosUhgp5mIg="),
            answer().checksum_sha1("98O8HYCOBHMq32eZZczDTKeuNEE="),
            answer().checksum_sha256("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
        ];
        for case in cases {
            let answer = case.checksum_type(ChecksumType::FullObject).build();
            for (bytes, is_right) in [("123456789", true), ("123456780", false), ("", false)] {
                let mut checksum = Box::new(Expected::of("k", &answer).unwrap());
                for byte in bytes.as_bytes() {
                    checksum.update(&[*byte]);
                }
                let name = checksum.algorithm.as_str();
                match checksum.finish() {
                    Ok(()) => assert!(is_right, "{name}"),
                    Err(err) => {
                        assert!(!is_right && err.kind() == StoreErrorKind::Corrupt, "{name} {err}");
                        assert!(err.message().contains("\"k\"") && err.message().contains(name));
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_compared_is_left_out() {
        for case in [
            answer(),
            answer().checksum_crc32("y/Q5Jg==-3"),
            answer().checksum_crc32("y/Q5Jg==").checksum_type(ChecksumType::Composite),
            answer().checksum_crc32("y/Q5Jg==").checksum_type("NEW".into()),
            answer().checksum_crc32("y/Q5"),
            answer().checksum_crc32("?"),
            answer().checksum_crc32(""),
            answer().checksum_xxhash64("FeKwwqwcn9k="),
        ] {
            let answer = case.build();
            assert!(Expected::of("k", &answer).is_none(), "{answer:?}");
        }
        let several = answer().checksum_sha256("?").checksum_crc32("y/Q5Jg==").build();
        assert!(Expected::of("k", &several).is_some());
    }
}
