//! Where temporary credentials come from: as much of STS and of SSO's portal as credential providers
//! ask. They are addressed by paths of their own on the simulator's port.
//!
//! The signature of AssumeRole is not verified, only that its access key is known.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::json;

use super::World;
use super::call::{pairs, text};
use super::dates;

/// `AWS_ENDPOINT_URL_STS` is this below the simulator's address.
pub(crate) const STS: &str = "/_sts";
/// `AWS_ENDPOINT_URL_SSO` is this below the simulator's address.
pub(crate) const SSO: &str = "/_sso";

/// What was asked of the issuer, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// `AssumeRoleWithWebIdentity`, `AssumeRole` or `GetRoleCredentials`.
    pub(crate) call: &'static str,
    /// The web identity token, the source's access key, or the token of SSO.
    pub(crate) token: String,
    pub(crate) granted: bool,
}

pub(crate) struct Issuer {
    inner: Mutex<Inner>,
}

struct Inner {
    tokens: Vec<String>,
    life: Duration,
    n_issued: u64,
    asked: Vec<Asked>,
}

/// What a client is given.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) token: String,
    pub(crate) ends: SystemTime,
}

impl Default for Issuer {
    fn default() -> Self {
        let life = Duration::from_secs(3600);
        let inner = Inner { tokens: Vec::new(), life, n_issued: 0, asked: Vec::new() };
        Self { inner: Mutex::new(inner) }
    }
}

impl Issuer {
    /// The web identity and SSO tokens that are honored from now on, instead of those before.
    pub(crate) fn honor(&self, tokens: &[&str]) {
        self.inner.lock().tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
    }

    /// How long what is issued from now on is good.
    pub(crate) fn set_life(&self, life: Duration) {
        self.inner.lock().life = life;
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.inner.lock().asked.clone()
    }

    /// Credentials that S3 accepts until their end.
    pub(crate) fn issue(&self, world: &World) -> Session {
        let (number, life) = {
            let mut inner = self.inner.lock();
            inner.n_issued += 1;
            (inner.n_issued, inner.life)
        };
        let session = Session {
            access_key: format!("ASIASIMULATOR{number:07}"),
            // As the real ones, of characters that need escapes in addresses and none in files.
            secret_key: format!("session/secret+{number:07}/abcdefghijklmnopqrstu"),
            token: format!("IQoJb3JpZ2luX2VjE+{number:07}/session/token+with/a+length//8=="),
            ends: SystemTime::now() + life,
        };
        world.add_session(&session);
        session
    }

    fn note(&self, call: &'static str, token: &str, granted: bool) -> bool {
        self.inner.lock().asked.push(Asked { call, token: token.to_owned(), granted });
        granted
    }

    fn honors(&self, token: &str) -> bool {
        self.inner.lock().tokens.iter().any(|known| known == token)
    }
}

/// The answer to a request below [`STS`] or [`SSO`].
pub(crate) async fn answer(world: &Arc<World>, request: Request<Incoming>) -> Response<String> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body);
    match (head.method, head.uri.path().starts_with(STS)) {
        (Method::POST, true) => sts(world, &head.headers, &body),
        (Method::GET, false) => sso(world, &head.headers),
        _ => with_status(StatusCode::NOT_FOUND, String::new()),
    }
}

fn sts(world: &World, headers: &HeaderMap, form: &str) -> Response<String> {
    let field = |wanted: &str| {
        let found = pairs(form).find(|(name, _)| name == wanted);
        found.map(|(_, value)| value).unwrap_or_default()
    };
    let issuer = &world.issuer;
    let (call, granted) = match field("Action").as_str() {
        "AssumeRoleWithWebIdentity" => {
            let token = field("WebIdentityToken");
            let call = "AssumeRoleWithWebIdentity";
            (call, issuer.note(call, &token, issuer.honors(&token)))
        }
        "AssumeRole" => {
            let header = text(headers, "authorization").unwrap_or_default();
            let scope = header.split_once("Credential=").map(|(_, rest)| rest).unwrap_or_default();
            let key = scope.split('/').next().unwrap_or_default();
            ("AssumeRole", issuer.note("AssumeRole", key, world.knows(key)))
        }
        _ => return with_status(StatusCode::BAD_REQUEST, String::new()),
    };
    if !granted {
        let error = "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code>\
                     <Message>The identity token is not valid</Message></Error></ErrorResponse>";
        return with_status(StatusCode::BAD_REQUEST, error.to_owned());
    }
    let Session { access_key, secret_key, token, ends } = issuer.issue(world);
    let ends = dates::iso(ends);
    with_status(
        StatusCode::OK,
        format!(
            "<{call}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{call}Result>\
             <Credentials><AccessKeyId>{access_key}</AccessKeyId>\
             <SecretAccessKey>{secret_key}</SecretAccessKey><SessionToken>{token}</SessionToken>\
             <Expiration>{ends}</Expiration></Credentials>\
             <AssumedRoleUser><Arn>arn:aws:sts::111122223333:assumed-role/reader/s</Arn>\
             <AssumedRoleId>AROA:s</AssumedRoleId></AssumedRoleUser></{call}Result>\
             <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{call}Response>"
        ),
    )
}

fn sso(world: &World, headers: &HeaderMap) -> Response<String> {
    let token = text(headers, "x-amz-sso_bearer_token").unwrap_or_default();
    let issuer = &world.issuer;
    if !issuer.note("GetRoleCredentials", &token, issuer.honors(&token)) {
        let body = json!({ "message": "Session token not found or invalid" }).to_string();
        let mut response = with_status(StatusCode::UNAUTHORIZED, body);
        let kind = http::HeaderValue::from_static("UnauthorizedException");
        response.headers_mut().insert("x-amzn-errortype", kind);
        return response;
    }
    let Session { access_key, secret_key, token, ends } = issuer.issue(world);
    let ends = ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() * 1000;
    let body = json!({ "roleCredentials": {
        "accessKeyId": access_key, "secretAccessKey": secret_key, "sessionToken": token,
        "expiration": ends,
    } });
    with_status(StatusCode::OK, body.to_string())
}

fn with_status(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
