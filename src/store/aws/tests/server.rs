//! An HTTP/1.1 server of canned answers, which remembers what it was asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Method and target.
    pub(super) line: String,
    headers: HashMap<String, String>,
    /// Counted from 0 in the order in which they were opened.
    pub(super) connection: usize,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Answers raw HTTP; `None` closes the connection without an answer.
pub(super) type Handler = dyn Fn(&Seen) -> Option<Vec<u8>> + Send + Sync;

#[derive(Clone)]
pub(super) struct Server {
    /// Host and port.
    pub(super) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(super) async fn start(
        handler: impl Fn(&Seen) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Arc::new(handler), None).await
    }

    pub(super) async fn serve(
        handler: Arc<Handler>,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let server = Self { address, seen };
        let this = server.clone();
        tokio::spawn(async move {
            let connections = AtomicUsize::new(0);
            while let Ok((stream, _)) = listener.accept().await {
                let connection = connections.fetch_add(1, Ordering::Relaxed);
                let (this, handler, tls) = (this.clone(), Arc::clone(&handler), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                this.talk(stream, &*handler, connection).await;
                            }
                        }
                        None => this.talk(stream, &*handler, connection).await,
                    }
                });
            }
        });
        server
    }

    async fn talk(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        handler: &Handler,
        connection: usize,
    ) {
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    break end;
                }
                match stream.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            };
            let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
            let (line, headers) = head.trim_end().split_once("\r\n").unwrap();
            let headers = headers
                .lines()
                .map(|line| line.split_once(": ").unwrap())
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let line = line.strip_suffix(" HTTP/1.1").unwrap().to_owned();
            let seen = Seen { line, headers, connection };
            self.seen.lock().push(seen.clone());
            let Some(answer) = handler(&seen) else { return };
            // A body that is shorter than its Content-Length is a cut one: the connection closes.
            let cut = answer.ends_with(CUT);
            let answer = answer.strip_suffix(CUT).unwrap_or(&answer);
            if stream.write_all(answer).await.is_err() || cut {
                return;
            }
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }
}

/// At the end of a canned answer: the connection is closed here.
pub(super) const CUT: &[u8] = b"<<cut>>";

pub(super) fn answer(status: u16, headers: &str, body: &str) -> Option<Vec<u8>> {
    let length = body.len();
    Some(
        format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}")
            .into_bytes(),
    )
}
