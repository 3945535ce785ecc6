//! [`AwsStore`] against a server of canned answers: what it sends, and what it makes of what comes
//! back. Real sockets, real time; nothing here measures it.

mod checksum;
mod connections;
mod quirks;
mod server;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_credential_types::Credentials;
use aws_credential_types::credential_fn::provide_credentials_fn;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use bytes::Bytes;
use futures_util::TryStreamExt;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use self::server::{CUT, Seen, Server, answer};
use super::*;
use crate::metrics::Metrics;
use crate::object::{ETag, Version};
use crate::store::credentials::BuildChain;
use crate::store::limit::LimitConfig;
use crate::store::reach::Reach;
use crate::store::stack::wrap;
use crate::store::{Condition, Priority};

/// As S3 words an error.
fn refusal(status: u16, headers: &str, code: &str, more: &str) -> Option<Vec<u8>> {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said by S3</Message>{more}\
         </Error>"
    );
    answer(status, &format!("x-amz-request-id: R1\r\n{headers}"), &body)
}

fn listing(keys: &str) -> Option<Vec<u8>> {
    answer(
        200,
        "",
        &format!(
            "<?xml version=\"1.0\"?><ListBucketResult><EncodingType>url</EncodingType>\
             <IsTruncated>false</IsTruncated>{keys}</ListBucketResult>"
        ),
    )
}

const ETAG: &str = "etag: \"e\"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n";

fn config(endpoint: &str) -> BucketConfig {
    BucketConfig {
        bucket: "bucket".to_owned(),
        endpoint_url: Some(endpoint.to_owned()),
        sign_requests: true,
        ..BucketConfig::default()
    }
}

/// Keys `KEY1`, `KEY2` and so on, one for each time that the chain is built.
fn keys() -> ReloadingCredentials {
    let n_built = AtomicUsize::new(0);
    let chain: BuildChain = Box::new(move || {
        let id = format!("KEY{}", n_built.fetch_add(1, Ordering::Relaxed) + 1);
        let keys = Credentials::new(id, "SECRET", None, None, "test");
        async move { SharedCredentialsProvider::new(keys) }.boxed()
    });
    ReloadingCredentials::new(chain, Vec::new())
}

async fn open(config: &BucketConfig) -> AwsStore {
    open_with(config, Arc::default()).await
}

async fn open_with(config: &BucketConfig, reach: Arc<Reach>) -> AwsStore {
    let tls = connect::tls_context(config.ca_bundle.as_deref()).unwrap();
    let keys = config.sign_requests.then(keys);
    let setup = connect::assemble(config, tls, "us-east-1".to_owned(), keys).await.unwrap();
    AwsStore::new(config, setup, reach)
}

async fn store(server: &Server) -> AwsStore {
    open(&config(&format!("http://{}", server.address))).await
}

fn whole(key: &str) -> GetRequest {
    GetRequest {
        key: key.into(),
        range: None,
        condition: Condition::Any,
        priority: Priority::Demand,
    }
}

async fn bytes(answer: GetAnswer) -> Result<Vec<u8>, StoreError> {
    let chunks: Vec<Bytes> = answer.body.try_collect().await?;
    Ok(chunks.concat())
}

#[tokio::test]
async fn a_refusal_tells_kind_code_request_and_the_action_that_is_missing() {
    let server = Server::start(|_| refusal(403, "", "AccessDenied", "")).await;
    let store = store(&server).await;
    let err = store.list(ListRequest::directory("p/")).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::Denied);
    assert_eq!(
        err.to_string(),
        "ListObjectsV2 \"p/\": denied; it needs s3:ListBucket on arn:aws:s3:::bucket: said by S3 \
         (HTTP 403, AccessDenied, request R1)"
    );
    let err = store.get(whole("k")).await.map(drop).unwrap_err();
    assert!(err.message().contains("s3:GetObject"), "{err}");
    let old = GetRequest { condition: Condition::VersionId("v".into()), ..whole("k") };
    let err = store.get(old).await.map(drop).unwrap_err();
    assert!(err.message().contains("s3:GetObjectVersion"), "{err}");
}

#[tokio::test]
async fn kinds_come_from_status_where_there_is_no_document() {
    for (status, kind) in [
        (404, StoreErrorKind::NotFound),
        (403, StoreErrorKind::Denied),
        (503, StoreErrorKind::Throttled),
    ] {
        let server = Server::start(move |_| answer(status, "", "")).await;
        let err = store(&server).await.head("k").await.unwrap_err();
        assert_eq!((err.kind(), err.status()), (kind, Some(status)), "{err}");
        let err = store(&server).await.get(whole("k")).await.map(drop).unwrap_err();
        assert_eq!(err.kind(), kind, "{err}");
    }
    let tag = ETag::new("e");
    for (status, kind, range, condition) in [
        (304, StoreErrorKind::NotModified, None, Condition::NoneMatch(tag.clone())),
        (412, StoreErrorKind::Changed, None, Condition::Match(tag)),
        (416, StoreErrorKind::OutOfRange, Some(5..6), Condition::Any),
    ] {
        let server = Server::start(move |_| answer(status, "", "")).await;
        let asked = GetRequest { range, condition, ..whole("k") };
        let err = store(&server).await.get(asked).await.map(drop).unwrap_err();
        assert_eq!((err.kind(), err.status()), (kind, Some(status)), "{err}");
        let err = store(&server).await.get(whole("k")).await.map(drop).unwrap_err();
        assert_eq!(err.kind(), StoreErrorKind::Corrupt, "nobody asked: {err}");
    }
    let proxy = Server::start(|_| answer(502, "", "<html><body>Bad gateway</body>")).await;
    let err = store(&proxy).await.list(ListRequest::directory("")).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::Throttled, "{err}");
}

#[tokio::test]
async fn a_listing_is_asked_encoded_and_comes_decoded() {
    let server = Server::start(|_| {
        listing(
            "<Contents><Key>p/a%2Bb+c%C3%A4</Key><Size>7</Size><ETag>&quot;e&quot;</ETag>\
             <LastModified>2015-10-21T07:28:00.000Z</LastModified></Contents>\
             <CommonPrefixes><Prefix>p/d+d/</Prefix></CommonPrefixes>",
        )
    })
    .await;
    let config = BucketConfig {
        requester_pays: true,
        expected_bucket_owner: Some("111122223333".to_owned()),
        ..config(&format!("http://{}", server.address))
    };
    let request =
        ListRequest { start_after: Some("p/ +".to_owned()), ..ListRequest::directory("p/") };
    let page = open(&config).await.list(request).await.unwrap();
    assert_eq!(&*page.objects[0].key, "p/a+b c\u{e4}");
    let version = Version { etag: Some(ETag::new("e")), size: 7, modified: 1_445_412_480 };
    assert_eq!(page.objects[0].version, version);
    assert_eq!(page.prefixes, ["p/d d/"]);
    let seen = &server.seen()[0];
    assert!(seen.line.starts_with("GET /bucket/?list-type=2"), "path style: {}", seen.line);
    for parameter in [
        "encoding-type=url",
        "delimiter=%2F",
        "prefix=p%2F",
        "start-after=p%2F%20%2B",
        "max-keys=1000",
    ] {
        assert!(seen.line.contains(parameter), "{parameter} in {}", seen.line);
    }
    assert_eq!(seen.header("x-amz-request-payer"), "requester");
    assert_eq!(seen.header("x-amz-expected-bucket-owner"), "111122223333");
    assert!(seen.header("user-agent").contains("app/s3mount"), "{seen:?}");
}

#[tokio::test]
async fn a_ranged_get_is_pinned_and_asks_for_no_checksum() {
    let server = Server::start(|_| {
        answer(
            206,
            &format!("{ETAG}content-range: bytes 2-4/10\r\nx-amz-version-id: v1\r\n"),
            "cde",
        )
    })
    .await;
    let request = GetRequest {
        key: "a b/\u{e4}".into(),
        range: Some(2..5),
        condition: Condition::Match(ETag::new("e")),
        priority: Priority::Demand,
    };
    let answer = store(&server).await.get(request).await.unwrap();
    assert_eq!(answer.range, 2..5);
    let version = Version { etag: Some(ETag::new("e")), size: 10, modified: 1_445_412_480 };
    assert_eq!(answer.head, Head { version, version_id: Some("v1".into()) });
    assert_eq!(bytes(answer).await.unwrap(), b"cde");
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "GET /bucket/a%20b/%C3%A4?x-id=GetObject");
    assert_eq!((seen.header("range"), seen.header("if-match")), ("bytes=2-4", "\"e\""));
    assert_eq!(seen.header("x-amz-checksum-mode"), "");
    assert!(seen.header("authorization").contains("Credential=KEY1/"));
}

#[tokio::test]
async fn a_whole_object_is_asked_without_a_range_also_an_empty_one() {
    let server = Server::start(|_| answer(200, ETAG, "")).await;
    let answer = store(&server).await.get(whole("k")).await.unwrap();
    assert_eq!((answer.range.clone(), answer.head.version.size), (0..0, 0));
    assert_eq!(bytes(answer).await.unwrap(), b"");
    assert_eq!(server.seen()[0].header("range"), "");
}

#[tokio::test]
async fn an_answer_that_was_not_asked_for_is_refused() {
    let cases: [(&str, Condition, StoreErrorKind); 4] = [
        ("content-range: bytes 3-5/10\r\n", Condition::Any, StoreErrorKind::Corrupt),
        ("", Condition::Any, StoreErrorKind::Corrupt),
        (
            "content-range: bytes 2-4/10\r\n",
            Condition::Match(ETag::new("other")),
            StoreErrorKind::Changed,
        ),
        (
            "content-range: bytes 2-4/10\r\n",
            Condition::NoneMatch(ETag::new("e")),
            StoreErrorKind::NotModified,
        ),
    ];
    for (range, condition, kind) in cases {
        let headers = format!("{ETAG}{range}");
        let server = Server::start(move |_| answer(206, &headers, "cde")).await;
        let request = GetRequest {
            key: "k".into(),
            range: Some(2..5),
            condition,
            priority: Priority::Demand,
        };
        let err = store(&server).await.get(request).await.map(drop).unwrap_err();
        assert_eq!(err.kind(), kind, "{err}");
    }
}

#[tokio::test]
async fn metadata_that_is_not_utf8_does_not_make_an_object_unreadable() {
    let server = Server::start(|_| {
        let mut raw = b"HTTP/1.1 200 OK\r\nx-amz-meta-name: caf\xe9\r\n".to_vec();
        raw.extend_from_slice(format!("{ETAG}content-length: 2\r\n\r\nab").as_bytes());
        Some(raw)
    })
    .await;
    let answer = store(&server).await.get(whole("k")).await.unwrap();
    assert_eq!(bytes(answer).await.unwrap(), b"ab");
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_body_was_read() {
    let server = Server::start(|_| answer(200, ETAG, &"x".repeat(100_000))).await;
    let store = store(&server).await;
    for _ in 0..3 {
        let mut body = store.get(whole("k")).await.unwrap().body;
        let mut left = 100_000;
        while left > 0 {
            left -= body.try_next().await.unwrap().unwrap().len();
        }
        drop(body);
        // The client's own task takes the connection back.
        tokio::task::yield_now().await;
    }
    assert!(server.seen().iter().all(|seen| seen.connection == 0), "{:?}", server.seen());
}

#[tokio::test]
async fn a_cut_body_a_reset_and_a_503_are_invisible_through_the_wrappers() {
    let n = AtomicUsize::new(0);
    let server = Server::start(move |seen| match n.fetch_add(1, Ordering::Relaxed) {
        0 => None,
        1 => refusal(503, "", "SlowDown", ""),
        2 => {
            let head = format!("HTTP/1.1 200 OK\r\n{ETAG}content-length: 10\r\n\r\nabcd");
            Some([head.as_bytes(), CUT].concat())
        }
        _ => {
            assert_eq!((seen.header("range"), seen.header("if-match")), ("bytes=4-9", "\"e\""));
            answer(206, &format!("{ETAG}content-range: bytes 4-9/10\r\n"), "efghij")
        }
    })
    .await;
    let metrics = Arc::new(Metrics::default());
    let store = wrap(
        Arc::new(store(&server).await),
        Arc::clone(&metrics),
        LimitConfig::for_memory(u64::MAX),
        Arc::default(),
        7,
    );
    let answer = store.get(whole("k")).await.unwrap();
    assert_eq!(bytes(answer).await.unwrap(), b"abcdefghij");
    assert_eq!((metrics.n_retries(), metrics.n_resumes()), (2, 1));
    assert_eq!((metrics.n_in_flight(), metrics.bytes_received()), (0, 10));
}

#[tokio::test]
async fn a_listing_that_is_cut_is_worth_another_try() {
    let server = Server::start(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n<?xml version=\"1.0\"?><ListB";
        Some([head.as_bytes(), CUT].concat())
    })
    .await;
    let err = store(&server).await.list(ListRequest::directory("")).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::Unreachable, "{err}");
    // Also where the cut does not show in HTTP.
    let server =
        Server::start(|_| answer(200, "", "<?xml version=\"1.0\"?><ListBucketResult>")).await;
    let err = store(&server).await.list(ListRequest::directory("")).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::Unreachable, "{err}");
}

/// A server whose bucket is in eu-west-1 and which says so by `redirect`.
async fn elsewhere(redirect: fn() -> Option<Vec<u8>>) -> Server {
    Server::start(move |seen| {
        if seen.header("authorization").contains("/eu-west-1/s3/") {
            listing("")
        } else {
            redirect()
        }
    })
    .await
}

#[tokio::test]
async fn the_region_is_found_from_the_buckets_redirect_and_kept() {
    let redirects: [fn() -> Option<Vec<u8>>; 5] = [
        || refusal(301, "x-amz-bucket-region: eu-west-1\r\n", "PermanentRedirect", ""),
        || refusal(400, "", "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
        || {
            let header = "x-amz-bucket-region: eu-west-1\r\n";
            refusal(400, header, "IllegalLocationConstraintException", "")
        },
        || {
            let header = "location: https://bucket.s3.eu-west-1.amazonaws.com/\r\n";
            refusal(307, header, "TemporaryRedirect", "")
        },
        || answer(400, "x-amz-bucket-region: eu-west-1\r\n", ""),
    ];
    for redirect in redirects {
        let server = elsewhere(redirect).await;
        let store = store(&server).await;
        store.list(ListRequest::directory("")).await.unwrap();
        store.list(ListRequest::directory("")).await.unwrap();
        assert_eq!(server.seen().len(), 3, "one lesson for all requests");
    }
}

#[tokio::test]
async fn a_redirect_that_leads_nowhere_ends() {
    let server = Server::start(|_| refusal(301, "", "PermanentRedirect", "")).await;
    let err = store(&server).await.list(ListRequest::directory("")).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::WrongRegion);
    assert!(err.message().contains("--region"), "{err}");
    let region = "x-amz-bucket-region: eu-west-1\r\n";
    let server = Server::start(move |_| refusal(301, region, "PermanentRedirect", "")).await;
    let err = store(&server).await.list(ListRequest::directory("")).await.unwrap_err();
    assert_eq!((err.kind(), err.region()), (StoreErrorKind::WrongRegion, Some("eu-west-1")));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn refused_credentials_are_renewed_once_and_the_request_repeated() {
    let server = Server::start(|seen| {
        let renewed = seen.header("authorization").contains("Credential=KEY2/");
        if renewed { listing("") } else { refusal(400, "", "ExpiredToken", "") }
    })
    .await;
    let store = store(&server).await;
    // The first chain was built just now; a rebuild is allowed after 5 s.
    let err = store.list(ListRequest::directory("")).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::BadCredentials);
    store.credentials.as_ref().unwrap().pretend_old();
    store.list(ListRequest::directory("")).await.unwrap();
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_head_of_400_may_be_an_expired_token() {
    let server = Server::start(|seen| {
        let renewed = seen.header("authorization").contains("Credential=KEY2/");
        if renewed { answer(200, ETAG, "") } else { answer(400, "", "") }
    })
    .await;
    let store = store(&server).await;
    store.credentials.as_ref().unwrap().pretend_old();
    store.head("k").await.unwrap();
}

#[tokio::test]
async fn a_head_of_403_is_asked_for_its_reason_while_the_credentials_are_in_doubt() {
    let server = Server::start(|seen| {
        let head = seen.line.starts_with("HEAD");
        match (head, seen.header("authorization").contains("Credential=KEY2/")) {
            (true, true) => answer(200, ETAG, ""),
            (true, false) => answer(403, "", ""),
            (false, false) => refusal(403, "", "InvalidAccessKeyId", ""),
            (false, true) => listing(""),
        }
    })
    .await;
    let store = store(&server).await;
    store.credentials.as_ref().unwrap().pretend_old();
    store.head("k").await.unwrap();
    let methods = || {
        let seen = server.seen();
        seen.iter().map(|seen| seen.line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(methods(), ["HEAD", "GET", "HEAD"]);
}

#[tokio::test]
async fn a_head_of_403_with_good_credentials_is_a_denial() {
    let server = Server::start(|seen| match seen.line.starts_with("HEAD") {
        true => answer(403, "", ""),
        false => listing("<Contents><Key>k</Key><Size>1</Size></Contents>"),
    })
    .await;
    let store = store(&server).await;
    store.list(ListRequest::directory("")).await.unwrap();
    // The layers above ask the listing themselves, but once the store does: is a missing key 403 here?
    for n_requests in [3, 4] {
        let err = store.head("k").await.unwrap_err();
        assert_eq!((err.kind(), server.seen().len()), (StoreErrorKind::Denied, n_requests));
        assert!(err.message().contains("s3:GetObject on arn:aws:s3:::bucket/k"), "{err}");
    }
}

#[tokio::test]
async fn unsigned_requests_carry_no_signature() {
    let server = Server::start(|_| listing("")).await;
    let config =
        BucketConfig { sign_requests: false, ..config(&format!("http://{}", server.address)) };
    open(&config).await.list(ListRequest::directory("")).await.unwrap();
    assert_eq!(server.seen()[0].header("authorization"), "");
}

#[tokio::test]
async fn an_endpoint_that_refuses_or_does_not_exist_is_named_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let err = open(&config(&url)).await.list(ListRequest::directory("")).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::Unreachable);
    assert!(err.message().ends_with(&format!("can not reach {url}: connection refused")), "{err}");
    // No resolver is asked for a label of more than 63 bytes.
    let url = format!("http://{}.invalid", "a".repeat(64));
    let config = BucketConfig { force_path_style: true, ..config(&url) };
    let err = open(&config).await.list(ListRequest::directory("")).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::Unreachable);
    assert!(err.message().contains(&format!("{url}: its name is not resolved")), "{err}");
    let server = Server::start(|_| None).await;
    let err = store(&server).await.list(ListRequest::directory("")).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::Unreachable, "closed without an answer: {err}");
}

#[tokio::test]
async fn no_credentials_are_told_with_the_places_looked_in() {
    let nothing: BuildChain = Box::new(|| {
        let empty = provide_credentials_fn(|| async {
            Err(CredentialsError::not_loaded("no providers in chain provided credentials"))
        });
        async move { SharedCredentialsProvider::new(empty) }.boxed()
    });
    let keys = ReloadingCredentials::new(nothing, Vec::new());
    let config = config("http://127.0.0.1:1");
    let tls = connect::tls_context(None).unwrap();
    let result = connect::assemble(&config, tls, "us-east-1".to_owned(), Some(keys)).await;
    let err = result.map(drop).unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::NoCredentials);
    for place in ["AWS_ACCESS_KEY_ID", "~/.aws", "--no-sign-request"] {
        assert!(err.message().contains(place), "{err}");
    }
    assert!(!err.message().contains("no providers in chain"), "that says nothing to a user: {err}");
}

/// A TLS server with a certificate that nobody knows, and the file that holds it.
async fn secret_server() -> (Server, tempfile::NamedTempFile) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), made.cert.pem()).unwrap();
    let key =
        tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let tls = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    (Server::serve(Arc::new(|_: &Seen| listing("")), Some(acceptor)).await, file)
}

#[tokio::test]
async fn a_ca_bundle_is_trusted_and_an_unknown_certificate_is_told_as_such() {
    let (server, bundle) = secret_server().await;
    let with = |ca_bundle: Option<PathBuf>| BucketConfig {
        ca_bundle,
        ..config(&format!("https://{}", server.address))
    };
    let trusted = open(&with(Some(bundle.path().to_owned()))).await;
    trusted.list(ListRequest::directory("")).await.unwrap();
    let (_, other) = secret_server().await;
    let distrusted = open(&with(Some(other.path().to_owned()))).await;
    let err = distrusted.list(ListRequest::directory("")).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::Unreachable);
    assert!(
        err.message().contains("certificate") && err.message().contains("AWS_CA_BUNDLE"),
        "{err}"
    );
}

/// Takes the requests instead of a network.
#[derive(Clone, Default, Debug)]
struct Capture(Arc<Mutex<Vec<(String, String)>>>);

impl HttpConnector for Capture {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let header = request.headers().get("authorization").unwrap_or_default().to_owned();
        self.0.lock().push((request.uri().to_owned(), header));
        HttpConnectorFuture::ready(Err(ConnectorError::io("captured".into())))
    }
}

async fn captured(bucket: &str) -> (String, String) {
    let capture = Capture::default();
    let connector = SharedHttpConnector::new(capture.clone());
    let config = BucketConfig { bucket: bucket.to_owned(), endpoint_url: None, ..config("") };
    let tls = connect::tls_context(None).unwrap();
    let mut setup =
        connect::assemble(&config, tls, "us-east-1".to_owned(), Some(keys())).await.unwrap();
    setup.builder = setup.builder.http_client(http_client_fn(move |_, _| connector.clone()));
    AwsStore::new(&config, setup, Arc::default()).head("k").await.unwrap_err();
    let requests = capture.0.lock().clone();
    requests.into_iter().next().unwrap()
}

#[tokio::test]
async fn an_access_point_is_asked_at_its_own_host_in_its_own_region() {
    let (url, signature) = captured("arn:aws:s3:eu-west-1:111122223333:accesspoint/name").await;
    assert_eq!(url, "https://name-111122223333.s3-accesspoint.eu-west-1.amazonaws.com/k");
    assert!(signature.contains("/eu-west-1/s3/"), "{signature}");
    let (url, _) = captured("name-abcdef-s3alias").await;
    assert_eq!(url, "https://name-abcdef-s3alias.s3.us-east-1.amazonaws.com/k");
}

#[tokio::test]
async fn a_bucket_with_a_dot_is_asked_by_path() {
    let (url, _) = captured("my.bucket").await;
    assert_eq!(url, "https://s3.us-east-1.amazonaws.com/my.bucket/k");
}

#[tokio::test]
async fn a_key_is_asked_for_as_it_is() {
    let server = Server::start(|_| answer(200, ETAG, "")).await;
    let store = store(&server).await;
    for (key, target) in [
        ("a//b", "/bucket/a//b"),
        ("/a", "/bucket//a"),
        ("a/../b", "/bucket/a/../b"),
        ("./a", "/bucket/./a"),
        ("a+b c%", "/bucket/a%2Bb%20c%25"),
        ("d/", "/bucket/d/"),
    ] {
        store.head(key).await.unwrap();
        assert_eq!(server.seen().pop().unwrap().line, format!("HEAD {target}"));
    }
}
