//! Checksums that come with whole objects.

use super::server::{Server, answer};
use super::*;

#[tokio::test]
async fn the_checksum_of_a_whole_object_comes_with_it_and_that_of_a_part_is_left() {
    const CHECKSUM: &str = "x-amz-checksum-crc32: y/Q5Jg==\r\nx-amz-checksum-type: FULL_OBJECT\r\n";
    let server = Server::start(|seen| match seen.header("range") {
        "" => answer(200, &format!("{ETAG}{CHECKSUM}"), "123456789"),
        _ => answer(206, &format!("{ETAG}{CHECKSUM}content-range: bytes 2-4/9\r\n"), "345"),
    })
    .await;
    let store = store(&server).await;
    let mut answer = store.get(whole("k")).await.unwrap();
    let mut checksum = answer.checksum.take().expect("sent");
    checksum.update(&bytes(answer).await.unwrap());
    checksum.finish().unwrap();
    let wrong = store.get(whole("k")).await.unwrap().checksum.expect("sent").finish();
    assert_eq!(wrong.unwrap_err().kind(), StoreErrorKind::Corrupt);
    let part = GetRequest { range: Some(2..5), ..whole("k") };
    assert!(store.get(part).await.unwrap().checksum.is_none());
    let asked: Vec<_> =
        server.seen().iter().map(|seen| seen.header("x-amz-checksum-mode").to_owned()).collect();
    assert_eq!(asked, ["ENABLED", "ENABLED", ""]);
}
