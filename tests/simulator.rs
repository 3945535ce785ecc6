//! What the simulator promises to the other tests, asked for with the real SDK.
//!
//! The tests block, and the simulator answers on threads of its own, as in the tests that mount.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, EncodingType};
use aws_smithy_types::retry::RetryConfig;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use crate::support::pictures;
use crate::support::simulator::bucket::{Object, Objects};
use crate::support::simulator::call::Kind;
use crate::support::simulator::content::content;
use crate::support::simulator::listing::{Query, page};
use crate::support::simulator::policy::Action;
use crate::support::simulator::shaping::{Scope, Share};
use crate::support::simulator::{Simulator, World};

const BUCKET: &str = "myfiles";

/// A simulator with one bucket, a client for it, and a runtime for the client.
struct Fixture {
    sim: Simulator,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Fixture {
    fn new() -> Self {
        let sim = Simulator::builder().bucket(BUCKET).start();
        let client = client(&sim, sim.access_key(), sim.secret_key(), "us-east-1");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for the client");
        Self { sim, client, runtime }
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The bytes of an object, or the code of the error.
    fn get(&self, key: &str) -> Result<Vec<u8>, String> {
        self.get_with(&self.client, key, |get| get)
    }

    fn get_range(&self, key: &str, range: &str) -> Result<Vec<u8>, String> {
        self.get_with(&self.client, key, |get| get.range(range))
    }

    fn get_with(
        &self,
        client: &Client,
        key: &str,
        with: impl FnOnce(Get) -> Get,
    ) -> Result<Vec<u8>, String> {
        self.wait(async {
            let sent = with(client.get_object().bucket(BUCKET).key(key)).send().await;
            let body = sent.map_err(|err| code(&err))?.body;
            let bytes = body.collect().await.map_err(|_| "body".to_owned())?;
            Ok(bytes.to_vec())
        })
    }
}

type Get = aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;

fn client(sim: &Simulator, access_key: &str, secret_key: &str, region: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(sim.endpoint())
        .region(Region::new(region.to_owned()))
        .credentials_provider(Credentials::new(access_key, secret_key, None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(RetryConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(true);
    Client::from_conf(config.build())
}

/// The code in the error document, or the status if there is none.
fn code<E: ProvideErrorMetadata>(
    err: &SdkError<E, aws_smithy_runtime_api::client::orchestrator::HttpResponse>,
) -> String {
    match (err.code(), err.raw_response()) {
        (Some(code), _) => code.to_owned(),
        (None, Some(response)) => response.status().as_u16().to_string(),
        (None, None) => "connection".to_owned(),
    }
}

/// A wrong secret, an unknown key and an unsigned request are refused, each in its way.
#[test]
fn signatures_are_verified() {
    let fixture = Fixture::new();
    fixture.sim.put(BUCKET, "a", "text");
    let get = |access_key, secret_key| {
        let client = client(&fixture.sim, access_key, secret_key, "us-east-1");
        fixture.get_with(&client, "a", |get| get)
    };
    let (access_key, secret_key) = (fixture.sim.access_key(), fixture.sim.secret_key());
    assert_eq!(get(access_key, secret_key), Ok(b"text".to_vec()));
    assert_eq!(get(access_key, "wrong"), Err("SignatureDoesNotMatch".into()));
    assert_eq!(get("unknown", secret_key), Err("InvalidAccessKeyId".into()));
    fixture.sim.expire_credentials(access_key);
    assert_eq!(get(access_key, secret_key), Err("ExpiredToken".into()));
}

/// A range is exactly its bytes, and one behind the end is refused.
#[test]
fn ranges_are_exact() {
    let fixture = Fixture::new();
    let size = 5_000_001;
    fixture.sim.put_synthetic(BUCKET, "big", size);
    assert_eq!(fixture.get("big"), Ok(content("big", size, 0..size)));
    let middle = fixture.get_range("big", "bytes=1048570-2097160");
    assert_eq!(middle, Ok(content("big", size, 1_048_570..2_097_161)));
    let end = fixture.get_range("big", "bytes=-7");
    assert_eq!(end, Ok(content("big", size, size - 7..size)));
    assert_eq!(fixture.get_range("big", "bytes=5000001-"), Err("InvalidRange".into()));
}

/// Blocks of a synthetic object differ from each other, from other keys, and after a replacement.
#[test]
fn synthetic_content_tells_every_place_apart() {
    let size = 8 << 30;
    let mut seen = BTreeSet::new();
    for key in ["a", "b"] {
        for block in (0..size).step_by(1 << 20) {
            assert!(seen.insert(content(key, size, block..block + 32)), "{key} at {block}");
        }
    }
    let fixture = Fixture::new();
    let first = fixture.sim.put_synthetic(BUCKET, "a", 100);
    let bytes = fixture.get("a");
    let second = fixture.sim.put_synthetic(BUCKET, "a", 100);
    assert_ne!(first, second);
    assert_ne!(fixture.get("a"), bytes);
}

/// If-Match with another ETag is 412, and If-None-Match with the same is 304 with the ETag.
#[test]
fn conditions_are_kept() {
    let fixture = Fixture::new();
    let etag = fixture.sim.put(BUCKET, "a", "text");
    assert_eq!(etag, "1cb251ec0d568de6a929b520c4aed8d1", "the MD5 of the content");
    let get = |with: &dyn Fn(Get) -> Get| fixture.get_with(&fixture.client, "a", with);
    assert_eq!(get(&|get| get.if_match(format!("\"{etag}\""))), Ok(b"text".to_vec()));
    assert_eq!(get(&|get| get.if_match("\"other\"")), Err("PreconditionFailed".into()));
    let unchanged: Result<_, SdkError<GetObjectError, _>> = fixture
        .wait(fixture.client.get_object().bucket(BUCKET).key("a").if_none_match(&etag).send());
    let unchanged = unchanged.expect_err("304 is no success");
    let response = unchanged.raw_response().expect("an answer");
    assert_eq!(response.status().as_u16(), 304);
    assert_eq!(response.headers().get("etag"), Some(format!("\"{etag}\"").as_str()));
}

/// HEAD says size, ETag and a date in whole seconds; a missing key has no body to explain it.
#[test]
fn head_describes_the_object() {
    let fixture = Fixture::new();
    let modified = std::time::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
    let etag = fixture.sim.put_at(BUCKET, "a b+c/\u{fc}", "text", modified);
    let head = |key: &str| fixture.client.head_object().bucket(BUCKET).key(key).send();
    let found = fixture.wait(head("a b+c/\u{fc}")).expect("the object is there");
    assert_eq!(found.content_length(), Some(4));
    assert_eq!(found.e_tag(), Some(format!("\"{etag}\"").as_str()));
    let date = found.last_modified().expect("a date");
    assert_eq!((date.secs(), date.subsec_nanos()), (1_700_000_000, 0));
    let missing = fixture.wait(head("missing")).expect_err("no such key");
    assert_eq!(missing.raw_response().map(|response| response.status().as_u16()), Some(404));
}

/// A key that may not be listed cannot be told from a missing one.
#[test]
fn missing_is_forbidden_without_list_permission() {
    let fixture = Fixture::new();
    fixture.sim.put(BUCKET, "secret/a", "text");
    assert_eq!(fixture.get("b"), Err("NoSuchKey".into()));
    fixture.sim.deny(BUCKET, Action::ListBucket, "");
    assert_eq!(fixture.get("b"), Err("AccessDenied".into()));
    assert!(fixture.get("secret/a").is_ok());
    fixture.sim.deny(BUCKET, Action::GetObject, "secret/");
    assert_eq!(fixture.get("secret/a"), Err("AccessDenied".into()));
    let listed = fixture.wait(fixture.client.list_objects_v2().bucket(BUCKET).send());
    assert_eq!(listed.map_err(|err| code(&err)).map(drop), Err("AccessDenied".into()));
}

/// A request signed for another region is redirected and told the right one.
#[test]
fn another_region_is_named() {
    let fixture = Fixture::new();
    fixture.sim.create_bucket_in("faraway", "eu-west-1");
    let sent = fixture.wait(fixture.client.head_bucket().bucket("faraway").send());
    let redirect = sent.expect_err("a redirect");
    let response = redirect.raw_response().expect("an answer");
    assert_eq!(response.status().as_u16(), 301);
    assert_eq!(response.headers().get("x-amz-bucket-region"), Some("eu-west-1"));
    let (access_key, secret_key) = (fixture.sim.access_key(), fixture.sim.secret_key());
    let right = client(&fixture.sim, access_key, secret_key, "eu-west-1");
    fixture.wait(right.head_bucket().bucket("faraway").send()).expect("the right region");
    let location = fixture.wait(fixture.client.get_bucket_location().bucket("faraway").send());
    let location = location.expect("may be asked from anywhere");
    assert_eq!(location.location_constraint().map(|region| region.as_str()), Some("eu-west-1"));
}

/// In a versioned bucket an old version stays readable by its id.
#[test]
fn versions_stay_readable() {
    let fixture = Fixture::new();
    fixture.sim.set_versioned(BUCKET, true);
    fixture.sim.put(BUCKET, "a", "old");
    let old = fixture.sim.version_id(BUCKET, "a");
    fixture.sim.put(BUCKET, "a", "new");
    let by_version = || fixture.get_with(&fixture.client, "a", |get| get.version_id(&old));
    assert_eq!(fixture.get("a"), Ok(b"new".to_vec()));
    assert_eq!(by_version(), Ok(b"old".to_vec()));
    fixture.sim.delete(BUCKET, "a");
    assert_eq!(fixture.get("a"), Err("NoSuchKey".into()));
    assert_eq!(by_version(), Ok(b"old".to_vec()));
    fixture.sim.deny(BUCKET, Action::GetObjectVersion, "");
    assert_eq!(by_version(), Err("AccessDenied".into()));
}

/// Parts become one object, with the ETag that S3 computes for them.
#[test]
fn multipart_uploads_are_assembled() {
    let fixture = Fixture::new();
    let client = &fixture.client;
    fixture.wait(async {
        let created = client.create_multipart_upload().bucket(BUCKET).key("a").send().await;
        let id = created.expect("an upload").upload_id.expect("its id");
        let mut parts = Vec::new();
        for (number, text) in [(1, "first, "), (2, "second")] {
            let body = ByteStream::from_static(text.as_bytes());
            let part = client.upload_part().bucket(BUCKET).key("a").upload_id(&id);
            let sent = part.part_number(number).body(body).send().await.expect("a part");
            let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
            parts.push(part.build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = client.complete_multipart_upload().bucket(BUCKET).key("a").upload_id(&id);
        let done = complete.multipart_upload(parts).send().await.expect("all parts");
        assert!(done.e_tag().is_some_and(|etag| etag.ends_with("-2\"")), "{:?}", done.e_tag());
    });
    assert_eq!(fixture.get("a"), Ok(b"first, second".to_vec()));
}

/// A cut body ends with an error after some of its bytes, and the next request succeeds.
#[test]
fn bodies_are_cut() {
    let fixture = Fixture::new();
    fixture.sim.put_synthetic(BUCKET, "a", 1_000_000);
    fixture.sim.shape(|shaping| shaping.cuts = Share::First(1));
    assert_eq!(fixture.get("a"), Err("body".into()));
    assert_eq!(fixture.get("a").map(|bytes| bytes.len()), Ok(1_000_000));
    let log = fixture.sim.log();
    assert_eq!([log[0].fault, log[1].fault], [Some("cut"), None]);
    assert!(0 < log[0].bytes_sent && log[0].bytes_sent < 1_000_000, "{}", log[0].bytes_sent);
}

/// Resets, silence and errors hit the requests in scope and no others.
#[test]
fn faults_hit_what_is_in_scope() {
    let fixture = Fixture::new();
    fixture.sim.put(BUCKET, "good", "text");
    fixture.sim.put(BUCKET, "bad", "text");
    let scope = Scope { kinds: vec![Kind::Get], prefix: "bad".into() };
    fixture.sim.shape(|shaping| {
        shaping.scope = scope;
        shaping.errors = Share::All;
    });
    assert_eq!(fixture.get("bad"), Err("SlowDown".into()));
    assert!(fixture.get("good").is_ok());
    fixture.sim.shape(|shaping| shaping.resets = Share::All);
    assert_eq!(fixture.get("bad"), Err("connection".into()));
    fixture.sim.shape(|shaping| {
        shaping.resets = Share::None;
        shaping.silent = Share::All;
    });
    let patience = Duration::from_millis(100);
    let get = fixture.client.get_object().bucket(BUCKET).key("bad").send();
    let answer = fixture.wait(async { tokio::time::timeout(patience, get).await });
    assert!(answer.is_err(), "answered");
    assert_eq!(fixture.sim.counts().faults, 3);
}

/// A stalled body gives its first bytes and then neither more nor an end, or not for some time.
#[test]
fn bodies_stall() {
    let fixture = Fixture::new();
    fixture.sim.put_synthetic(BUCKET, "a", 1_000_000);
    fixture.sim.shape(|shaping| shaping.stalls = Share::All);
    fixture.wait(async {
        let get = fixture.client.get_object().bucket(BUCKET).key("a").send();
        let mut body = get.await.expect("the head is sent").body;
        assert!(body.next().await.expect("a first piece").is_ok());
        let rest = async { while body.next().await.is_some() {} };
        assert!(tokio::time::timeout(Duration::from_millis(100), rest).await.is_err(), "ended");
    });
    fixture.sim.shape(|shaping| shaping.stall_for = Some(Duration::from_millis(50)));
    let start = Instant::now();
    assert_eq!(fixture.get("a").expect("the rest comes").len(), 1_000_000);
    assert!(start.elapsed() >= Duration::from_millis(50));
}

/// A reset reaches the client as one, not as an orderly end of the connection.
#[test]
fn resets_are_resets() {
    use std::io::{ErrorKind, Read, Write};
    let sim = Simulator::builder().bucket(BUCKET).start();
    sim.shape(|shaping| shaping.resets = Share::All);
    let address = sim.endpoint().replace("http://", "");
    let mut stream = std::net::TcpStream::connect(address).expect("accepted");
    write!(stream, "GET /{BUCKET}/a HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let err = stream.read(&mut [0; 16]).expect_err("reset");
    assert_eq!(err.kind(), ErrorKind::ConnectionReset);
}

/// A held answer comes when it is let go.
#[test]
fn answers_are_held() {
    let fixture = Fixture::new();
    fixture.sim.put(BUCKET, "a", "text");
    let held = fixture.sim.hold(Kind::Get, "a");
    let pause = Duration::from_millis(50);
    let begin = Instant::now();
    let get = fixture.client.get_object().bucket(BUCKET).key("a").send();
    let release = async {
        tokio::time::sleep(pause).await;
        assert_eq!(fixture.sim.log()[0].status, None, "not answered yet");
        drop(held);
    };
    let (answer, ()) = fixture.wait(async { tokio::join!(get, release) });
    answer.expect("answered");
    assert!(begin.elapsed() >= pause);
}

/// Unsigned requests are answered only in buckets that allow them.
#[test]
fn anonymous_access_is_per_bucket() {
    let fixture = Fixture::new();
    fixture.sim.put(BUCKET, "a", "text");
    let config = fixture.client.config().to_builder().allow_no_auth();
    let config = config.auth_scheme_preference(["noAuth".into()]);
    let unsigned = Client::from_conf(config.build());
    let get = || fixture.get_with(&unsigned, "a", |get| get);
    assert_eq!(get(), Err("AccessDenied".into()));
    fixture.sim.set_anonymous(BUCKET, true);
    assert_eq!(get(), Ok(b"text".to_vec()));
    assert_eq!(fixture.sim.log()[1].call.signed_region, None, "really unsigned");
}

/// A body that has begun keeps its bytes when the object is replaced in the meantime.
#[test]
fn a_body_under_way_keeps_its_bytes() {
    let fixture = Fixture::new();
    let size = 3_000_000;
    fixture.sim.put_synthetic(BUCKET, "a", size);
    let replace = |world: &World| {
        world.put(BUCKET, "a", "new");
    };
    fixture.sim.during_get("a", 1_000_000, replace);
    assert_eq!(fixture.get("a"), Ok(content("a", size, 0..size)));
    assert_eq!(fixture.get("a"), Ok(b"new".to_vec()));
}

/// A hook before the nth answer decides what that answer is.
#[test]
fn an_object_is_replaced_at_a_given_request() {
    let fixture = Fixture::new();
    fixture.sim.put(BUCKET, "a", "old");
    fixture.sim.before_nth(Kind::Get, "a", 2, |world| {
        world.put(BUCKET, "a", "new");
    });
    let read = [fixture.get("a"), fixture.get("a")];
    assert_eq!(read, [Ok(b"old".to_vec()), Ok(b"new".to_vec())]);
}

/// Latency and bandwidth are what was asked for.
#[test]
fn answers_take_their_time() {
    let fixture = Fixture::new();
    fixture.sim.put_synthetic(BUCKET, "a", 1_000_000);
    fixture.sim.shape(|shaping| {
        shaping.latency_get = Duration::from_millis(50);
        shaping.bandwidth_per_connection = Some(10_000_000);
    });
    let begin = Instant::now();
    fixture.get("a").expect("served");
    let elapsed = begin.elapsed();
    let expected = Duration::from_millis(150);
    assert!(elapsed >= expected - Duration::from_millis(10), "{elapsed:?}");
    assert!(elapsed < expected * 3, "{elapsed:?}");
}

/// A shaped line is shared by all connections in turn: two long bodies last for the sum of both, and a short
/// one is through before them.
#[test]
fn a_line_is_shared() {
    let fixture = Fixture::new();
    fixture.sim.put_synthetic(BUCKET, "long", 300_000);
    fixture.sim.put_synthetic(BUCKET, "short", 4000);
    fixture.sim.shape(|shaping| shaping.line = Some(500_000));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| fixture.get("long").expect("served"));
        }
        while fixture.sim.counts().bytes_sent == 0 {
            std::thread::yield_now();
        }
        fixture.get("short").expect("served");
        let bytes_sent = fixture.sim.counts().bytes_sent;
        assert!(bytes_sent < 604_000, "the long ones are over");
    });
    let elapsed = begin.elapsed();
    // Less what the line may catch up.
    assert!(elapsed >= Duration::from_millis(1150), "{elapsed:?}");
    let counts = fixture.sim.counts();
    assert!(counts.owed_max > 300_000 && counts.owed_max <= 604_000, "{counts:?}");
}

/// Counters and log say what was asked, and forget it when told to.
#[test]
fn requests_are_counted() {
    let fixture = Fixture::new();
    fixture.sim.put(BUCKET, "dir/a", "0123456789");
    fixture.get_range("dir/a", "bytes=2-5").expect("a range");
    fixture.get("missing").expect_err("no such key");
    let list = fixture.client.list_objects_v2().bucket(BUCKET).prefix("dir/").delimiter("/");
    fixture.wait(list.send()).expect("a page");
    let counts = fixture.sim.counts();
    assert_eq!((counts.get, counts.list, counts.requests()), (2, 1, 3));
    assert_eq!((counts.bytes_requested, counts.bytes_sent), (4, 4));
    assert_eq!((counts.client_errors, counts.connections), (1, 1));
    let log = fixture.sim.log();
    assert_eq!(log[0].call.range.as_deref(), Some("bytes=2-5"));
    assert_eq!(log[1].status, Some(404));
    assert_eq!((log[2].call.prefix(), log[2].call.delimiter()), ("dir/", Some("/")));
    fixture.sim.reset_log();
    assert_eq!(fixture.sim.counts().requests(), 0);
    assert!(fixture.sim.log().is_empty());
}

/// A client that trusts the authority is served over TLS.
#[test]
fn tls_is_served() {
    let sim = Simulator::builder().bucket(BUCKET).tls().start();
    let mut trust = aws_smithy_http_client::tls::TrustStore::empty();
    trust.add_pem_certificate(sim.ca_pem());
    let context = aws_smithy_http_client::tls::TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .expect("a trust store");
    let provider = aws_smithy_http_client::tls::Provider::Rustls(
        aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
    );
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(provider)
        .tls_context(context)
        .build_https();
    let plain = client(&sim, sim.access_key(), sim.secret_key(), "us-east-1");
    let client = Client::from_conf(plain.config().to_builder().http_client(http).build());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(client.head_bucket().bucket(BUCKET).send()).expect("trusted");
}

/// The pictures of the demo have exactly their sizes.
#[test]
fn pictures_have_their_sizes() {
    let picture = pictures::jpeg(pictures::FOREST, 160, 90, 200_000);
    assert_eq!(picture.len(), 200_000);
    assert_eq!((&picture[..2], &picture[199_998..]), (&b"\xff\xd8"[..], &b"\xff\xd9"[..]));
}

/// The items of a listing, by the definition: every key or its common prefix, once, in order.
fn model(keys: &BTreeSet<String>, prefix: &str, delimiter: &str, after: &str) -> Vec<String> {
    let items = keys.iter().filter_map(|key| {
        let rest = key.strip_prefix(prefix)?;
        Some(match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(place) => format!("{prefix}{}", &rest[..place + delimiter.len()]),
            None => key.clone(),
        })
    });
    let items: BTreeSet<String> = items.filter(|item| item.as_str() > after).collect();
    items.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// The pages of a listing, joined, are the items of the model, and all but the last are full.
    #[test]
    fn pages_join_to_the_model(
        keys in btree_set("[ab/\u{e9}-]{1,6}", 0..40),
        prefix in "[ab/]{0,2}",
        delimiter in prop_oneof!["", "/", "a", "b/", "\u{e9}"],
        after in "[ab/\u{e9}]{0,3}",
        keys_max in 1_usize..8,
    ) {
        let object = Object::synthetic("", 0, 0, std::time::UNIX_EPOCH);
        let objects: Objects =
            keys.iter().map(|key| (key.as_bytes().into(), object.clone())).collect();
        let wanted = model(&keys, &prefix, &delimiter, &after);
        let mut query = Query {
            prefix,
            delimiter: Some(delimiter).filter(|delimiter| !delimiter.is_empty()),
            after,
            keys_max,
        };
        let mut listed = Vec::new();
        loop {
            let page = page(&objects, &query);
            let mut items: Vec<String> = page.contents.iter().map(|(key, _)| (*key).to_owned()).collect();
            items.extend(page.prefixes.iter().map(|prefix| (*prefix).to_owned()));
            items.sort();
            listed.extend(items);
            let Some(next) = page.next else { break };
            prop_assert_eq!(page.n_items(), keys_max);
            query.after = next.to_owned();
        }
        prop_assert_eq!(listed, wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any keys survive the way through XML, encoded or not, and through continuation tokens.
    #[test]
    fn listings_survive_the_wire(
        names in vec("[ -~\u{e4}\u{65e5}\u{1f600}]{1,8}", 1..12),
        page_size in 1..5_i32,
        encoded in any::<bool>(),
    ) {
        let fixture = Fixture::new();
        let sizes: BTreeMap<String, usize> =
            names.iter().map(|name| (format!("dir/{name}"), name.len())).collect();
        for (key, size) in &sizes {
            fixture.sim.put(BUCKET, key, vec![7; *size]);
        }
        let listed = fixture.wait(list_all(&fixture.client, page_size, encoded));
        prop_assert_eq!(listed, sizes);
    }
}

async fn list_all(client: &Client, page_size: i32, encoded: bool) -> BTreeMap<String, usize> {
    let mut listed = BTreeMap::new();
    let mut token = None;
    loop {
        let list = client.list_objects_v2().bucket(BUCKET).prefix("dir/").max_keys(page_size);
        let list = list.set_encoding_type(encoded.then_some(EncodingType::Url));
        let page = list.set_continuation_token(token).send().await.expect("a page");
        for object in page.contents() {
            let key = object.key().expect("a key");
            let key = if encoded {
                let spaced = key.replace('+', " ");
                let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8();
                decoded.expect("UTF-8").into_owned()
            } else {
                key.to_owned()
            };
            assert!(object.e_tag().is_some_and(|etag| etag.len() == 34), "{:?}", object.e_tag());
            let size = object.size().and_then(|size| usize::try_from(size).ok());
            listed.insert(key, size.expect("a size"));
        }
        token = page.next_continuation_token;
        if token.is_none() {
            return listed;
        }
    }
}
