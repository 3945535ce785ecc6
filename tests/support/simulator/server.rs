//! Connections and the way of a request through the simulator: fate, hooks, s3s, body.

use std::convert::Infallible;
use std::future::pending;
use std::net::TcpListener as StdListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Either;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Error, s3_error};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::access::{Authentication, Authorization, Hosts};
use super::body::{Pace, ShapedBody};
use super::call::Call;
use super::hooks::Due;
use super::log::Flight;
use super::quirks::Quirk;
use super::reads::Reads;
use super::shaping::{Fate, InjectedError, Outcome};
use super::writes::Writes;
use super::{World, issuer};

/// What the system keeps of an answer that is not sent yet, on a shaped line: its own choice is megabytes,
/// which the line would count as carried although the client does not read them.
const SEND_BUFFER: usize = 16 << 10;

/// Paths below this are about the simulator itself, and are not logged.
const CONTROL: &str = "/_sim/";

#[derive(Clone)]
pub(crate) struct Server {
    world: Arc<World>,
    service: S3Service,
    acceptor: Option<TlsAcceptor>,
}

/// Left: about the simulator itself. Right: S3.
type SentBody = Either<String, ShapedBody>;

/// What the requests of one connection share.
struct Connection {
    /// Given with the first request to S3, so that asking for the counts does not change them.
    number: OnceLock<u64>,
    pace: Arc<Pace>,
    /// Asks for a reset of the connection.
    reset: Notify,
}

impl Server {
    pub(crate) fn new(world: Arc<World>, acceptor: Option<TlsAcceptor>) -> Self {
        let mut builder = S3ServiceBuilder::new(Writes(Arc::clone(&world)));
        builder.set_auth(Authentication(Arc::clone(&world)));
        builder.set_access(Authorization(Arc::clone(&world)));
        builder.set_route(Reads(Arc::clone(&world)));
        builder.set_host(Hosts);
        Self { world, service: builder.build(), acceptor }
    }

    /// Accepts until the runtime is shut down.
    pub(crate) async fn run(self, listener: StdListener) {
        let listener = TcpListener::from_std(listener).expect("a socket that does not block");
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors: some connection will end.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            tokio::spawn(self.clone().connection(stream));
        }
    }

    async fn connection(self, stream: TcpStream) {
        // Otherwise a small answer waits 40 ms for the acknowledgement of its head.
        stream.set_nodelay(true).expect("a TCP socket");
        if self.world.shaper.lock().shaping().line.is_some() {
            SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER).expect("a TCP socket");
        }
        let socket = stream.as_fd().try_clone_to_owned().expect("a free file descriptor");
        match self.acceptor.clone() {
            None => self.serve(stream, socket).await,
            // A client that does not trust us is no matter of ours.
            Some(acceptor) => {
                if let Ok(stream) = acceptor.accept(stream).await {
                    self.serve(stream, socket).await;
                }
            }
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin, socket: OwnedFd) {
        let connection = Arc::new(Connection {
            number: OnceLock::new(),
            pace: Arc::default(),
            reset: Notify::new(),
        });
        let service = service_fn(|request| {
            let (server, connection) = (self.clone(), Arc::clone(&connection));
            async move { Ok::<_, Infallible>(server.answer(&connection, request).await) }
        });
        // Without a timer hyper closes no idle connection: that would be a fault nobody asked for.
        let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // An error is how cut bodies and clients that go away end.
            _ = served => (),
            () = connection.reset.notified() => {
                let socket = SockRef::from(&socket);
                socket.set_linger(Some(Duration::ZERO)).expect("a TCP socket");
            }
        }
        // Both copies of the socket are dropped here; after linger 0 that sends RST.
    }

    async fn answer(
        &self,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Response<SentBody> {
        if let Some(action) = request.uri().path().strip_prefix(CONTROL) {
            return self.control(request.method(), action).map(SentBody::Left);
        }
        let path = request.uri().path();
        if path.starts_with(issuer::STS) || path.starts_with(issuer::SSO) {
            return issuer::answer(&self.world, request).await.map(SentBody::Left);
        }
        let call = Arc::new(Call::parse(&request));
        let number = connection.number.get_or_init(|| self.world.log.connection());
        let mut flight = self.world.log.begin(Arc::clone(&call), *number);
        let fate = self.world.shaper.lock().draw(&call);
        if let Some(fault) = fate.outcome.fault() {
            flight.fault(fault);
        }
        // Even a sleep of no time waits for the next tick of the timer, up to 1 ms.
        if !fate.delay.is_zero() {
            tokio::time::sleep(fate.delay).await;
        }
        if let Some(bandwidth) = fate.line {
            self.world.line.carry_head(bandwidth).await;
        }
        match fate.outcome {
            Outcome::Reset => {
                connection.reset.notify_one();
                return pending().await;
            }
            Outcome::Silence => return pending().await,
            Outcome::Error(error) => {
                return self.finish(connection, injected(error), fate, Vec::new(), flight, &call);
            }
            Outcome::Serve | Outcome::Cut(_) | Outcome::CutAfter(_) | Outcome::Stall(_) => (),
        }
        let due = self.world.hooks.fire(&call, &self.world).await;
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(Arc::clone(&call));
        let response = match self.service.call(request).await {
            Ok(response) => response,
            Err(_) => error_response(s3_error!(InternalError)),
        };
        self.finish(connection, response, fate, due, flight, &call)
    }

    fn finish(
        &self,
        connection: &Connection,
        mut response: Response<Body>,
        fate: Fate,
        due: Vec<Due>,
        mut flight: Flight,
        call: &Call,
    ) -> Response<SentBody> {
        // HEAD has no body to explain an error, and no length of one.
        if call.method == Method::HEAD && !response.status().is_success() {
            *response.body_mut() = Body::empty();
        }
        let request_id = format!("{:016X}", flight.number());
        let request_id = HeaderValue::from_str(&request_id).expect("made of ASCII");
        response.headers_mut().insert("x-amz-request-id", request_id);
        response.headers_mut().insert("x-amz-id-2", HeaderValue::from_static("simulator"));
        response.headers_mut().insert("server", HeaderValue::from_static("AmazonS3"));
        let length = response.body().size_hint().exact().unwrap_or_default();
        flight.answered(response.status().as_u16(), length);
        let with_length = self.differ(&mut response);
        let world = Arc::clone(&self.world);
        response.map(|body| {
            let body = ShapedBody::new(body, fate, &connection.pace, due, world, flight);
            SentBody::Right(if with_length { body } else { body.without_length() })
        })
    }

    /// The quirks of the connection rather than of S3. Says whether the body's length is told.
    fn differ(&self, response: &mut Response<Body>) -> bool {
        let quirks = self.world.quirks();
        if quirks.has(Quirk::Http10) {
            *response.version_mut() = Version::HTTP_10;
        }
        if quirks.has(Quirk::Http10) || quirks.has(Quirk::ClosesConnections) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let without_length = quirks.has(Quirk::NoContentLength);
        if without_length {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        !without_length
    }

    fn control(&self, method: &Method, action: &str) -> Response<String> {
        let mut response = Response::new(String::new());
        match (method.as_str(), action) {
            ("GET", "counts") => *response.body_mut() = self.world.counts().to_json().to_string(),
            ("POST", "reset") => self.world.reset_log(),
            _ => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        response
    }
}

fn injected(error: InjectedError) -> Response<Body> {
    error_response(match error {
        InjectedError::SlowDown => s3_error!(SlowDown, "Please reduce your request rate."),
        InjectedError::InternalError => {
            s3_error!(InternalError, "We encountered an internal error. Please try again.")
        }
    })
}

fn error_response(err: S3Error) -> Response<Body> {
    err.to_http_response().expect("an error document of two elements")
}
